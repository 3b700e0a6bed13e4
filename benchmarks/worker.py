# benchmarks/worker.py: runs one job in this process, `python -m benchmarks.worker JOB`, and prints its result as the last line.
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from .cases import Case
from .cell import run_cell
from .kernels import run_shares, run_threads
from .overhead import run_overhead

TASKS: dict[str, Callable[..., Any]] = {"cell": run_cell, "shares": run_shares, "threads": run_threads, "overhead": run_overhead}


def run(job: dict[str, Any]) -> Any:
    arguments = dict(job["arguments"])
    if "case" in arguments:
        arguments["case"] = Case(**arguments["case"])
    return TASKS[job["task"]](**arguments)


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))

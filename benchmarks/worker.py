# benchmarks/worker.py: reads jobs as lines of JSON, runs each in a fork of its own, and answers with a line.
"""The parent process imports and does nothing else, so that no job waits for imports. It starts no threads: a fork would lose them."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from .cases import Case
from .cell import run_cell
from .kernels import run_shares, run_threads
from .options import run_options
from .overhead import run_overhead

TASKS: dict[str, Callable[..., Any]] = {
    "cell": run_cell,
    "shares": run_shares,
    "threads": run_threads,
    "options": run_options,
    "overhead": run_overhead,
}


def run(job: dict[str, Any]) -> Any:
    arguments = dict(job["arguments"])
    if "case" in arguments:
        arguments["case"] = Case(**arguments["case"])
    try:
        return TASKS[job["task"]](**arguments)
    except Exception as error:  # the answer says what happened, whatever it was
        return {"failed": f"{type(error).__name__}: {error}"}


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            print(json.dumps(run(json.loads(line))), flush=True)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            print(json.dumps({"failed": f"the process ended with status {status}"}), flush=True)


if __name__ == "__main__":
    if importlib.util.find_spec("transformers"):
        importlib.import_module("transformers.models.longformer.modeling_longformer")
    serve()

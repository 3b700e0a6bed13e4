# benchmarks/ranks/launch.py: starts the ranks of a run on their network, carries their packets, and collects what they saw.
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..plan import MALLOCS
from ..session import ROOT
from .cases import Run
from .methods import payload
from .network import Network, network

Entry = dict[str, Any]
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore::FutureWarning"}  # addresses without names, and older names of torch's


def measured(run: Run, there: Network | None = None) -> list[Entry]:
    """An entry for each case of the run."""
    there = there or network(run.ranks, run.wire)
    try:
        with tempfile.TemporaryDirectory() as folder:
            of_ranks = _of_ranks(run, there, Path(folder))
    finally:
        there.close()
    return [_entry(run, there, number, of_ranks) for number in range(len(run.cases()))]


def _of_ranks(run: Run, there: Network, folder: Path) -> list[list[Entry]]:
    given = json.dumps([asdict(case) for case in run.cases()])
    workers = []
    for rank in range(run.ranks):
        environment = {"RANK": str(rank), "WORLD_SIZE": str(run.ranks), "MASTER_ADDR": there.address, "MASTER_PORT": str(there.port)}
        command = [*there.command(rank), sys.executable, "-m", "benchmarks.ranks.worker", given, str(folder / str(rank))]
        environment |= {"GLOO_SOCKET_IFNAME": there.interface, "OMP_NUM_THREADS": "1"} | QUIET | MALLOCS[run.malloc]
        workers.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | environment))
    try:
        there.carry(lambda: all(worker.poll() is not None for worker in workers))
    finally:
        for worker in workers:
            worker.kill()
    failed = [rank for rank, worker in enumerate(workers) if worker.returncode]
    if failed:
        raise RuntimeError(f"run {run.name}: ranks {failed} failed; they have said why above")
    return [json.loads((folder / str(rank)).read_text()) for rank in range(run.ranks)]


def _entry(run: Run, there: Network, number: int, of_ranks: list[list[Entry]]) -> Entry:
    """Times are alike on all ranks, being those of the slowest; bytes are those of each."""
    case = run.cases()[number]
    return {
        "run": run.name,
        "fitted": run.fitted,
        "case": asdict(case),
        "wire": asdict(run.wire),
        "loopback": there.reason,
        "malloc": run.malloc,
        "wire seen": of_ranks[0][number]["wire"],
        "agreement": max(of_rank[number]["agreement"] for of_rank in of_ranks),
        "cores": min(len(os.sched_getaffinity(0)), run.ranks),
        "seconds": of_ranks[0][number]["seconds"],
        "sent": [of_rank[number]["sent"] for of_rank in of_ranks],
        "payload": [payload(case.method, rank, case.ranks, case.local_shape, case.window, 4) for rank in range(case.ranks)],
    }

# benchmarks/session.py: runs the jobs one after another, repeats the disturbed ones, and keeps what came out.
from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .cell import DIRECTIONS
from .plan import MALLOCS, Job

ROOT = Path(__file__).resolve().parent.parent
JOB_SECONDS = 600
MOST_SPREAD, MOST_OTHERS = 0.25, 0.08  # above either a measurement counts as disturbed


class Workers:
    """One server a set of environment variables; each forks a process for every job."""

    def __init__(self) -> None:
        self._servers: dict[tuple[tuple[str, str], ...], subprocess.Popen[str]] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            self._stop(server)

    def run(self, job: Job) -> Any:
        """The job's result, or {"failed": why}."""
        key = tuple(sorted((MALLOCS[job.malloc] | job.environment).items()))
        if key not in self._servers:
            self._servers[key] = self._start(dict(key))
        server = self._servers[key]
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps({"task": job.task, "arguments": job.arguments}) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], JOB_SECONDS)[0]:
            self._stop(self._servers.pop(key))
            return {"failed": f"not done after {JOB_SECONDS} seconds"}
        answer = server.stdout.readline()
        if not answer:
            self._stop(self._servers.pop(key))
            return {"failed": "the worker could not start; what it said is above"}
        return json.loads(answer)

    def _start(self, environment: dict[str, str]) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-m", "benchmarks.worker"], subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def _stop(self, server: subprocess.Popen[str]) -> None:
        """With the job that it may be running."""
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def run_all(plan: list[Job], seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One entry a job: the job and its result. Disturbed cells are measured again, worst first, until `seconds` have passed in all."""
    with Workers() as workers:
        return _run_all(workers, plan, seconds, say)


def _run_all(workers: Workers, plan: list[Job], seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    start, entries = time.monotonic(), []
    for number, job in enumerate(plan, 1):
        entries.append(asdict(job) | {"result": workers.run(job)})
        elapsed = time.monotonic() - start
        left = elapsed / number * (len(plan) - number)
        say(f"[{number}/{len(plan)}, {elapsed / 60:.1f} min, about {left / 60:.0f} left] {job.label}: {_short(entries[-1]['result'])}")
    for entry, job in sorted(zip(entries, plan, strict=True), key=lambda pair: _disturbance(pair[0]), reverse=True):
        before = _disturbance(entry)
        if before > 1 and time.monotonic() - start < seconds:
            _take_quieter(entry, workers.run(job))
            say(f"[again] {job.label}: disturbance {before:.1f} -> {_disturbance(entry):.1f}")
    return entries


def _disturbance(entry: dict[str, Any]) -> float:
    """Of a cell: above 1 its quartiles lie too far apart, or others took too much of the machine."""
    if entry["task"] != "cell":
        return 0.0
    return max((disturbance(entry["result"][d]) for d in DIRECTIONS if d in entry["result"]), default=0.0)


def disturbance(measured: dict[str, Any]) -> float:
    return float(max(measured["spread"] / MOST_SPREAD, measured["others"] / MOST_OTHERS))


def _take_quieter(entry: dict[str, Any], again: Any) -> None:
    """A second reading replaces the first where it is less disturbed, never because it is faster."""
    for direction in DIRECTIONS:
        if direction in again and disturbance(again[direction]) < disturbance(entry["result"][direction]):
            entry["result"][direction] = again[direction]


def _short(result: Any) -> str:
    if not isinstance(result, dict):
        return f"{len(result)} rows"
    cells = [f"{result[d]['median'] * 1e3:.2f} ms {result[d]['gflops']:.0f} GFLOP/s" for d in DIRECTIONS if d in result]
    reasons = [str(result[reason]) for reason in ("failed", "unsupported") if reason in result]
    return ", ".join(cells + reasons) or "done"

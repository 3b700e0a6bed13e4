# benchmarks/session.py: runs the jobs one after another, repeats the disturbed ones, and keeps what came out.
from __future__ import annotations

import json
import os
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


def run_job(job: Job) -> Any:
    """The job's result, or {"failed": the last line of what it said}."""
    environment = os.environ | MALLOCS[job.malloc] | job.environment
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps({"task": job.task, "arguments": job.arguments})]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=JOB_SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {JOB_SECONDS} seconds"}
    if done.returncode:
        return {"failed": (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def run_all(plan: list[Job], seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One entry a job: the job and its result. Disturbed cells are measured again, worst first, until `seconds` have passed in all."""
    start, entries = time.monotonic(), []
    for number, job in enumerate(plan, 1):
        entries.append(asdict(job) | {"result": run_job(job)})
        elapsed = time.monotonic() - start
        left = elapsed / number * (len(plan) - number)
        say(f"[{number}/{len(plan)}, {elapsed / 60:.1f} min, about {left / 60:.0f} left] {job.label}: {_short(entries[-1]['result'])}")
    for entry, job in sorted(zip(entries, plan, strict=True), key=lambda pair: _disturbance(pair[0]), reverse=True):
        before = _disturbance(entry)
        if before > 1 and time.monotonic() - start < seconds:
            _repeat(entry, job)
            say(f"[again] {job.label}: disturbance {before:.1f} -> {_disturbance(entry):.1f}")
    return entries


def _disturbance(entry: dict[str, Any]) -> float:
    """Of a cell: above 1 its quartiles lie too far apart, or others took too much of the machine."""
    if entry["task"] != "cell":
        return 0.0
    return max((disturbance(entry["result"][d]) for d in DIRECTIONS if d in entry["result"]), default=0.0)


def disturbance(measured: dict[str, Any]) -> float:
    return float(max(measured["spread"] / MOST_SPREAD, measured["others"] / MOST_OTHERS))


def _repeat(entry: dict[str, Any], job: Job) -> None:
    """A second reading replaces the first where it is less disturbed, never because it is faster."""
    again = run_job(job)
    for direction in DIRECTIONS:
        if direction in again and disturbance(again[direction]) < disturbance(entry["result"][direction]):
            entry["result"][direction] = again[direction]


def _short(result: Any) -> str:
    if not isinstance(result, dict):
        return f"{len(result)} rows"
    if "failed" in result or "unsupported" in result:
        return str(result.get("failed", result.get("unsupported")))
    cells = [f"{result[d]['median'] * 1e3:.2f} ms {result[d]['gflops']:.0f} GFLOP/s" for d in DIRECTIONS if d in result]
    return ", ".join(cells) or "done"

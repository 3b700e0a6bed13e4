# benchmarks/gpu/run.py: measures the cases one after another, and writes results.json and report.md.
from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from window_matmul.testing import device as devices

from .. import machine
from ..cases import DTYPES
from ..session import ROOT
from . import report
from .cases import GpuCase, gpu_cases
from .cell import entrants, run_cell
from .device import Cuda, Device, rates


def main(quick: bool, ops: Sequence[str], patterns: Sequence[str], output: Path | None) -> int:
    where, why_not = devices.find("cuda")
    if where is None:
        print(f"nothing to measure on: {why_not}", file=sys.stderr)
        return 3
    plan = [c for c in gpu_cases(quick) if c.op in ops and (not patterns or any(pattern in str(c) for pattern in patterns))]
    if not plan:
        print(f"no case's name contains any of {', '.join(patterns)}; names look like {gpu_cases(quick)[0]}", file=sys.stderr)
        return 2
    device = Cuda(where)
    results = measure(device, plan, quick, 0.2, lambda line: print(line, flush=True))
    folder = output or ROOT / "benchmarks" / "results" / machine.folder_name(results["machine"])
    write(results, folder)
    print(report.summary(results), f"written to {folder}/report.md", sep="\n")
    return 1 if report.failures(results["entries"]) else 0


def measure(device: Device, plan: Sequence[GpuCase], quick: bool, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    start, entries = time.monotonic(), []
    found = rates(device, DTYPES)
    for number, case in enumerate(plan, 1):
        for name in entrants(case):
            entries.append(run_cell(device, case, name, seconds))
            say(f"[{number}/{len(plan)}, {(time.monotonic() - start) / 60:.1f} min] {_short(entries[-1])}")
            torch.compiler.reset()
            if device.where.type == "cuda":
                torch.cuda.empty_cache()
    return {
        "machine": device.describe(),
        "device": str(device.where),
        "quick": quick,
        "rates": found,
        "entries": entries,
        "minutes": (time.monotonic() - start) / 60,
    }


def write(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "report.md").write_text(report.render(results))


def _short(entry: dict[str, Any]) -> str:
    reason = entry.get("failed") or entry.get("unsupported")
    times = [f"{d} {entry[d]['median'] * 1e3:.3f} ms" for d in ("forward", "backward") if d in entry]
    return f"{entry['name']} {entry['competitor']}: {reason or ', '.join(times)}"

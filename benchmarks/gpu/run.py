# benchmarks/gpu/run.py: measures the cases one after another, and writes results.json and report.md.
from __future__ import annotations

import json
import math
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
from .cases import GpuCase, fused_cases, gpu_cases
from .cell import entrants, run_cell
from .device import Cuda, Device, rates

TO_BE_CONTINUED = 4


def main(quick: bool, ops: Sequence[str], patterns: Sequence[str], output: Path | None, minutes: float, resume: bool) -> int:
    where, why_not = devices.find("cuda")
    if where is None:
        print(f"nothing to measure on: {why_not}", file=sys.stderr)
        return 3
    every = fused_cases(quick) + gpu_cases(quick)
    plan = [c for c in every if c.op in ops and (not patterns or any(pattern in str(c) for pattern in patterns))]
    if not plan:
        print(f"no case's name contains any of {', '.join(patterns)}; names look like {every[0]} and {every[-1]}", file=sys.stderr)
        return 2
    device = Cuda(where)
    folder = output or ROOT / "benchmarks" / "results" / machine.folder_name(device.describe())
    earlier = taken_up(folder, device, quick) if resume else None
    results = measure(device, plan, quick, 0.2, lambda line: print(line, flush=True), earlier, minutes)
    write(results, folder)
    print(report.summary(results), f"written to {folder}/report.md", sep="\n")
    if results["left"]:
        print(f"TO BE CONTINUED: {results['left']} cells are left; go on with --resume --output {folder}")
        return TO_BE_CONTINUED
    return 1 if report.failures(results["entries"]) else 0


def taken_up(folder: Path, device: Device, quick: bool) -> dict[str, Any] | None:
    """What an earlier piece left there, unless it is of another GPU, torch or plan."""
    path = folder / "results.json"
    if not path.exists():
        return None
    earlier: dict[str, Any] = json.loads(path.read_text())
    here = device.describe()
    if earlier["quick"] != quick or any(earlier["machine"].get(name) != here[name] for name in ("processor", "torch")):
        raise SystemExit(f"{path} is of another machine, torch or plan; remove it, or give another --output")
    return earlier


def measure(
    device: Device,
    plan: Sequence[GpuCase],
    quick: bool,
    seconds: float,
    say: Callable[[str], None],
    earlier: dict[str, Any] | None = None,
    minutes: float = math.inf,
) -> dict[str, Any]:
    """Cells that `earlier` results have are not measured again; none is begun after so many minutes."""
    start, entries = time.monotonic(), earlier["entries"] if earlier else []
    found = earlier["rates"] if earlier else rates(device, DTYPES)
    known, left = {(e["name"], e["competitor"]) for e in entries}, 0
    for number, case in enumerate(plan, 1):
        for name in entrants(case):
            if (str(case), name) in known:
                continue
            if time.monotonic() - start >= 60 * minutes:
                left += 1
                continue
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
        "minutes": (time.monotonic() - start) / 60 + (earlier["minutes"] if earlier else 0.0),
        "left": left,
    }


def write(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "report.md").write_text(report.render(results))


def _short(entry: dict[str, Any]) -> str:
    reason = entry.get("failed") or entry.get("unsupported")
    times = [f"{d} {entry[d]['median'] * 1e3:.3f} ms" for d in ("forward", "backward", "step") if d in entry]
    return f"{entry['name']} {entry['competitor']}: {reason or ', '.join(times)}"

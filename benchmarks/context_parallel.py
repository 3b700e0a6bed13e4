# benchmarks/context_parallel.py: windows over ranks, by halos, by all-gather and by all-to-all: bytes, exposed time, and a model of it.
"""python -m benchmarks.context_parallel [--quick] [--run NAME] [--output DIR]

Needs root and /dev/net/tun for a network of known bandwidth and delay; without them it is the loopback device, and the report says so.
Runs that are measured take the place of the same runs in DIR/results.json; DIR/report.md is of all that are there.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from . import machine
from .ranks import report
from .ranks.cases import RUNS, quick
from .ranks.launch import measured
from .session import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short sequences: says whether it runs, not how fast")
    parser.add_argument("--run", action="append", choices=[run.name for run in RUNS], help="only this one (may be repeated)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: benchmarks/results/<date>-context-parallel-<processor>")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through `finally`: no namespace is left behind
    description = machine.describe()
    folder = given.output or ROOT / "benchmarks" / "results" / machine.folder_name(description).replace("-", "-context-parallel-", 3)
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "results.json"
    before = json.loads(stored.read_text())["entries"] if stored.exists() else []
    for run in quick() if given.quick else RUNS:
        if not given.run or run.name in given.run:
            print(f"run {run.name}: {run.ranks} ranks, {run.wire}", flush=True)
            before = [entry for entry in before if entry["run"] != run.name] + measured(run)
            results = {"machine": description, "entries": sorted(before, key=lambda entry: _place(entry["run"]))}
            stored.write_text(json.dumps(results, indent=1) + "\n")
            (folder / "report.md").write_text(report.render(results))
    print(f"written to {folder}/report.md")


def _place(name: str) -> int:
    return [run.name for run in RUNS].index(name)


if __name__ == "__main__":
    main()

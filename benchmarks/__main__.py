# benchmarks/__main__.py: the command: measures, judges, and writes results.json, report.md and pictures.
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from window_matmul.testing.__main__ import minutes

from . import machine, plots, report
from .cases import PAIR
from .compare import failures
from .gpu import run as gpu
from .plan import SECTIONS, Options, jobs
from .session import ROOT, run_all

MINUTES = {"full": 35, "quick": 3}  # until then disturbed measurements are repeated


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    if arguments.render:
        results = json.loads((arguments.render / "results.json").read_text())
        (gpu.write if "rates" in results else _write)(results, arguments.render)
        return 0
    if arguments.device == "cuda":
        ops = [op for op in arguments.op or ("fused", *PAIR) if op in ("fused", *PAIR)]
        return gpu.main(arguments.quick, ops, arguments.cases or (), arguments.output, arguments.minutes or 8.0, arguments.resume)
    options = Options(arguments.quick, tuple(arguments.op or SECTIONS), tuple(arguments.cases or ()), arguments.threads)
    description, plan = machine.describe(), jobs(options)
    if not plan:
        print(f"no case's name contains any of {', '.join(options.patterns)}; names look like window-L4096-w64-fp32-t2", file=sys.stderr)
        return 2
    start = time.monotonic()
    seconds = 60 * MINUTES["quick" if options.quick else "full"]
    entries = run_all(plan, seconds, lambda line: print(line, flush=True))
    results = {"machine": description, "quick": options.quick, "threads": options.threads, "entries": entries}
    results["minutes"] = (time.monotonic() - start) / 60
    _write(results, arguments.output or ROOT / "benchmarks" / "results" / machine.folder_name(description))
    return 1 if failures(entries) else 0


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """What would be ignored, or fail when everything has been measured."""
    if given.device == "cpu" and (given.resume or given.minutes is not None):
        parser.error(f"--{'resume' if given.resume else 'minutes'} is given without --device cuda, which alone has it")
    if given.render and not (given.render / "results.json").is_file():
        parser.error(f"--render is {given.render}; it needs to be a folder with a results.json")
    try:
        if given.output and not given.render:
            given.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output is {given.output}; it needs to be a folder that can be written: {error}")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, needs at least 1")
    return value


def _write(results: report.Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    pictures = plots.draw(results["entries"], folder)
    (folder / "report.md").write_text(report.render(results, pictures))
    print(report.summary(results["entries"]))
    print(f"written to {folder}/report.md")


def _parser() -> argparse.ArgumentParser:
    description = "Measure the operators against the machine and against others."
    parser = argparse.ArgumentParser("python -m window_matmul bench", description=description)
    cores = min(2, os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="fewer cases, one malloc: about 3 minutes instead of 35")
    parser.add_argument(
        "--op", action="append", choices=SECTIONS, help="only this part (may be repeated); fused and decode: window_attention"
    )
    parser.add_argument("--cases", action="append", metavar="TEXT", help="only cases with TEXT in the name, as L4096-w64 (may be repeated)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: fused attention and the pair on a GPU (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=minutes, help="on a GPU: after which no cell is begun (default: 8)")
    parser.add_argument("--resume", action="store_true", help="on a GPU: go on with DIR's results; exit status 4 while cells are left")
    parser.add_argument("--threads", type=positive, default=cores, help="threads, but for the one-thread part (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: benchmarks/results/<date>-<processor>")
    parser.add_argument("--render", type=Path, metavar="DIR", help="write the report of DIR/results.json anew, measure nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# scripts/check_cuda_coverage.py: fails unless the tests of the emulation execute every line of the CUDA kernels.
"""Needs GCC with gcov, and a build with tests: `cmake --workflow --preset release` makes one in build/release.

The kernels are compiled anew with counters and run by the tests of kernels, type by type; a line counts as executed if it is in any of the
types and operators it is compiled for. It takes minutes a type: with --counts the types can be run one at a time, and the last one judges.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cuda_emulation import ROOT, TYPES, link_tests, tests_of_kernels

FOLDER = "src/cuda/kernels/"


Counts = dict[str, dict[str, int]]  # how often each line of each file with kernels was executed


def add_executions(counts: Counts, kind: str, build: Path, gcov: str, jobs: int) -> None:
    """Of the kernels of this type."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = link_tests(build, ROOT, folder, ["-O1", "--coverage"], (kind,), jobs)
        subprocess.run([program, f"--gtest_filter={tests_of_kernels(kind)}", "--gtest_brief=1"], check=True)
        subprocess.run([gcov, "--json-format", *folder.glob("*.gcda")], check=True, capture_output=True, cwd=folder)
        for report in folder.glob("*.gcov.json.gz"):
            for file in json.loads(gzip.decompress(report.read_bytes()))["files"]:
                if FOLDER in file["file"]:
                    lines = counts.setdefault(file["file"].split(FOLDER)[-1], {})
                    for line in file["lines"]:
                        at = str(line["line_number"])
                        lines[at] = lines.get(at, 0) + line["count"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--gcov", default="gcov")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES, help="(default: all)")
    parser.add_argument("--counts", type=Path, help="a file that holds the counts of types run before, and is given those of these")
    arguments = parser.parse_args()
    counts: Counts = json.loads(arguments.counts.read_text()) if arguments.counts and arguments.counts.exists() else {}
    for kind in arguments.types:
        add_executions(counts, kind, arguments.build, arguments.gcov, arguments.jobs)
    if arguments.counts:
        arguments.counts.write_text(json.dumps(counts))
    missed = 0
    for file, lines in sorted(counts.items()):
        never = sorted(int(line) for line, count in lines.items() if count == 0)
        missed += len(never)
        print(f"{FOLDER}{file}: {len(lines) - len(never)} of {len(lines)} lines" + (f"; never: {never}" if never else ""))
    if missed or not counts:
        print(f"{missed} lines of the kernels are never executed" if counts else "no line of the kernels was counted")
    return 1 if missed or not counts else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# scripts/check_cuda_coverage.py: fails unless the tests of the emulation execute every line of the CUDA kernels.
"""Needs GCC with gcov, and a build with tests: `cmake --workflow --preset release` makes one in build/release.

The kernels are compiled anew with counters and run by the tests of kernels; a line counts as executed if it is in any of the types
and operators it is compiled for.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from cuda_emulation import KERNELS, ROOT, link_tests

FOLDER = "src/cuda/kernels/"


def executions(folder: Path, gcov: str) -> dict[str, dict[int, int]]:
    """How often each line of each file with kernels was executed."""
    subprocess.run([gcov, "--json-format", *folder.glob("*.gcda")], check=True, capture_output=True, cwd=folder)
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for report in folder.glob("*.gcov.json.gz"):
        for file in json.loads(gzip.decompress(report.read_bytes()))["files"]:
            if FOLDER in file["file"]:
                for line in file["lines"]:
                    counts[file["file"].split("/")[-1]][line["line_number"]] += line["count"]
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--gcov", default="gcov")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = link_tests(arguments.build, ROOT, folder, ["-O1", "--coverage"], jobs=arguments.jobs)
        subprocess.run([program, f"--gtest_filter={KERNELS}", "--gtest_brief=1"], check=True)
        counts = executions(folder, arguments.gcov)
    missed = 0
    for file, lines in sorted(counts.items()):
        never = sorted(line for line, count in lines.items() if count == 0)
        missed += len(never)
        print(f"{FOLDER}{file}: {len(lines) - len(never)} of {len(lines)} lines" + (f"; never: {never}" if never else ""))
    if missed or not counts:
        print(f"{missed} lines of the kernels are never executed" if counts else "no line of the kernels was counted")
    return 1 if missed or not counts else 0


if __name__ == "__main__":
    sys.exit(main())

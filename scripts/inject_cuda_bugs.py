#!/usr/bin/env python3
# scripts/inject_cuda_bugs.py: puts bugs into the CUDA kernels, one at a time, and fails unless the emulation's tests find each.
"""Needs a build with tests: `cmake --workflow --preset release` makes one in build/release.

Only the file with the kernels is compiled anew, from a copy of the sources with one text replaced; the rest is linked from the build.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OUT, IN, LOAD, PRODUCT, STORE, LAUNCH = (
    f"src/cuda/kernels/{name}" for name in ("band_out.cuh", "band_in.cuh", "tile_load.cuh", "product.cuh", "store_run.cuh", "launch.hpp")
)


class Bug(NamedTuple):
    name: str
    path: str
    right: str
    wrong: str


BUGS = [
    Bug("band_out: the wait for copies dropped", OUT, "wait_copies<1>();", ""),
    Bug("band_in: the wait for copies dropped", IN, "wait_copies<1>();", ""),
    Bug("band_out: waits for a group too few", OUT, "wait_copies<1>();", "wait_copies<2>();"),
    Bug("band_out: a commit dropped", OUT, "load(next);\n        commit_copies();", "load(next);"),
    Bug("band_out: no barrier before the product", OUT, "sync_threads();\n        if (sees) tile", "if (sees) tile"),
    Bug("band_out: no barrier after the product", OUT, "sync_threads();\n        step = next;", "step = next;"),
    Bug("band_in: no barrier before the product", IN, "sync_threads();\n      if (warp_sees", "if (warp_sees"),
    Bug("band_in: no barrier after the product", IN, "sync_threads();\n      column += kDepth", "column += kDepth"),
    Bug("band_in: no change of stages", IN, "column += kDepth, stage ^= 1;", "column += kDepth;"),
    Bug("band_out: the stage of y does not change", OUT, "(s.number & 1) * kBytesY", "(s.number & 0) * kBytesY"),
    Bug("band_out: x kept where the head dim takes more steps", OUT, "steps_of_dim > 2 || s.number", "s.number"),
    Bug("band_out: tiles of keys too far apart", OUT, "Step{s.key + kTileColumns, 0", "Step{s.key + kTileColumns + 1, 0"),
    Bug("band_out: the last tile of keys is not loaded", OUT, "next.key < keys.end", "next.key + kTileColumns < keys.end"),
    Bug(
        "band_out: a key too many stored",
        OUT,
        "intersect({key, key + Tile::kRunOfColumns})",
        "intersect({key - 1, key + Tile::kRunOfColumns})",
    ),
    Bug("band_out: rows beyond the last stored", OUT, "if (!item.rows.contains(row)) return;", ""),
    Bug("band_out: slots without a key are not filled", OUT, "    fill();\n    if (keys.empty())", "    if (keys.empty())"),
    Bug("band_out: the phase is not walked", OUT, "item.band.right + phase, item", "item.band.right, item"),
    Bug("band_in: the phase is not walked", IN, "item.band.right + phase, item", "item.band.right, item"),
    Bug(
        "band_in: the band's mask off by one",
        IN,
        "from(item.band.keys(item.first + r), column)",
        "from(item.band.keys(item.first + r + 1), column)",
    ),
    Bug("band_in: the transposed band's mask off by one", IN, "columns_see.keys(column + c)", "columns_see.keys(column + c + 1)"),
    Bug("band_in: keys nobody sees are loaded", IN, "columns.contains(column + c) ? ns : Range{}", "ns"),
    Bug("band_in: sums that are not finite stay", IN, "if (finite)", "if (true)"),
    Bug("band_in: a panel's place wrong", IN, "stage * kBytesY + p * kBytesPanel", "stage * kBytesY"),
    Bug("the swizzle dropped", LOAD, "(chunk ^ line) & 7", "chunk & 7"),
    Bug("alignment of the first line only", LOAD, "| (std::uintptr_t(source.line_stride) * element) |", "|"),
    Bug("partial chunks read whole", LOAD, "static_cast<int>(seen.end * sizeof(E))", "16"),
    Bug("the gather reads what does not exist", LOAD, "if (seen.contains(e)) elements", "elements"),
    Bug("tensor cores: two chunks of B swapped", PRODUCT, "2 * k + lane / 8 % 2));", "2 * k + lane / 16));"),
    Bug(
        "tensor cores: the columns not shuffled",
        PRODUCT,
        "return (column & ~31) | ((column >> 1 & 3) << 3) |",
        "return column;\n    return (column & ~31) | ((column >> 1 & 3) << 3) |",
    ),
    Bug("tensor cores: sums not cleared", PRODUCT, "for (float& s : fragment) s = 0;", "for (float& s : fragment) s = s;"),
    Bug("plain products: a lane's columns wrong", PRODUCT, "8 * c + lane_of_columns()", "8 * lane_of_columns() + c"),
    Bug("stores of 16 bytes where 8 are aligned", STORE, "if (alignment == 16) return", "if (alignment >= 8) return"),
    Bug("band storage with row stride W", LAUNCH, "m.row_stride - m.col_stride, m.col_stride}", "m.row_stride, m.col_stride}"),
    Bug(
        "dilation parts begin at the wrong column",
        LAUNCH,
        "strided_rows(moved(launch.y, y), p.first_col",
        "strided_rows(moved(launch.y, y), p.first_row",
    ),
    Bug(
        "dilation parts with undilated rows",
        LAUNCH,
        "p.first_row, launch.dilation, element);\n  return item;",
        "p.first_row, 1, element);\n  return item;",
    ),
]

TESTS = "Cuda/Kernels.*:Cuda/Traffic.*band_*64"


def copy_with(bug: Bug, folder: Path) -> None:
    for name in ("src", "include"):
        shutil.copytree(ROOT / name, folder / name)
    path = folder / bug.path
    text = path.read_text()
    if text.count(bug.right) < 1:
        raise SystemExit(f"{bug.name}: {bug.path} does not contain the text to replace; bring BUGS up to date")
    path.write_text(text.replace(bug.right, bug.wrong))


def outcome(bug: Bug, build: Path, seconds: int) -> str:
    """What found the bug; "" if nothing did."""
    objects = [p for p in build.glob("CMakeFiles/window_matmul_cuda_tests.dir/**/*.o") if p.name != "emulated.cpp.o"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_with(bug, folder)
        program, kernels = folder / "tests", folder / "emulated.o"
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        flags = ["-std=c++20", "-O1", f"-I{folder}/include", f"-I{folder}/src"]
        subprocess.run([*compiler, *flags, "-c", folder / "src/cuda/arch/emulated.cpp", "-o", kernels], check=True, capture_output=True)
        libraries = [str(build / "libwindow_matmul_core.a"), "-lgtest_main", "-lgtest", "-lpthread"]
        subprocess.run([*compiler, kernels, *map(str, objects), *libraries, "-o", program], check=True, capture_output=True)
        try:
            done = subprocess.run(
                [program, f"--gtest_filter={TESTS}", "--gtest_fail_fast"], capture_output=True, text=True, timeout=seconds, errors="replace"
            )
        except subprocess.TimeoutExpired:
            return "does not end"
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith("[  FAILED  ]")]
    return failed[0].split()[3] if failed and len(failed[0].split()) > 3 else f"status {done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--only", default="", help="bugs whose name contains this")
    parser.add_argument("--skip", type=int, default=0, help="so many of the first ones")
    parser.add_argument("--seconds", type=int, default=300, help="for the tests of one bug")
    arguments = parser.parse_args()
    bugs = [bug for bug in BUGS if arguments.only in bug.name][arguments.skip :]
    missed = 0
    for bug in bugs:
        by = outcome(bug, arguments.build, arguments.seconds)
        missed += not by
        print(f"{'found ' if by else 'MISSED'} {bug.name}{': ' + by if by else ''}", flush=True)
    print(f"{len(bugs) - missed} of {len(bugs)} bugs found")
    return 1 if missed or not bugs else 0


if __name__ == "__main__":
    sys.exit(main())

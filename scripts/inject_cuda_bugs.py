#!/usr/bin/env python3
# scripts/inject_cuda_bugs.py: puts bugs into the CUDA kernels, one at a time, and fails unless the emulation's tests find each.
"""Needs a build with tests: `cmake --workflow --preset release` makes one in build/release.

Only the files with the kernels are compiled anew, from a copy of the sources with one text replaced; the rest is linked from the build.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from cuda_attention_bugs import FORWARD_BUGS
from cuda_backward_bugs import BACKWARD_BUGS
from cuda_emulation import NAMES, ROOT, link_tests

OUT, IN, LOAD, PRODUCT, PLAIN, STORE, LAUNCH, SOFTMAX, ROW = (
    f"src/cuda/kernels/{name}"
    for name in (
        "band/out.cuh",
        "band/in.cuh",
        "tile_load.cuh",
        "tensor_core_product.cuh",
        "product.cuh",
        "store_run.cuh",
        "launch.hpp",
        "band/softmax.cuh",
        "band/softmax_row.cuh",
    )
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
    Bug("band_out: x kept where the head dim takes more steps", OUT, "steps_of_dim > kKept || s.number", "s.number"),
    Bug("band_out: tiles of keys too far apart", OUT, "Step{s.key + kTileColumns, 0", "Step{s.key + kTileColumns + 1, 0"),
    Bug("band_out: the last tile of keys is not loaded", OUT, "next.key < keys.end", "next.key + kTileColumns < keys.end"),
    Bug(
        "band_out: a key too many stored",
        OUT,
        "intersect({key, key + Tile::kRun});\n      if (seen.empty()) return;\n      if (Tile",
        "intersect({key - 1, key + Tile::kRun});\n      if (seen.empty()) return;\n      if (Tile",
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
    Bug("partial chunks read whole", LOAD, "static_cast<int>(seen.end) * static_cast<int>(sizeof(E))", "16"),
    Bug("the gather reads what does not exist", LOAD, "if (seen.contains(e)) elements", "elements"),
    Bug("tensor cores: two chunks of B swapped", PRODUCT, "2 * k + lane / 8 % 2));", "2 * k + lane / 16));"),
    Bug(
        "tensor cores: the columns not shuffled",
        PRODUCT,
        "return column / kGroup * kGroup +",
        "return column;\n    return column / kGroup * kGroup +",
    ),
    Bug("tensor cores: words not exchanged", PRODUCT, "        exchange(rounded);\n", ""),
    Bug("tensor cores: the exchange of four stops half way", PRODUCT, "bit <= 2; bit *= 2", "bit <= 1; bit *= 2"),
    Bug("tensor cores: only a thread's own sums decide what is summed again", PRODUCT, "finite = all_of_four(finite);", ""),
    Bug("tf32: the small part of A dropped", PRODUCT, "mma_tf32(first, a.small, b.big[0], b.big[1]);", ""),
    Bug("tf32: the small part of B dropped", PRODUCT, "mma_tf32(second, a.big, b.small[2], b.small[3]);", ""),
    Bug("tf32: big parts cut, not rounded", PRODUCT, "(x + 0x1000u) & ~0x1fffu", "x & ~0x1fffu"),
    Bug("tf32: big parts of two bits too few", PRODUCT, "(x + 0x1000u) & ~0x1fffu", "(x + 0x4000u) & ~0x7fffu"),
    Bug("tf32: depths not kept where they are read", PRODUCT, "kSplits ? (depth & ~7) |", "false ? (depth & ~7) |"),
    Bug("tf32: neighbouring columns crossed", PRODUCT, "const bool crossed = kSplits &&", "const bool crossed = !kSplits &&"),
    Bug("tf32: band_out keeps what splitting made of infinities", OUT, "if (Tile::kSplits && !finite)", "if (Tile::kSplits && false)"),
    Bug(
        "sums taken again over all columns",
        IN,
        "sum_again<E>(item.x, y_by_n, row, n, item.band.keys(row))",
        "sum_again<E>(item.x, y_by_n, row, n, columns)",
    ),
    Bug("tensor cores: sums not cleared", PRODUCT, "for (float& s : fragment) s = 0;", "for (float& s : fragment) s = s;"),
    Bug("plain products: a lane's columns wrong", PLAIN, "8 * c + lane_of_columns()", "8 * lane_of_columns() + c"),
    Bug("stores of 16 bytes where 8 are aligned", STORE, "if (alignment == 16) return", "if (alignment >= 8) return"),
    Bug(
        "softmax: the maximum not subtracted",
        SOFTMAX,
        "total += value = exponential(value - offset);",
        "total += value = exponential(value);",
    ),
    Bug("softmax: -inf subtracted from -inf", SOFTMAX, "return highest == kLowest ? Sum{0} : highest;", "return highest;"),
    Bug("softmax: nothing divided by nothing", SOFTMAX, "return total == 0 ? Sum{0} : Sum{1} / total;", "return Sum{1} / total;"),
    Bug(
        "softmax: slots without a key count",
        SOFTMAX,
        "row.load(values, row.item.x, 0, kLowest);",
        "row.load(values, row.item.x, 0, Sum{0});",
    ),
    Bug("softmax: the sum of a warp alone", ROW, "if constexpr (Lanes > kWarp) {", "if constexpr (Lanes > kThreads) {"),
    Bug("softmax: threads of another row counted", ROW, "(Lanes < kWarp ? Lanes : kWarp) / 2", "kWarp / 2"),
    Bug("softmax: no barrier between warps", ROW, "    sync_threads();\n    mine =", "    mine ="),
    Bug("softmax: one place in shared memory, not two in turn", ROW, "    turn ^= 1;\n", ""),
    Bug("softmax in pieces: an earlier sum not rescaled", SOFTMAX, "total * exponential(before - offset_of(highest)) +", "total +"),
    Bug("softmax in pieces: threads' sums not rescaled", SOFTMAX, "combine<Lanes>(total * factor, turn", "combine<Lanes>(total, turn"),
    Bug("softmax in pieces: the only piece scaled as others are", SOFTMAX, "factor *= scale;", "factor = scale;"),
    Bug("softmax in pieces: the last piece for each", SOFTMAX, "if (row.pieces() > 1) {", "if (row.pieces() > 1000) {"),
    Bug(
        "softmax: slots without a key keep numbers", ROW, ": Sum{0};\n      const index_t stride", ": f(n, e);\n      const index_t stride"
    ),
    Bug(
        "softmax: the phase of a row forgotten in loads",
        ROW,
        "address_of(from, row, piece * kPiece - phase",
        "address_of(from, row, piece * kPiece",
    ),
    Bug("softmax: whole vectors whatever their alignment", ROW, "if (address % 16 == 0) return load", "if (address % 8 == 0) return load"),
    Bug("softmax: a row beyond the last", ROW, "const Range slots = item.rows.contains(row) ?", "const Range slots = true ?"),
    Bug("softmax backward: the mean not subtracted", SOFTMAX, "(Row::element_of(both.g[n], e) - mean)", "Row::element_of(both.g[n], e)"),
    Bug("softmax backward: p of the wrong dilation part", LAUNCH, "launch.y_like_x ? p.first_row : p.first_col", "p.first_col"),
    Bug("band storage with row stride W", LAUNCH, "m.row_stride - m.col_stride, m.col_stride}", "m.row_stride, m.col_stride}"),
    Bug(
        "dilation parts begin at the wrong column",
        LAUNCH,
        "launch.y_like_x ? p.first_row : p.first_col",
        "p.first_row",
    ),
    Bug(
        "dilation parts with undilated rows",
        LAUNCH,
        "p.first_row, launch.dilation, element);\n  return item;",
        "p.first_row, 1, element);\n  return item;",
    ),
]

BUGS += [Bug(*bug) for bug in FORWARD_BUGS + BACKWARD_BUGS]

# The types whose kernels are compiled with a bug, and tested: those that run the code it is in, two at most, since each takes its time.
TYPES = {PRODUCT: ("bf16", "tf32"), PLAIN: ("f32",)}


def file_of(bug: Bug, root: Path) -> Path:
    """Where its text stands, once: the bug's file, or another of the same folder, to which it moved."""
    named = root / bug.path
    found = [path for path in (named, *sorted(named.parent.glob("*.*"))) if path.is_file() and path.read_text().count(bug.right) == 1]
    if not found:
        raise SystemExit(f"{bug.name}: neither {bug.path} nor its neighbours contain the text to replace, once; bring BUGS up to date")
    return found[0]


def copy_with(bug: Bug, folder: Path) -> None:
    for name in ("src", "include"):
        shutil.copytree(ROOT / name, folder / name)
    path = file_of(bug, folder)
    path.write_text(path.read_text().replace(bug.right, bug.wrong))


def is_of_attention(bug: Bug) -> bool:
    return "/attention/" in bug.path


def is_of_gradients(bug: Bug) -> bool:
    return "/attention/backward_" in bug.path


def types_of(bug: Bug) -> tuple[str, ...]:
    if is_of_attention(bug):
        return ("tf32",) if bug.name.startswith("tf32") else ("bf16",)
    return ("tf32",) if bug.name.startswith("tf32") else TYPES.get(bug.path, ("bf16", "f32"))


def tests_of(bug: Bug) -> str:
    if is_of_attention(bug):
        suites = "Cuda/AttentionBackward.*" if is_of_gradients(bug) else "Cuda/Attention*.*"
        return ":".join(f"{suites}/{NAMES[kind]}" for kind in types_of(bug))
    only_softmax = bug.path in (SOFTMAX, ROW)
    op = "softmax*" if only_softmax else "*"
    tests = [f"Cuda/Kernels.*/{NAMES[kind]}_{op}:Cuda/Traffic.*/{NAMES[kind]}_{op}_64" for kind in types_of(bug)]
    if only_softmax:
        tests = [f"Cuda/SoftmaxRows.*/{NAMES[kind]}" for kind in types_of(bug)] + tests
    if "tf32" in types_of(bug):
        tests.append("SplitFactors.*")
    return ":".join(tests) + ("" if "tf32" in types_of(bug) else "-*float32_high*")


def outcome(bug: Bug, build: Path, seconds: int, jobs: int) -> str:
    """What found the bug; "" if nothing did."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_with(bug, folder)
        stems = ("emulated_backward" if is_of_gradients(bug) else "emulated_attention" if is_of_attention(bug) else "emulated",)
        program = link_tests(build, folder, folder, ["-O1"], types_of(bug), jobs, stems)
        command = [str(program), f"--gtest_filter={tests_of(bug)}", "--gtest_fail_fast"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, errors="replace")
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
    parser.add_argument("--count", type=int, default=len(BUGS), help="at most so many of the rest: the list in pieces")
    parser.add_argument("--seconds", type=int, default=1800, help="for the tests of one bug")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    bugs = [bug for bug in BUGS if arguments.only in bug.name][arguments.skip :][: arguments.count]
    missed = 0
    for bug in bugs:
        by = outcome(bug, arguments.build, arguments.seconds, arguments.jobs)
        missed += not by
        print(f"{'found ' if by else 'MISSED'} {bug.name}{': ' + by if by else ''}", flush=True)
    print(f"{len(bugs) - missed} of {len(bugs)} bugs found")
    return 1 if missed or not bugs else 0


if __name__ == "__main__":
    sys.exit(main())

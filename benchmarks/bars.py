# benchmarks/bars.py: the goals that this project set itself, each marked met, missed or not measured.
from __future__ import annotations

from .bar import Bar, at_least, at_most
from .cases import PAIR
from .compare import Entries, beside_fp32, median, overhead, pair_rows, ratios, shares, thread_rows
from .fused_bars import fused_bars
from .plan import MALLOCS

ANCESTOR_SECONDS = 0.263  # its CPU code for window_matmul, L 4096, w 64, eight heads, on two cores of a Sapphire Rapids machine


def bars(entries: Entries) -> list[Bar]:
    """Those of the explicit pair, then those of fused attention."""
    pair = [*_against_others(entries), *_memory(entries), *_kernels(entries), *_threads(entries), *_overhead(entries)]
    return pair + fused_bars(entries)


def _against_others(entries: Entries) -> list[Bar]:
    found: list[Bar] = []
    for malloc in MALLOCS:
        best, chunks = ratios(entries, malloc), ratios(entries, malloc, "sliding_chunks", 64)
        count = f" ({sum(r >= 1.5 for r in best)} of {len(best)} cells)"
        where = f"malloc {malloc}"
        found += [
            at_least(f"every cell at least 1.5x the best other, {where}", 1.5, min(best, default=None), "{:.2f}x", count),
            at_least(f"median cell at least 2x the best other, {where}", 2.0, median(best), "{:.2f}x"),
            at_least(f"every cell with w >= 64 at least 2.5x Hugging Face, {where}", 2.5, min(chunks, default=None), "{:.2f}x"),
            at_least(f"median of those at least 5x Hugging Face, {where}", 5.0, median(chunks), "{:.2f}x"),
        ]
    cell = [r.ours["median"] for r in pair_rows(entries) if str(r.case).startswith("window-L4096-w64-") and r.direction == "forward"]
    ancestor = ANCESTOR_SECONDS / max(cell) if cell else None
    note = " (its 263 ms were measured on another machine: two Sapphire Rapids cores)"
    return [*found, at_least("window, w = 64, at least 50x the ancestor's CPU code", 50, ancestor, "{:.0f}x", note)]


def _memory(entries: Entries) -> list[Bar]:
    over = [(row.ours["growth_bytes"] - row.memory_limit) / 2**20 for row in pair_rows(entries)]
    goal = "peak memory of a call at most the band, the inputs and 4 MiB a thread"
    note = " MiB beyond that in the worst cell" if over and max(over) > 0 else " MiB: the worst cell stays below by that"
    return [at_most(goal, 0.0, max(over, default=None), "{:.1f}", note)]


SHARES = {
    "cpu.avx512": {"window": 0.60, "unwindow": 0.62, "backward": 0.55},
    "cpu.avx2": {"window": 0.55, "unwindow": 0.55, "backward": 0.55},
}


def _kernels(entries: Entries) -> list[Bar]:
    """One thread, one head, w = 128 and 256; always the worst row of those that a goal covers."""
    pair = [r for r in shares(entries) if r["case"]["op"] in PAIR]
    found = [r for r in pair if r["case"]["heads"] == 1 and r["case"]["window"] in (128, 256)]
    result = []
    for backend, goals in SHARES.items():
        mine = [r for r in found if r["backend"] == backend]
        for op in ("window", "unwindow"):
            for direction in ("forward", "backward"):
                goal = goals["backward" if direction == "backward" else op]
                rows = [r for r in mine if (r["case"]["op"], r["case"]["dtype"], r["direction"]) == (op, "fp32", direction)]
                seen = min((r["share"] for r in rows), default=None)
                result.append(at_least(f"{backend}, {op} {direction}: {goal:.0%} of the multiply-add peak", goal, seen, "{:.0%}"))
        points = [row["share"] - twin["share"] for row, twin in beside_fp32(mine, "fp64")]
        result.append(
            at_least(f"{backend}, fp64: share of its peak within 5 points of fp32's", -0.05, min(points, default=None), "{:+.1%}")
        )
        for dtype in ("bf16", "fp16"):
            speeds = [row["gflops"] / twin["gflops"] for row, twin in beside_fp32(mine, dtype)]
            result.append(at_least(f"{backend}, {dtype}: at least 85 % of fp32's speed", 0.85, min(speeds, default=None), "{:.0%}"))
    return result


def _threads(entries: Entries) -> list[Bar]:
    return [
        at_least(
            f"two threads at least 1.8x one, malloc {malloc}",
            1.8,
            min((r["ratio"] for r in thread_rows(entries) if r["malloc"] == malloc and r["case"]["op"] in PAIR), default=None),
            "{:.2f}x",
            " in the worst row",
        )
        for malloc in MALLOCS
    ]


def _overhead(entries: Entries) -> list[Bar]:
    measured = overhead(entries)
    return [
        at_most(
            f"window_matmul on 8 x 8 inputs, {label}: at most {allowed} microseconds",
            allowed,
            measured.get(f"window_matmul, {label}", {}).get("median"),
            "{:.1f}",
        )
        for label, allowed in (("no gradient", 10), ("gradient recorded", 16))
    ]

# benchmarks/bars.py: the goals that this project set itself, each marked met, missed or not measured.
from __future__ import annotations

from typing import Any, NamedTuple

from .compare import Entries, median, overhead, pair_rows, ratios, shares, thread_rows
from .plan import MALLOCS

ANCESTOR_SECONDS = 0.263  # its CPU code for window_matmul, L 4096, w 64, eight heads, on two cores of a Sapphire Rapids machine


class Bar(NamedTuple):
    goal: str
    seen: str
    met: bool | None  # None: not measured

    @property
    def verdict(self) -> str:
        return "not measured" if self.met is None else "**met**" if self.met else "**missed**"


def _at_least(goal: str, needed: float, seen: float | None, form: str = "{:.2f}", note: str = "") -> Bar:
    if seen is None:
        return Bar(goal, "", None)
    return Bar(goal, form.format(seen) + note, seen >= needed)


def _at_most(goal: str, allowed: float, seen: float | None, form: str = "{:.1f}", note: str = "") -> Bar:
    if seen is None:
        return Bar(goal, "", None)
    return Bar(goal, form.format(seen) + note, seen <= allowed)


def bars(entries: Entries) -> list[Bar]:
    return [*_against_others(entries), *_memory(entries), *_kernels(entries), *_threads(entries), *_overhead(entries)]


def _against_others(entries: Entries) -> list[Bar]:
    found: list[Bar] = []
    for malloc in MALLOCS:
        best, chunks = ratios(entries, malloc), ratios(entries, malloc, "sliding_chunks", 64)
        count = f" ({sum(r >= 1.5 for r in best)} of {len(best)} cells)"
        where = f"malloc {malloc}"
        found += [
            _at_least(f"every cell at least 1.5x the best other, {where}", 1.5, min(best, default=None), "{:.2f}x", count),
            _at_least(f"median cell at least 2x the best other, {where}", 2.0, median(best), "{:.2f}x"),
            _at_least(f"every cell with w >= 64 at least 2.5x Hugging Face, {where}", 2.5, min(chunks, default=None), "{:.2f}x"),
            _at_least(f"median of those at least 5x Hugging Face, {where}", 5.0, median(chunks), "{:.2f}x"),
        ]
    cell = [r.ours["median"] for r in pair_rows(entries) if str(r.case).startswith("window-L4096-w64-") and r.direction == "forward"]
    ancestor = ANCESTOR_SECONDS / max(cell) if cell else None
    note = " (its 263 ms were measured on another machine: two Sapphire Rapids cores)"
    return [*found, _at_least("window, w = 64, at least 50x the ancestor's CPU code", 50, ancestor, "{:.0f}x", note)]


def _memory(entries: Entries) -> list[Bar]:
    over = [(row.ours["growth_bytes"] - row.memory_limit) / 2**20 for row in pair_rows(entries)]
    goal = "peak memory of a call at most the band, the inputs and 4 MiB a thread"
    note = " MiB beyond that in the worst cell" if over and max(over) > 0 else " MiB: the worst cell stays below by that"
    return [_at_most(goal, 0.0, max(over, default=None), "{:.1f}", note)]


SHARES = {
    "cpu.avx512": {"window": 0.60, "unwindow": 0.62, "backward": 0.55},
    "cpu.avx2": {"window": 0.55, "unwindow": 0.55, "backward": 0.55},
}


def _kernels(entries: Entries) -> list[Bar]:
    """One thread, one head, w = 128 and 256; always the worst row of those that a goal covers."""
    found = [r for r in shares(entries) if r["case"]["heads"] == 1 and r["case"]["window"] in (128, 256)]
    result = []
    for backend, goals in SHARES.items():
        mine = [r for r in found if r["backend"] == backend]
        for op in ("window", "unwindow"):
            for direction in ("forward", "backward"):
                goal = goals["backward" if direction == "backward" else op]
                rows = [r for r in mine if (r["case"]["op"], r["case"]["dtype"], r["direction"]) == (op, "fp32", direction)]
                seen = min((r["share"] for r in rows), default=None)
                result.append(_at_least(f"{backend}, {op} {direction}: {goal:.0%} of the multiply-add peak", goal, seen, "{:.0%}"))
        points = [row["share"] - twin["share"] for row, twin in _beside_fp32(mine, "fp64")]
        result.append(
            _at_least(f"{backend}, fp64: share of its peak within 5 points of fp32's", -0.05, min(points, default=None), "{:+.1%}")
        )
        for dtype in ("bf16", "fp16"):
            speeds = [row["gflops"] / twin["gflops"] for row, twin in _beside_fp32(mine, dtype)]
            result.append(_at_least(f"{backend}, {dtype}: at least 85 % of fp32's speed", 0.85, min(speeds, default=None), "{:.0%}"))
    return result


def _beside_fp32(rows: list[dict[str, Any]], dtype: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of this dtype with the fp32 row of the same case and direction."""
    fp32 = {(str(r["case"]), r["direction"]): r for r in rows}
    pairs = [(r, fp32.get((str(r["case"] | {"dtype": "fp32"}), r["direction"]))) for r in rows if r["case"]["dtype"] == dtype]
    return [(row, twin) for row, twin in pairs if twin is not None]


def _threads(entries: Entries) -> list[Bar]:
    return [
        _at_least(
            f"two threads at least 1.8x one, malloc {malloc}",
            1.8,
            min((r["ratio"] for r in thread_rows(entries) if r["malloc"] == malloc), default=None),
            "{:.2f}x",
            " in the worst row",
        )
        for malloc in MALLOCS
    ]


def _overhead(entries: Entries) -> list[Bar]:
    measured = overhead(entries)
    return [
        _at_most(
            f"window_matmul on 8 x 8 inputs, {label}: at most {allowed} microseconds",
            allowed,
            measured.get(f"window_matmul, {label}", {}).get("median"),
            "{:.1f}",
        )
        for label, allowed in (("no gradient", 10), ("gradient recorded", 16))
    ]

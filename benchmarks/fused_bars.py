# benchmarks/fused_bars.py: the goals of fused attention and of decoding.
from __future__ import annotations

from typing import Any

from .bar import Bar, at_least, at_most
from .compare import Entries, Row, beside_fp32, decode_rows, fused_rows, main_rows, option_rows, overhead, shares
from .options import SHARED_HEADS, THROUGH_PYTHON
from .plan import MALLOCS

INSTALLED = ("sliding_chunks", "local_attention", "flex_attention", "onnxruntime", "sdpa")  # what a user can install, or has
SPECIALIST = ("band_attention",)

SHARES = {  # of the multiply-add peak, one thread, fp32, L 4096, by window
    ("cpu.avx512", "forward"): {64: 0.65, 128: 0.75, 256: 0.81, 512: 0.83},
    ("cpu.avx512", "backward"): {64: 0.65, 128: 0.72, 256: 0.82, 512: 0.85},
    ("cpu.avx2", "forward"): {64: 0.62, 128: 0.68, 256: 0.74, 512: 0.77},
}


def fused_bars(entries: Entries) -> list[Bar]:
    return [*_against(entries), *_memory(entries), *_shares(entries), *_call(entries), *_decode(entries), *_options(entries)]


def _against(entries: Entries) -> list[Bar]:
    found: list[Bar] = []
    for malloc in MALLOCS:
        cells = [row for row in main_rows(entries, malloc) if row.case.length == 4096]
        wide, narrow = [r for r in cells if r.case.window >= 64], [r for r in cells if r.case.window == 16]
        forward, training = ([r for r in wide if (r.direction == "forward") == first] for first in (True, False))
        where = f"L 4096, malloc {malloc}"
        found += [
            _ratio(f"fused, w >= 64: at least 1.9x the best PyTorch formulation, forward, {where}", 1.9, forward, SPECIALIST),
            _ratio(f"fused, w >= 64: at least 1.9x the best PyTorch formulation, forward + backward, {where}", 1.9, training, SPECIALIST),
            _ratio(f"fused, w >= 64: at least 2.5x the best installed, forward, {where}", 2.5, forward, INSTALLED),
            _ratio(f"fused, w >= 64: at least 4x the best installed, forward + backward, {where}", 4.0, training, INSTALLED),
        ]
        if malloc == "default":
            found.append(_ratio(f"fused, w = 16: at least 1.5x the best other, {where}", 1.5, narrow, SPECIALIST + INSTALLED))
    long = [row for row in main_rows(entries, "default") if (row.case.length, row.case.window) == (16384, 128)]
    return [*found, _ratio("fused, L 16384, w = 128: at least 25x SDPA with a dense mask", 25.0, long, ("sdpa",))]


def _ratio(goal: str, needed: float, cells: list[Row], others: tuple[str, ...]) -> Bar:
    """To the best of these others in each cell; the worst cell counts."""
    seen = [(min(ratios), row) for row in cells if (ratios := [r for name in others if (r := row.ratio(name)) is not None])]
    if not seen:
        return Bar(goal, "", None)
    worst, row = min(seen, key=lambda pair: pair[0])
    note = f" at w = {row.case.window} ({sum(ratio >= needed for ratio, _ in seen)} of {len(seen)} cells)"
    return at_least(goal, needed, worst, "{:.2f}x", note)


def _memory(entries: Entries) -> list[Bar]:
    over = [(row.ours["growth_bytes"] - row.memory_limit) / 2**20 for row in fused_rows(entries)]
    goal = "fused: peak memory of a call at most its results and 4 MiB a thread"
    note = " MiB beyond that in the worst cell" if over and max(over) > 0 else " MiB: the worst cell stays below by that"
    return [at_most(goal, 0.0, max(over, default=None), "{:.1f}", note)]


def _shares(entries: Entries) -> list[Bar]:
    fused = [r for r in shares(entries) if r["case"]["op"] == "fused"]
    result = []
    for (backend, direction), goals in SHARES.items():
        mine = [r for r in fused if (r["backend"], r["direction"], r["case"]["dtype"]) == (backend, direction, "fp32")]
        result += [
            _of_peak(f"{backend}, fused {direction}, d = {dim}", [r for r in mine if r["case"]["dim"] == dim], goals, windows)
            for dim, windows in ((64, (64, 128, 256, 512)), (128, (128, 256)))
        ]
    for backend in sorted({backend for backend, _ in SHARES}, reverse=True):
        result += _within(backend, [r for r in fused if r["backend"] == backend])
    return result


def _of_peak(what: str, rows: list[dict[str, Any]], goals: dict[int, float], windows: tuple[int, ...]) -> Bar:
    """All windows in a line."""
    seen = {r["case"]["window"]: r["share"] for r in rows}
    listed = "/".join(f"{100 * goals[w]:.0f}" for w in windows)
    goal = f"{what}: {listed} % of the multiply-add peak at w = {'/'.join(map(str, windows))}"
    if not set(windows) & set(seen):
        return Bar(goal, "", None)
    met = all(seen[w] >= goals[w] for w in windows if w in seen)
    return Bar(goal, "/".join(f"{100 * seen[w]:.0f}" if w in seen else "?" for w in windows) + " %", met)


def _within(backend: str, mine: list[dict[str, Any]]) -> list[Bar]:
    """Other head dims and dtypes beside d = 64 in fp32."""
    plain = {(r["case"]["window"], r["direction"]): r["share"] for r in mine if (r["case"]["dim"], r["case"]["dtype"]) == (64, "fp32")}
    others = [r for r in mine if r["case"]["dim"] in (32, 96, 256) and (r["case"]["window"], r["direction"]) in plain]
    points = [r["share"] - plain[r["case"]["window"], r["direction"]] for r in others]
    result = [
        at_least(
            f"{backend}, fused, d = 32, 96, 256: share of the peak within 12 points of d = 64", -0.12, min(points, default=None), "{:+.1%}"
        )
    ]
    points = [row["share"] - twin["share"] for row, twin in beside_fp32(mine, "fp64")]
    result.append(
        at_least(f"{backend}, fused, fp64: share of its peak within 5 points of fp32's", -0.05, min(points, default=None), "{:+.1%}")
    )
    for dtype in ("bf16", "fp16"):
        speeds = [row["gflops"] / twin["gflops"] for row, twin in beside_fp32(mine, dtype)]
        result.append(at_least(f"{backend}, fused, {dtype}: at least 85 % of fp32's speed", 0.85, min(speeds, default=None), "{:.0%}"))
    return result


def _call(entries: Entries) -> list[Bar]:
    python = [r["ratio"] for r in option_rows(entries) if r["option"] == THROUGH_PYTHON]
    measured = overhead(entries)
    found = [at_least("fused: through Python at least 95 % of the bare operator's speed", 0.95, min(python, default=None), "{:.1%}")]
    for label, allowed in (("no gradient", 16), ("gradient recorded", 30)):
        seen = measured.get(f"window_attention, {label}", {}).get("median")
        found.append(at_most(f"window_attention on 8 x 8 inputs, {label}: at most {allowed} microseconds", allowed, seen, "{:.1f}"))
    return found


def _decode(entries: Entries) -> list[Bar]:
    """Of our two ways the slower one counts."""
    cells = [row for row in decode_rows(entries) if row.case.dtype == "fp32" and row.malloc == "default"]
    ours = [row.measured[name] for row in cells for name in ("ours", "rolling_cache") if name in row.measured]
    slowest = max((m["median"] for m in ours), default=None)
    bandwidth = min((row.case.cache_bytes / m["median"] / 1e9 / m["read_gbytes"] for row in cells for m in ours), default=None)
    result = [at_least("decoding: at least 70 % of the read bandwidth", 0.70, bandwidth, "{:.0%}")]
    for name, title, needed in (("decode_bmm", "the best way through torch", 1.5), ("sdpa", "SDPA with a mask", 5.0)):
        theirs = [row.measured[name]["median"] for row in cells if name in row.measured]
        ratio = min(theirs) / slowest if theirs and slowest else None
        result.append(at_least(f"decoding: at least {needed:g}x {title}", needed, ratio, "{:.2f}x"))
    return result


def _options(entries: Entries) -> list[Bar]:
    found = option_rows(entries)

    def worst(*names: str) -> float | None:
        return min((r["ratio"] for r in found if r["option"].startswith(names)), default=None)

    return [
        at_least("dilation 2, 4, 8: at least 90 % of the undilated speed", 0.90, worst("dilation"), "{:.0%}"),
        at_least("shared key heads: as fast as equal heads (2 % are noise)", 0.98, worst(SHARED_HEADS), "{:.1%}"),
        at_least("a window (2w, 0): at least 95 % of the speed of (w, w)", 0.95, worst("window"), "{:.1%}"),
        at_least(
            "16 global tokens at L 16384, w = 256: at most 10 % slower", 1 / 1.1, worst("16 global"), "{:.1%}", " of the speed without"
        ),
    ]

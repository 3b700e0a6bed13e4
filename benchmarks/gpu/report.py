# benchmarks/gpu/report.py: shares of the copy rate, ratios to others, the goals, in Markdown.
from __future__ import annotations

from typing import Any

from ..bar import Bar, at_least
from ..cases import DTYPES
from ..markdown import table
from .cases import DIRECTIONS, STEP, GpuCase
from .cell import FUSED, NAMES, TORCH, entrant

Results = dict[str, Any]
Entries = list[dict[str, Any]]

PROTOCOL = """\
- Each result, output and both gradients, is compared with the definition in float64 before anything is timed; a wrong one is a failure.
- Medians between two CUDA events; before each call several times the L2 cache is overwritten. Inputs are random.
- GB/s are those of the bytes that must be moved at least: the band and two (L, d) tensors a head, each once; twice that for both gradients,
  which are two kernels. The copy rate is that of `copy_` of 1 GiB, bytes read and written.
- Backward is both gradients without the forward pass. The first gradient is that of q or of the band, the second that of k or v.
- Fused attention: TFLOP/s are of the pairs that are seen, 2 products forward, 5 backward (all three gradients), 7 a step of both.
- Products of fp32 are plain fp32 everywhere (torch's default, "highest").
"""
# Useful TFLOP/s, forward and backward, that an H200 is to reach by window: 64 heads of 16384, head dim 128, bf16.
H200 = {128: (250, 170), 512: (310, 210), 2048: (330, 220)}


def measured(entries: Entries, name: str) -> dict[str, dict[str, Any]]:
    return {e["name"]: e for e in entries if e["competitor"] == name}


def ratio(entries: Entries, case: str, direction: str, names: tuple[str, ...]) -> float | None:
    """How many times as long the best of these takes as ours."""
    mine = measured(entries, "ours").get(case, {}).get(direction)
    others = [found[case][direction]["median"] for name in names if direction in (found := measured(entries, name)).get(case, {})]
    return min(others) / mine["median"] if mine and others else None


def ours(entries: Entries, fused: bool) -> list[dict[str, Any]]:
    """Of fused attention, or of the pair."""
    return [e for e in measured(entries, "ours").values() if (e["case"]["op"] == "fused") == fused]


def fused_bars(results: Results) -> list[Bar]:
    """Rates are asked of an H200 alone, speed beside torch's flash attention of every GPU."""
    entries, found = results["entries"], []
    is_asked = "H200" in results["machine"].get("processor", "")
    goal_case = {"length": 16384, "heads": 64, "dim": 128, "dtype": "bf16", "causal": False}
    for window, needed in H200.items():
        for direction, least in zip(("forward", "backward"), needed, strict=True):
            same = [
                e
                for e in ours(entries, fused=True)
                if goal_case.items() <= e["case"].items() and e["case"]["window"] == window and direction in e
            ]
            seen = same[0][direction]["tflops"] if same and is_asked else None
            found.append(
                at_least(f"fused attention, H200, w {window}, {direction}: at least {least} useful TFLOP/s", least, seen, "{:.0f}")
            )
    ratios = [r for e in ours(entries, fused=True) for d in STEP if (r := ratio(entries, e["name"], d, ("varlen",))) is not None]
    found.append(at_least("fused attention: faster than torch's flash attention in every case", 1, min(ratios, default=None), "{:.2f}x"))
    return found


def bars(results: Results) -> list[Bar]:
    return pair_bars(results) + fused_bars(results)


def pair_bars(results: Results) -> list[Bar]:
    entries, copy = results["entries"], results["rates"]["copy_gbytes"]
    found = []
    for dtype, most in (("bf16", 512), ("fp32", 256)):
        shares = [
            e[direction]["gbytes"] / copy
            for e in ours(entries, fused=False)
            for direction in DIRECTIONS
            if direction in e and (case := GpuCase(**e["case"])).dtype == dtype and 128 <= case.window <= most and case.dim <= 128
        ]
        goal = f"ours, {dtype}, w from 128 to {most}: at least 80 % of the copy rate in every direction"
        found.append(at_least(goal, 0.8, min(shares, default=None), "{:.0%}", " in the worst"))
    for goal, needed, names in (("Hugging Face's chunks", 5, ("sliding_chunks",)), ("the best of torch's formulations", 3, TORCH)):
        ratios = [r for e in ours(entries, fused=False) for d in DIRECTIONS if (r := ratio(entries, e["name"], d, names)) is not None]
        found.append(at_least(f"at least {needed}x {goal} in every case", needed, min(ratios, default=None), "{:.1f}x"))
    return found


def failures(entries: Entries) -> list[str]:
    return [f"{e['name']} {e['competitor']}: {e['failed']}" for e in entries if "failed" in e]


def summary(results: Results) -> str:
    text = table(("goal", "seen", ""), [(bar.goal, bar.seen, bar.verdict) for bar in bars(results)])
    failed = failures(results["entries"])
    return text + ("\nFailed:\n\n" + "".join(f"- {line}\n" for line in failed) if failed else "")


def render(results: Results) -> str:
    rates = results["rates"]
    ceilings = [("copy, GB/s read and written", f"{rates['copy_gbytes']:.0f}")]
    ceilings += [(f"product of square matrices, {name}, TFLOP/s", f"{rates[f'gemm_tflops {name}']:.1f}") for name in DTYPES]
    parts = [
        "# Benchmarks on a GPU\n",
        f"A {'quick' if results['quick'] else 'full'} run of {results['minutes']:.0f} minutes; {results['left']} cells are left.\n",
        table(("machine", ""), results["machine"].items()),
        table(("ceiling", ""), ceilings),
        "## Goals\n\n" + summary(results),
        _fused(results["entries"]),
        _ours(results),
        _against(results["entries"]),
        _left_out(results["entries"]),
        "## How it was measured\n\n" + PROTOCOL,
    ]
    return "\n".join(part for part in parts if part)


def _fused(entries: Entries) -> str:
    """Everybody's ms and useful TFLOP/s; how many times as long as ours torch's flash attention takes, and the best of torch."""
    header = ("case", "direction", "ours", *(entrant(name).TITLE for name in FUSED[1:]), "ours to varlen_attn", "ours to torch's best")
    lines = []
    for e in ours(entries, fused=True):
        for direction in (d for d in STEP if d in e):
            readings = [measured(entries, name).get(e["name"], {}).get(direction) for name in FUSED]
            ratios = (_times(ratio(entries, e["name"], direction, names)) for names in (("varlen",), FUSED[1:-1]))
            lines.append((e["name"], direction, *(f"{r['median'] * 1e3:.3f}, {r['tflops']:.0f}" if r else "" for r in readings), *ratios))
    return "## Fused attention: ms, useful TFLOP/s\n\n" + table(header, lines) if lines else ""


def _ours(results: Results) -> str:
    copy, header = results["rates"]["copy_gbytes"], ("case", *DIRECTIONS, "error")
    lines = [
        (e["name"], *(_share(e.get(direction), copy) for direction in DIRECTIONS), f"{e['error']:.1e}")
        for e in ours(results["entries"], fused=False)
        if "error" in e
    ]
    return "## Ours: ms, GB/s, share of the copy rate\n\n" + table(header, lines) if lines else ""


def _share(reading: dict[str, float] | None, copy: float) -> str:
    return f"{reading['median'] * 1e3:.3f}, {reading['gbytes']:.0f}, {reading['gbytes'] / copy:.0%}" if reading else ""


def _against(entries: Entries) -> str:
    others = NAMES[1:]
    header = ("case", "direction", "ours", *(entrant(name).TITLE for name in others), "ours to torch's best", "ours to Hugging Face")
    lines = [
        (
            e["name"],
            direction,
            *(_ms(measured(entries, name).get(e["name"], {}).get(direction)) for name in NAMES),
            _times(ratio(entries, e["name"], direction, TORCH)),
            _times(ratio(entries, e["name"], direction, ("sliding_chunks",))),
        )
        for e in ours(entries, fused=False)
        for direction in ("forward", "backward")
        if direction in e
    ]
    return "## Against others, ms\n\n" + table(header, lines) if lines else ""


def _ms(reading: dict[str, float] | None) -> str:
    return f"{reading['median'] * 1e3:.3f}" if reading else ""


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}x"


def _left_out(entries: Entries) -> str:
    lines = [(e["name"], e["competitor"], e["unsupported"]) for e in entries if "unsupported" in e]
    return "## What could not be measured\n\n" + table(("case", "who", "why"), lines) if lines else ""

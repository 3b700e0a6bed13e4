# benchmarks/gpu/report.py: shares of the copy rate, ratios to others, the goals, in Markdown.
from __future__ import annotations

from typing import Any

from ..bar import Bar, at_least
from ..cases import DTYPES
from ..markdown import table
from .cases import DIRECTIONS, GpuCase
from .cell import NAMES, TORCH, entrant

Results = dict[str, Any]
Entries = list[dict[str, Any]]

PROTOCOL = """\
- Each result, output and both gradients, is compared with the definition in float64 before anything is timed; a wrong one is a failure.
- Medians between two CUDA events; before each call several times the L2 cache is overwritten. Inputs are random.
- GB/s are those of the bytes that must be moved at least: the band and two (L, d) tensors a head, each once; twice that for both gradients,
  which are two kernels. The copy rate is that of `copy_` of 1 GiB, bytes read and written.
- Backward is both gradients without the forward pass. The first gradient is that of q or of the band, the second that of k or v.
- Products of fp32 are plain fp32 everywhere (torch's default, "highest").
"""


def measured(entries: Entries, name: str) -> dict[str, dict[str, Any]]:
    return {e["name"]: e for e in entries if e["competitor"] == name}


def ratio(entries: Entries, case: str, direction: str, names: tuple[str, ...]) -> float | None:
    """How many times as long the best of these takes as ours."""
    mine = measured(entries, "ours").get(case, {}).get(direction)
    others = [found[case][direction]["median"] for name in names if direction in (found := measured(entries, name)).get(case, {})]
    return min(others) / mine["median"] if mine and others else None


def bars(results: Results) -> list[Bar]:
    entries, copy = results["entries"], results["rates"]["copy_gbytes"]
    found = []
    for dtype, most in (("bf16", 512), ("fp32", 256)):
        shares = [
            e[direction]["gbytes"] / copy
            for e in measured(entries, "ours").values()
            for direction in DIRECTIONS
            if direction in e and (case := GpuCase(**e["case"])).dtype == dtype and 128 <= case.window <= most and case.dim <= 128
        ]
        goal = f"ours, {dtype}, w from 128 to {most}: at least 80 % of the copy rate in every direction"
        found.append(at_least(goal, 0.8, min(shares, default=None), "{:.0%}", " in the worst"))
    for goal, needed, names in (("Hugging Face's chunks", 5, ("sliding_chunks",)), ("the best of torch's formulations", 3, TORCH)):
        ratios = [r for e in measured(entries, "ours") for d in DIRECTIONS if (r := ratio(entries, e, d, names)) is not None]
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
        f"A {'quick' if results['quick'] else 'full'} run of {results['minutes']:.0f} minutes.\n",
        table(("machine", ""), results["machine"].items()),
        table(("ceiling", ""), ceilings),
        "## Goals\n\n" + summary(results),
        _ours(results),
        _against(results["entries"]),
        _left_out(results["entries"]),
        "## How it was measured\n\n" + PROTOCOL,
    ]
    return "\n".join(part for part in parts if part)


def _ours(results: Results) -> str:
    copy, header = results["rates"]["copy_gbytes"], ("case", *DIRECTIONS, "error")
    lines = [
        (name, *(_share(e.get(direction), copy) for direction in DIRECTIONS), f"{e['error']:.1e}")
        for name, e in measured(results["entries"], "ours").items()
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
            case,
            direction,
            *(_ms(measured(entries, name).get(case, {}).get(direction)) for name in NAMES),
            _times(ratio(entries, case, direction, TORCH)),
            _times(ratio(entries, case, direction, ("sliding_chunks",))),
        )
        for case, e in measured(entries, "ours").items()
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

# benchmarks/kernels.py: our kernels alone: their share of the multiply-add peak on one thread, and what a second thread brings.
from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .cases import PAIR, Case
from .cell import check, inference, training
from .competitors import Function, load
from .measure import fastest, once, percentile, time_calls
from .roofline import backend, copy_bandwidth, peak_probe

LENGTH = 4096


def run_shares(
    dtypes: list[str], windows: list[int], heads: int, seconds: float, ops: Sequence[str] = PAIR, dims: Sequence[int] = (64,)
) -> list[dict[str, Any]]:
    """Rows of this process's backend on one thread. One head: the output lies where the last call's lay. Eight: a fresh 16 to 134 MB."""
    torch.set_num_threads(1)
    sizes = [(op, dtype, dim, w) for dtype in dtypes for op in ops for dim in dims for w in windows]
    return [row for op, dtype, dim, w in sizes for row in _shares(Case(op, LENGTH, w, dtype, 1, heads=heads, dim=dim), seconds)]


def _shares(case: Case, seconds: float) -> list[dict[str, Any]]:
    ours = load("ours")
    function, _ = ours.prepare(case, True, fastest)
    inputs, g = case.inputs(), case.output_gradient()
    error = check(case, ours, training(function, inputs, g), inputs, g)
    calls = {"forward": inference(function, inputs), "backward": _backward_alone(function, inputs, g)}
    rows = []
    for direction, call in calls.items():
        timing = time_calls(call, seconds, 15, {"peak": peak_probe(case.dtype, 1)})
        flops = case.flops(False) if direction == "forward" else case.flops(True) - case.flops(False)
        shares = [flops / s / 1e9 / peak for s, peak in zip(timing.seconds, timing.between["peak"], strict=True)]
        writes_band = (case.op, direction) in (("window", "forward"), ("unwindow", "backward"))  # the others write rows of d numbers only
        rows.append(
            timing.to_json()
            | {"case": case.to_json(), "backend": backend(), "direction": direction, "error": error}
            | {"gflops": flops / timing.median / 1e9, "peak_gflops": statistics.median(timing.between["peak"])}
            | {"share": statistics.median(shares), "share_best": max(shares), "share_p10": percentile(shares, 0.9)}
            | ({"written_gbytes": case.band_bytes / timing.median / 1e9, "copy_gbytes": copy_bandwidth()} if writes_band else {})
        )
    return rows


def _backward_alone(function: Function, inputs: tuple[Tensor, ...], g: Tensor) -> Callable[[], object]:
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    output = function(*leaves)
    return lambda: torch.autograd.grad(output, leaves, g, retain_graph=True)


def run_threads(windows: list[int], seconds: float, ops: Sequence[str] = PAIR) -> list[dict[str, Any]]:
    """One and two threads in turn, eight heads: the median of the ratios of neighbouring calls."""
    rows = []
    for op in ops:
        for w in windows:
            case = Case(op, LENGTH, w)
            function, _ = load("ours").prepare(case, True, fastest)
            inputs, g = case.inputs(), case.output_gradient()
            for direction, call in (("forward", inference(function, inputs)), ("forward_backward", training(function, inputs, g))):
                rows.append({"case": case.to_json(), "direction": direction} | _one_and_two(call, seconds))
    return rows


def _one_and_two(call: Callable[[], object], seconds: float) -> dict[str, Any]:
    times: dict[int, list[float]] = {1: [], 2: []}
    while len(times[1]) < 9 or sum(times[1]) < seconds:
        for threads, taken in times.items():
            torch.set_num_threads(threads)
            call()
            taken.append(once(call))
    ratios = [one / two for one, two in zip(times[1], times[2], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_p10": percentile(ratios, 0.9),
        "ratio_of_best": min(times[1]) / min(times[2]),
        "one": statistics.median(times[1]),
        "two": statistics.median(times[2]),
    }

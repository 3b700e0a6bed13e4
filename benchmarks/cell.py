# benchmarks/cell.py: one competitor on one case, in a process of its own: checked, then timed, forward and with backward.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .cases import Case
from .competitors import Competitor, Function, Unsupported, answered, load
from .measure import fastest, memory_growth, time_calls
from .oracle import Check
from .roofline import copy_bandwidth, peak_probe, read_probe

DIRECTIONS = ("forward", "forward_backward")


def run_cell(case: Case, name: str, seconds: float) -> dict[str, Any]:
    """`seconds` is what the timed calls of each direction take in all."""
    torch.set_num_threads(case.threads)
    competitor = load(name)
    record: dict[str, Any] = {"case": case.to_json(), "name": str(case), "competitor": name, "title": competitor.TITLE}
    inputs, g = case.inputs(), case.output_gradient()
    for direction in DIRECTIONS[:1] if case.op == "decode" else DIRECTIONS:
        backward = direction == "forward_backward"
        try:
            function, setting = competitor.prepare(case, backward, fastest)
        except Unsupported as reason:
            return record | {"unsupported": str(reason)}
        call = training(function, inputs, g) if backward else inference(function, inputs)
        result = {"setting": setting, "error": check(case, competitor, call, inputs, g), "growth_bytes": memory_growth(call)}
        timing = time_calls(call, seconds, between=probes(case))
        result |= timing.to_json() | {"gflops": case.flops(backward) / timing.median / 1e9, "copy_gbytes": copy_bandwidth()}
        record[direction] = result
    return record


def probes(case: Case) -> dict[str, Callable[[], float]]:
    """The ceilings that are read between the calls; decoding is bound by what it must read."""
    found = {"peak_gflops": peak_probe(case.dtype, case.threads)}
    return found | ({"read_gbytes": read_probe(case.cache_bytes)} if case.op == "decode" else {})


def inference(function: Function, inputs: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """A call that returns the output."""

    def call() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(*inputs),)

    return call


def training(function: Function, inputs: tuple[Tensor, ...], g: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """A call that returns the output and the gradients of all inputs."""
    leaves = tuple(x.detach().requires_grad_() for x in inputs)

    def call() -> tuple[Tensor, ...]:
        output = function(*leaves)
        return output.detach(), *torch.autograd.grad(output, leaves, g)

    return call


def check(case: Case, competitor: Competitor, call: Callable[[], tuple[Tensor, ...]], inputs: tuple[Tensor, ...], g: Tensor) -> float:
    output, *gradients = call()
    roundings = getattr(competitor, "ROUNDINGS", 2)
    rule = Check(answered(competitor, case), competitor.OUTSIDE, competitor.EXACT_OUTSIDE, roundings)
    return rule.run(inputs, output, g, tuple(gradients))

# python/window_matmul/testing/values.py: checks of results: every shape, window, dtype, layout and alignment, by the formula and the CPU.
from __future__ import annotations

import time

import torch
from torch import Tensor

from . import cases
from .bounds import DTYPES, SPLIT_PRODUCT
from .cases import EMPTY, LARGE, LAYOUTS, SMALL, Call, Case
from .outcome import Budget, Outcome

FILLS = (0.0, float("-inf"), 3.5)
SMALL_AREA = 200_000  # L x L matrices up to there are quicker on the CPU


def check_call(outcome: Outcome, call: Call, inputs: list[Tensor], device: torch.device, where: str) -> None:
    """On the device, against the formula in float64 and, where that is another device, against the CPU kernels."""
    dtype, there = inputs[0].dtype, [x.to(device) for x in inputs]
    at = torch.device("cpu") if inputs[0].shape[-2] * inputs[-1].shape[-1] <= SMALL_AREA else device
    formula_inputs = [x.to(at) for x in inputs]
    exact = call.formula(*formula_inputs)
    bound = call.bound(exact, formula_inputs, dtype)
    actual = call.ours(*there)
    outcome.true(f"{call.name} {where}", actual.device == there[0].device and actual.is_contiguous(), f"on {actual.device}")
    outcome.close(f"{call.name} {where}", actual, exact, bound, dtype)
    if device.type != "cpu":
        outcome.close(f"{call.name} {where}, by the CPU", actual, call.ours(*inputs), 2 * bound, dtype)


def _check_case(outcome: Outcome, case: Case, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> None:
    tensors, where = case.tensors(dtype, random), f"{case}, {dtype}"
    for call in [cases.window_matmul(case, fill) for fill in FILLS] + cases.calls(case)[1:]:
        check_call(outcome, call, [tensors[name] for name in call.takes], device, where)


def small_sizes(device: torch.device, budget: Budget) -> Outcome:
    """Every dtype x size x window x dilation x offset x fill of the list, empty sizes among them."""
    outcome, random = Outcome("values, small sizes"), budget.random()
    for case in SMALL + EMPTY if budget.thorough else SMALL[::4] + EMPTY:
        for dtype in DTYPES:
            _check_case(outcome, case, dtype, device, random)
    return outcome


def large_sizes(device: torch.device, budget: Budget) -> Outcome:
    """Many tiles: lengths of thousands, windows of hundreds."""
    outcome, random = Outcome("values, large sizes"), budget.random()
    for case in LARGE if budget.thorough else [Case(400, 400, 64, 128, 128)]:
        for dtype in DTYPES:
            tensors = case.tensors(dtype, random)
            for call in cases.calls(case):
                check_call(outcome, call, [tensors[name] for name in call.takes], device, f"{case}, {dtype}")
    return outcome


def random_sizes(device: torch.device, budget: Budget) -> Outcome:
    """Anything, until the time is up; twenty cases in any case."""
    outcome, random, end, number = Outcome("values, random sizes"), budget.random(), time.perf_counter() + budget.seconds, 0
    while number < 20 or time.perf_counter() < end:
        case, dtype = cases.random_case(random, 300 if budget.thorough else 40), DTYPES[number % 4]
        _check_case(outcome, case, dtype, device, random)
        number += 1
    return outcome


def layouts_and_alignments(device: torch.device, budget: Budget) -> Outcome:
    """Strides of all kinds, in memory that is otherwise NaN; addresses off by 0 to 8 elements. Inputs and what surrounds them stay."""
    outcome, random = Outcome("layouts and alignments"), budget.random()
    shapes = [Case(37, 45, 24, 6, 9, batch=(2, 3)), Case(19, 19, 7, 2, 1, (1, 4), None, (3, 2)), Case(66, 70, 33, 33, 4, 2, batch=())]
    shapes += [Case(70, 70, 64, 16, 16, batch=(2,))] if budget.thorough else []
    for case in shapes:
        for dtype in DTYPES:
            tensors = {name: x.to(device) for name, x in case.tensors(dtype, random).items()}
            for call in cases.calls(case):
                _check_layouts(outcome, call, [tensors[name] for name in call.takes], f"{case}, {dtype}", budget.thorough)
    return outcome


def _check_layouts(outcome: Outcome, call: Call, inputs: list[Tensor], where: str, thorough: bool) -> None:
    on_cpu, dtype = [x.cpu() for x in inputs], inputs[0].dtype
    exact = call.formula(*on_cpu)
    bound = call.bound(exact, on_cpu, dtype)
    pairs = [(a, b) for a in LAYOUTS for b in LAYOUTS]
    for first, second in pairs if thorough else list(zip(LAYOUTS, LAYOUTS[::-1], strict=True)):
        laid = [layout(x) for layout, x in zip((first, second), inputs, strict=False)]
        _check_untouched(outcome, call, laid, exact, bound, f"{call.name} {where}, {first.__name__}, {second.__name__}")
    for elements in range(9) if thorough else (1, 4):
        laid = [cases.shifted(x, (elements * (n + 1)) % 9) for n, x in enumerate(inputs)]
        _check_untouched(outcome, call, laid, exact, bound, f"{call.name} {where}, {elements} elements on")
    rows = [cases.stride_zero(x) for x in inputs]
    exact = call.formula(*(x.cpu() for x in rows))
    outcome.close(f"{call.name} {where}, stride 0", call.ours(*rows), exact, call.bound(exact, [x.cpu() for x in rows], dtype), dtype)


def _check_untouched(outcome: Outcome, call: Call, laid: list[Tensor], exact: Tensor, bound: Tensor, where: str) -> None:
    memory = [x._base if x._base is not None else x for x in laid]
    before = [x.clone() for x in memory]
    outcome.close(where, call.ours(*laid), exact, bound, laid[0].dtype)
    for x, old in zip(memory, before, strict=True):
        outcome.equal(f"{where}, an input afterwards", x, old)


def beside_torch(device: torch.device, budget: Budget) -> Outcome:
    """Half precision: errors at most those of torch's dense formulation on the same device, in the maximum and in the mean square."""
    outcome, random, n, w = Outcome("beside torch, half precision"), budget.random(), 640 if budget.thorough else 160, 24
    for case in (Case(n, n, 96, w, w, batch=(2, 2)), Case(n, n, 64, 2 * w, 0, batch=(3,))):
        key, exists = case.slots()
        index = key.clamp(0, n - 1).to(device).expand(*case.batch, -1, -1)
        there = exists.to(device)
        for dtype in (torch.bfloat16, torch.float16):
            on_cpu = case.tensors(dtype, random)
            q, k, a, v = (on_cpu[name].to(device) for name in "qkav")
            dense = torch.zeros(*case.batch, n, n, dtype=dtype, device=device).scatter_add(-1, index, a.where(there, 0))
            theirs = [
                (q @ k).gather(-1, index).where(there, 0),
                dense @ v,
                torch.softmax(a.masked_fill(~there, -torch.inf), -1),
            ]
            for call, other in zip(cases.calls(case), theirs, strict=True):
                inputs = [on_cpu[name] for name in call.takes]
                ours = call.ours(*(x.to(device) for x in inputs))
                _at_most(outcome, f"{call.name} {case}, {dtype}", ours, other, call.formula(*inputs))
    return outcome


def _at_most(outcome: Outcome, where: str, ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    """A thousandth is for ties of rounding, which a float32 sum may break either way."""
    mine, other = ((x.cpu().double() - exact).abs() for x in (ours, theirs))
    outcome.close(f"{where}, largest error", mine.max(), torch.zeros(()), float(other.max()) * 1.001)
    outcome.close(f"{where}, mean square", mine.square().mean(), torch.zeros(()), float(other.square().mean()) * 1.001)


def matmul_precision(device: torch.device, budget: Budget) -> Outcome:
    """torch's float32 precision: "highest" sums plain products; "high" and "medium" may split factors in two, no less."""
    outcome, random, before = Outcome("float32 matmul precision"), budget.random(), torch.get_float32_matmul_precision()
    try:
        for precision, of_product in (("highest", 0.0), ("high", SPLIT_PRODUCT), ("medium", SPLIT_PRODUCT)):
            torch.set_float32_matmul_precision(precision)
            for case in (Case(130, 130, 64, 16, 16), Case(70, 90, 33, 9, 40, 2), *(LARGE[:2] if budget.thorough else ())):
                tensors = case.tensors(torch.float32, random)
                for call in (cases.window_matmul(case, 0.0, of_product), cases.unwindow_matmul(case, of_product)):
                    check_call(outcome, call, [tensors[name] for name in call.takes], device, f"{case}, {precision}")
    finally:
        torch.set_float32_matmul_precision(before)
    return outcome


def under_tools(device: torch.device, budget: Budget) -> Outcome:
    """A few small cases: all branches of the loads and stores, each dtype."""
    outcome, random = Outcome("values, few"), budget.random()
    few = [Case(70, 75, 33, 9, 4), Case(130, 130, 64, 16, 16, batch=()), Case(40, 37, 20, 5, 4, 3, 2), Case(5, 3, 65, 70, 1)]
    for case in few:
        for dtype in DTYPES:
            _check_case(outcome, case, dtype, device, random)
    return outcome

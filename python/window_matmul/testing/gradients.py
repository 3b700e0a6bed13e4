# python/window_matmul/testing/gradients.py: checks of first and second derivatives: finite differences, the formula's, the CPU's.
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from . import cases
from .bounds import DTYPES, ROUNDING, product_bound, softmax_gradient_bound
from .cases import SMALL, Call, Case
from .outcome import Budget, Outcome

TINY = [
    Case(5, 5, 2, 1, 1), Case(4, 6, 3, 2, 0, batch=()), Case(4, 4, 2, 6, 5, batch=()), Case(5, 7, 2, 1, 2, 2, -1, ()),
    Case(5, 5, 2, 1, 1, (1, 3)), Case(4, 3, 2, 1, 1, 1, 2, ()), Case(6, 2, 2, 1, 0, batch=()), Case(3, 3, 2, 0, 0, batch=(1, 2)),
]  # fmt: skip


def finite_differences(device: torch.device, budget: Budget) -> Outcome:
    """gradcheck and gradgradcheck in float64, with forward mode and batches of gradients; twice, bit by bit, as they ask for it."""
    outcome, random = Outcome("finite differences"), budget.random()
    for case in TINY if budget.thorough else TINY[::3]:
        tensors = case.tensors(torch.float64, random)
        for call in cases.calls(case):
            inputs = tuple(tensors[name].to(device).requires_grad_() for name in call.takes)
            where = f"{call.name} {case}"
            _ask(outcome, f"{where}, gradcheck", partial(gradcheck, call.ours, inputs, check_forward_ad=True, check_batched_grad=True))
            _ask(outcome, f"{where}, gradgradcheck", partial(gradgradcheck, call.ours, inputs, check_fwd_over_rev=True))
    return outcome


def _ask(outcome: Outcome, where: str, question: Callable[[], bool]) -> None:
    try:
        outcome.true(where, question(), "false")
    except Exception as error:  # GradcheckError, with the Jacobians in its text, or whatever the operator raised
        outcome.true(where, False, f"{type(error).__name__}: {str(error)[:400]}")


def first_derivatives(device: torch.device, budget: Budget) -> Outcome:
    """Every dtype, against the derivatives of the formula."""
    outcome, random = Outcome("gradients"), budget.random()
    chosen = [case for case in SMALL if case.queries * case.keys * case.width <= 400_000]
    for case in chosen if budget.thorough else chosen[::5]:
        for dtype in DTYPES:
            tensors = case.tensors(dtype, random)
            for call in cases.calls(case):
                inputs = [tensors[name] for name in call.takes]
                _check_gradients(outcome, case, call, inputs, device, random)
    return outcome


def _check_gradients(outcome: Outcome, case: Case, call: Call, inputs: list[Tensor], device: torch.device, random: torch.Generator) -> None:
    dtype = inputs[0].dtype
    g = torch.randn(call.formula(*inputs).shape, generator=random, dtype=torch.float64).to(dtype)
    exact, bounds = gradients_of_formula(case, call, inputs, g)
    leaves = [x.to(device).requires_grad_() for x in inputs]
    actual = torch.autograd.grad(call.ours(*leaves), leaves, g.to(device))
    for name, got, want, bound in zip(call.takes, actual, exact, bounds, strict=True):
        outcome.close(f"{call.name}, gradient of {name}, {case}, {dtype}", got, want, bound, dtype)


def gradients_of_formula(case: Case, call: Call, inputs: list[Tensor], g: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Exact gradients and how far from them a correct kernel may be. A product's are sums of at most W, N or Lq products, whose
    magnitudes are the gradients of the magnitudes."""
    dtype = inputs[0].dtype
    leaves = [x.double().requires_grad_() for x in inputs]
    exact = [*torch.autograd.grad(call.formula(*leaves), leaves, g.double())]
    if call.name == "window_softmax":
        p = call.formula(inputs[0])
        return exact, [softmax_gradient_bound(p, inputs[0], g, dtype)]
    absolute = [x.double().abs().requires_grad_() for x in inputs]
    magnitudes = torch.autograd.grad(call.formula(*absolute), absolute, g.double().abs())
    terms = max(case.width, case.dim, case.queries)
    return exact, [product_bound(e, m, terms, dtype) for e, m in zip(exact, magnitudes, strict=True)]


def second_derivatives(device: torch.device, budget: Budget) -> Outcome:
    """Of all three in a row, attention, against the formula: float64 to 1e-9 of the largest, float32 to what its rounding explains."""
    outcome, random = Outcome("second gradients"), budget.random()
    chosen = [Case(23, 23, 5, 4, 3), Case(40, 60, 8, 7, 0, 2), Case(30, 30, 8, 3, 3, (1, 2), None, (2, 2))]
    chosen += [Case(150, 150, 32, 20, 20)] if budget.thorough else []
    for case in chosen:
        for dtype in (torch.float64, torch.float32):
            tensors = case.tensors(dtype, random)
            inputs = [tensors["q"], tensors["k"], tensors["v"]]
            with torch.no_grad():
                g = torch.randn(attend(case, True, inputs).shape, generator=random, dtype=torch.float64).to(dtype)
            exact = penalty_gradients(case, True, [x.double() for x in inputs], g.double())
            actual = penalty_gradients(case, False, [x.to(device) for x in inputs], g.to(device))
            for name, got, want in zip("qkv", actual, exact, strict=True):
                # Five products and two softmaxes in a row, each of at most max(W, N, Lq) terms: 64 roundings of such sums.
                bound = 64 * max(case.width, case.dim, case.queries) * ROUNDING[dtype] * float(want.abs().max())
                outcome.close(f"attention, second gradient of {name}, {case}, {dtype}", got, want, bound, dtype)
    return outcome


def attend(case: Case, formula: bool, inputs: list[Tensor]) -> Tensor:
    """q, k (..., N, Lk), v -> (..., Lq, N), through the three operators or their formulas."""
    first, last, middle = cases.window_matmul(case, -torch.inf), cases.unwindow_matmul(case), cases.window_softmax(case)
    q, k, v = inputs
    scores = (first.formula if formula else first.ours)(q / q.shape[-1] ** 0.5, k)
    p = (middle.formula if formula else middle.ours)(scores)
    return (last.formula if formula else last.ours)(p, v)


def penalty_gradients(case: Case, formula: bool, inputs: list[Tensor], g: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the sum of squares of the gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    first = torch.autograd.grad(attend(case, formula, leaves), leaves, g, create_graph=True)
    penalty = torch.stack([x.square().sum() for x in first]).sum()
    return torch.autograd.grad(penalty, leaves)


def under_tools(device: torch.device, budget: Budget) -> Outcome:
    """A few small cases in each dtype."""
    outcome, random = Outcome("gradients, few"), budget.random()
    for case in (Case(70, 75, 33, 9, 4), Case(40, 37, 20, 5, 4, 3, 2)):
        for dtype in DTYPES:
            tensors = case.tensors(dtype, random)
            for call in cases.calls(case):
                _check_gradients(outcome, case, call, [tensors[name] for name in call.takes], device, random)
    return outcome

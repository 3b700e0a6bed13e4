"""tests/python/test_gradients.py: first and second derivatives, against finite differences and against the oracle in every dtype."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import oracle
from cases import CASES, LAYOUTS, SMALL_CASES, Case
from oracle import DTYPES, ROUNDING, Band, check
from window_matmul import unwindow_matmul, window_matmul, window_softmax

CHECKED = [
    Case(3, 3, 2, Band(1, 1), (2,)),
    Case(4, 6, 3, Band(2, 0), ()),
    Case(4, 4, 2, Band(6, 5), ()),
    Case(4, 6, 2, Band(1, 2, 2, -1), ()),
    Case(4, 4, 2, Band(1, 1, (1, 3)), (2,)),
    Case(4, 3, 2, Band(1, 1, 1, 2), ()),
    Case(6, 2, 2, Band(1, 0), ()),
    Case(3, 3, 2, Band(0, 0), (1, 2)),
]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def functions(case: Case) -> list[tuple[str, Callable[..., Tensor], Callable[..., Tensor], tuple[int, ...]]]:
    """Name, operator, oracle, and which of (q, k, a, v) it takes."""
    band, window, options = case.band, case.band.window, case.band.options

    def soft(a: Tensor) -> Tensor:
        return window_softmax(a, window, num_keys=case.keys, **options)

    return [
        ("window_matmul", lambda q, k: window_matmul(q, k, window, **options), lambda q, k: oracle.window_matmul(q, k, band), (0, 1)),
        ("unwindow_matmul", lambda a, v: unwindow_matmul(a, v, window, **options), lambda a, v: oracle.unwindow_matmul(a, v, band), (2, 3)),
        ("window_softmax", soft, lambda a: oracle.window_softmax(a, band, case.keys), (2,)),
    ]


def leaves(case: Case, which: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    tensors = case.tensors(dtype)
    return [tensors[n].requires_grad_() for n in which]


@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_gradcheck(backend: str, case: Case) -> None:
    for _, ours, _, which in functions(case):
        assert gradcheck(ours, leaves(case, which), check_batched_grad=True, check_forward_ad=True, check_batched_forward_grad=True)


@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_gradgradcheck(backend: str, case: Case) -> None:
    """Along random directions: each element takes part."""
    for _, ours, _, which in functions(case):
        whole = {"check_batched_grad": True, "check_fwd_over_rev": True, "check_rev_over_rev": True}
        assert gradgradcheck(ours, leaves(case, which), fast_mode=True, **whole)


def test_gradcheck_through_broadcasting(backend: str) -> None:
    band = Band(1, 1, (1, 2))
    for first, second in (((2,), (3, 1)), ((3, 2), ()), ((), (2,)), ((2,), (2,))):
        pairs = (
            (lambda x, y: window_matmul(x, y, 1, dilation=band.dilation), ((3, 2), (2, 4))),
            (lambda x, y: unwindow_matmul(x, y, 1, dilation=band.dilation), ((3, 3), (4, 2))),
        )
        for f, ends in pairs:
            inputs = [torch.randn(*b, *end, dtype=torch.float64, requires_grad=True) for b, end in zip((first, second), ends, strict=True)]
            if torch.broadcast_shapes(first, second)[-1:] != (2,):
                continue
            assert gradcheck(f, inputs, check_forward_ad=True)
            assert gradgradcheck(f, inputs, fast_mode=True)


def test_gradcheck_of_the_three_in_a_row(backend: str) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = window_softmax(window_matmul(q, k, (2, 1), fill=-torch.inf), (2, 1), num_keys=6)
        return unwindow_matmul(p, v, (2, 1))

    inputs = [torch.randn(2, *end, dtype=torch.float64, requires_grad=True) for end in ((5, 3), (3, 6), (6, 2))]
    assert gradcheck(attend, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(attend, inputs, check_fwd_over_rev=True, fast_mode=True)


def gradient_bound(name: str, case: Case, leaf: list[Tensor], g: Tensor, exact: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Gradients of the products are sums of at most W, N or Lq products: their magnitudes are the gradients of the magnitudes."""
    if name == "window_softmax":
        return [oracle.softmax_gradient_bound(oracle.window_softmax(leaf[0].detach(), case.band, case.keys), leaf[0].detach(), g, dtype)]
    absolute = [x.detach().double().abs().requires_grad_() for x in leaf]
    f = oracle.window_matmul if name == "window_matmul" else oracle.unwindow_matmul
    sizes = torch.autograd.grad(f(*absolute, case.band), absolute, g.double().abs())
    terms = max(case.band.width, case.dim, case.queries)
    return [oracle.product_bound(x, size, terms, dtype) for x, size in zip(exact, sizes, strict=True)]


@functools.lru_cache(maxsize=1)  # for all rows
def exact_gradients(case: Case, dtype: torch.dtype) -> list[tuple[list[Tensor], Tensor, list[Tensor], list[Tensor]]]:
    """For each operator: operands, a cotangent, the oracle's gradients, and their bounds."""
    found = []
    for name, _, theirs, which in functions(case):
        leaf = leaves(case, which, dtype)
        wide = [x.detach().double().requires_grad_() for x in leaf]
        y = theirs(*wide)
        g = torch.randn(y.shape).to(dtype)
        exact = list(torch.autograd.grad(y, wide, g.double()))
        found.append((leaf, g, exact, gradient_bound(name, case, leaf, g, exact, dtype)))
    return found


@by_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_the_oracles(backend: str, case: Case, dtype: torch.dtype) -> None:
    for (_, ours, _, _), (leaf, g, exact, bounds) in zip(functions(case), exact_gradients(case, dtype), strict=True):
        for x, e, bound in zip(torch.autograd.grad(ours(*leaf), leaf, g), exact, bounds, strict=True):
            check(x, e, bound, dtype)


@by_dtype
def test_gradients_sum_over_broadcast_dims(backend: str, dtype: torch.dtype) -> None:
    band = Band(3, 2)
    for first, second in (((2, 3), (3,)), ((), (4,)), ((2, 1), (1, 3)), ((5,), (1,))):
        for f, exact_f, ends in (
            (window_matmul, oracle.window_matmul, ((9, 4), (4, 11))),
            (unwindow_matmul, oracle.unwindow_matmul, ((9, 6), (11, 4))),
        ):
            leaf = [torch.randn(*b, *end).to(dtype).requires_grad_() for b, end in zip((first, second), ends, strict=True)]
            y = f(*leaf, band.window)
            g = torch.randn(y.shape).to(dtype)
            wide, absolute = ([h(x.detach().double()).requires_grad_() for x in leaf] for h in (torch.clone, torch.abs))
            exact = torch.autograd.grad(exact_f(*wide, band), wide, g.double())
            sizes = torch.autograd.grad(exact_f(*absolute, band), absolute, g.double().abs())
            for x, e, size in zip(torch.autograd.grad(y, leaf, g), exact, sizes, strict=True):
                check(x, e, oracle.product_bound(e, size, 80, dtype) + 2 * size * ROUNDING[dtype], dtype)  # torch adds rounded parts


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_second_gradients_are_the_oracles(backend: str, case: Case) -> None:
    for _, ours, theirs, which in functions(case):
        results = []
        for f in (ours, theirs):
            torch.default_generator.manual_seed(7)
            leaf = leaves(case, which)
            y = f(*leaf)
            g = torch.randn(y.shape, dtype=torch.float64, requires_grad=True)
            first = torch.autograd.grad(y, leaf, g, create_graph=True)
            cotangents = [torch.randn(x.shape, dtype=torch.float64) for x in first]
            results.append(torch.autograd.grad(first, (*leaf, g), cotangents, allow_unused=True, materialize_grads=True))
        for actual, exact in zip(*results, strict=True):
            largest = exact.abs().max() if exact.numel() else 1.0  # sums of at most 1000 terms that cancel at most a thousandfold
            check(actual, exact, 1e6 * ROUNDING[torch.float64] * max(largest, 1.0), torch.float64)


def test_one_input_alone(backend: str) -> None:
    case = Case(9, 11, 3, Band(2, 1, 2))
    for _, ours, _, which in functions(case)[:2]:
        both = leaves(case, which)
        g = torch.randn(ours(*both).shape, dtype=torch.float64)
        expected = torch.autograd.grad(ours(*both), both, g, create_graph=True)
        for n in (0, 1):
            alone = [x.detach() for x in both]
            alone[n].requires_grad_()
            y = ours(*alone)
            assert y.requires_grad
            y.backward(g)
            assert alone[1 - n].grad is None
            assert torch.equal(alone[n].grad, expected[n])
            (again,) = torch.autograd.grad(ours(*alone), alone[n], g, create_graph=True)
            assert not again.requires_grad  # linear in this input: what is left depends on the other one, which needs none
        assert not ours(*(x.detach() for x in both)).requires_grad


@by_dtype
def test_cotangents_of_any_layout(backend: str, dtype: torch.dtype) -> None:
    case = Case(21, 25, 6, Band(3, 5), (2, 3))
    for name, ours, theirs, which in functions(case):
        leaf = leaves(case, which, dtype)
        y = ours(*leaf)
        cotangents = [layout(torch.randn(y.shape).to(dtype)) for layout in LAYOUTS]
        cotangents += [torch.randn(dims).to(dtype).expand(y.shape) for dims in ((1,), (2, 1, 1, 1), (21, 1), (y.shape[-1],))]
        wide = [x.detach().double().requires_grad_() for x in leaf]
        z = theirs(*wide)
        for g in cotangents:
            exact = torch.autograd.grad(z, wide, g.double(), retain_graph=True)
            for x, e, bound in zip(
                torch.autograd.grad(y, leaf, g, retain_graph=True),
                exact,
                gradient_bound(name, case, leaf, g, list(exact), dtype),
                strict=True,
            ):
                check(x, e, bound, dtype)


@by_dtype
def test_layouts_of_inputs_do_not_change_gradients(backend: str, dtype: torch.dtype) -> None:
    case = Case(21, 25, 6, Band(3, 5, 2), (2, 3))
    for name, ours, theirs, which in functions(case):
        tensors = [case.tensors(dtype)[n] for n in which]
        g = torch.randn(ours(*tensors).shape).to(dtype)
        wide = [x.double().requires_grad_() for x in tensors]
        exact = torch.autograd.grad(theirs(*wide), wide, g.double())
        bounds = gradient_bound(name, case, tensors, g, list(exact), dtype)
        for layout in LAYOUTS:
            leaf = [layout(x).requires_grad_() for x in tensors]
            for x, e, bound in zip(torch.autograd.grad(ours(*leaf), leaf, g), exact, bounds, strict=True):
                check(x, e, bound, dtype)


@pytest.mark.best_backend
def test_autograd_notices_what_it_must(backend: str) -> None:
    q, k = torch.randn(6, 3, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    changed = q * 1
    y = window_matmul(changed, k, 1)
    changed.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = window_matmul(q, k, 1)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()
    stored: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x) or x.clone(), lambda x: x):
        y = unwindow_matmul(window_softmax(window_matmul(q, k, 1), 1), q, 1)
    torch.autograd.grad(y.sum(), (q, k))
    assert len(stored) == 5  # two of each product, the probabilities of the softmax

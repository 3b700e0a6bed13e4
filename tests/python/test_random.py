"""tests/python/test_random.py: random shapes, windows, layouts and dtypes, forward and backward, against the oracle."""

from __future__ import annotations

from typing import Any

import hypothesis
import torch
from hypothesis import strategies as st
from torch import Tensor

import oracle
from cases import LAYOUTS
from oracle import DTYPES, ROUNDING, Band, check
from window_matmul import Window, unwindow_matmul, window_matmul, window_softmax

EXAMPLES = 100
# Sizes at and beside the multiples of vectors, tiles and blocks, and everything small.
lengths = st.integers(0, 12) | st.sampled_from([15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 96, 127, 128, 129, 160, 191, 193])
dims = st.integers(0, 9) | st.sampled_from([15, 16, 17, 24, 31, 33, 48, 63, 64, 65, 80, 96, 100, 128, 130])
sides = st.integers(0, 6) | st.sampled_from([7, 8, 15, 16, 17, 24, 31, 33, 47, 64, 65, 100])


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """Two operands' leading dims that broadcast, a band, a dtype and a layout for each tensor."""
    batch = draw(st.lists(st.integers(1, 3), max_size=3))
    first, second = ([draw(st.sampled_from([size, 1])) for size in batch][draw(st.integers(0, len(batch))) :] for _ in range(2))
    heads = torch.broadcast_shapes(tuple(first), tuple(second))[-1:]
    distance = st.integers(1, 4) | st.sampled_from([1, 1, 9, 64, 200])
    dilation = draw(distance)
    if heads and draw(st.booleans()):
        dilation = tuple(draw(distance) for _ in range(heads[0]))
    lq, lk, left, right = draw(lengths), draw(lengths), draw(sides), draw(sides)
    offset = draw(st.none() | st.none() | st.integers(-lq - 8, lk + 8))
    return {
        "first": first,
        "second": second,
        "sizes": (lq, lk, draw(dims)),
        "band": Band(left, right, dilation, offset),
        "dtype": draw(st.sampled_from(DTYPES)),
        "layouts": [draw(st.sampled_from(LAYOUTS)) for _ in range(3)],
        "fill": draw(st.sampled_from([0.0, 3.5, float("-inf")])),
    }


def tensor(shape: list[int], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def gradients(y: Tensor, leaf: list[Tensor], g: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, leaf, g)


def check_product(ours: Any, theirs: Any, x: Tensor, y: Tensor, problem: dict[str, Any], fill: float) -> None:
    """Value and gradients of a product. Gradients of broadcast operands are sums of rounded parts, so they get one more rounding."""
    dtype, (lq, lk, n) = problem["dtype"], problem["sizes"]
    leaf = [layout(t).requires_grad_() for layout, t in zip(problem["layouts"], (x, y), strict=False)]
    wide, absolute = ([f(t.double()).requires_grad_() for t in (x, y)] for f in (torch.clone, torch.abs))
    actual, exact, size = ours(*leaf), theirs(*wide), theirs(*absolute)
    bound = oracle.product_bound(exact.nan_to_num(0, 0, 0), size.nan_to_num(0, 0, 0), max(lk, n), dtype)
    check(actual, exact.detach(), torch.where(exact == fill, 0.0, bound).detach() if fill else bound.detach(), dtype)
    g = tensor(list(actual.shape), dtype)
    exact_gradients, sizes = gradients(exact, wide, g.double()), gradients(size, absolute, g.double().abs())
    terms = 9 * max(lq, lk, n, problem["band"].width)
    for got, want, size in zip(gradients(actual, leaf, problem["layouts"][2](g)), exact_gradients, sizes, strict=True):
        check(got, want, oracle.product_bound(want, size, terms, dtype) + 2 * size * ROUNDING[dtype], dtype)


@hypothesis.settings(max_examples=EXAMPLES)
@hypothesis.given(problem=problems())
def test_window_matmul(backend: str, problem: dict[str, Any]) -> None:
    (lq, lk, n), band, fill = problem["sizes"], problem["band"], problem["fill"]
    q, k = tensor([*problem["first"], lq, n], problem["dtype"]), tensor([*problem["second"], n, lk], problem["dtype"])

    def ours(q: Tensor, k: Tensor) -> Tensor:
        if isinstance(band.dilation, int):
            return window_matmul(q, k, Window(*band.window, band.dilation), fill=fill, query_offset=band.query_offset)
        return window_matmul(q, k, band.window, fill=fill, **band.options)

    check_product(ours, lambda q, k: oracle.window_matmul(q, k, band, fill), q, k, problem, fill)


@hypothesis.settings(max_examples=EXAMPLES)
@hypothesis.given(problem=problems())
def test_unwindow_matmul(backend: str, problem: dict[str, Any]) -> None:
    (lq, lk, n), band = problem["sizes"], problem["band"]
    a, v = tensor([*problem["first"], lq, band.width], problem["dtype"]), tensor([*problem["second"], lk, n], problem["dtype"])

    def ours(a: Tensor, v: Tensor) -> Tensor:
        return unwindow_matmul(a, v, band.window, **band.options)

    check_product(ours, lambda a, v: oracle.unwindow_matmul(a, v, band), a, v, problem, 0.0)


@hypothesis.settings(max_examples=EXAMPLES)
@hypothesis.given(problem=problems(), scale=st.sampled_from([0.0, 1.0, 10.0]))
def test_window_softmax(backend: str, problem: dict[str, Any], scale: float) -> None:
    (lq, lk, _), band, dtype = problem["sizes"], problem["band"], problem["dtype"]
    batch = list(torch.broadcast_shapes(tuple(problem["first"]), tuple(problem["second"])))
    a = (tensor([*batch, lq, band.width], torch.float64) * scale).to(dtype)
    leaf = problem["layouts"][0](a).requires_grad_()
    p = window_softmax(leaf, band.window, num_keys=lk, **band.options)
    wide = a.double().requires_grad_()
    exact = oracle.window_softmax(wide, band, lk)
    check(p, exact.detach(), oracle.softmax_bound(exact.detach(), a, dtype), dtype)
    g = tensor(list(a.shape), dtype)
    (got,) = gradients(p, [leaf], problem["layouts"][2](g))
    (want,) = gradients(exact, [wide], g.double())
    check(got, want, oracle.softmax_gradient_bound(exact.detach(), a, g, dtype), dtype)


@hypothesis.settings(max_examples=EXAMPLES // 2)
@hypothesis.given(problem=problems(), backend_threads=st.integers(1, 3))
def test_slots_without_a_key_are_exact(backend: str, problem: dict[str, Any], backend_threads: int) -> None:
    """The fill, and zeros, exactly where the definition puts them, whatever the dtype and the number of threads."""
    torch.set_num_threads(backend_threads)
    (lq, lk, n), band, dtype = problem["sizes"], problem["band"], problem["dtype"]
    q, k = tensor([*problem["first"], lq, n], dtype), tensor([*problem["second"], n, lk], dtype)
    a = window_matmul(q, k, band.window, fill=float("inf"), **band.options)
    exists = oracle.exists_like(a, band, lk)
    assert torch.equal(a == torch.inf, ~exists)
    p = window_softmax(a, band.window, num_keys=lk, **band.options)
    assert p.isfinite().all() and not p[~exists].any()
    assert torch.equal((p > 0).any(-1), exists.any(-1))
    torch.set_num_threads(1)

"""tests/python/test_confinement.py: what a row does not see never reaches it, whatever it holds; a row that sees nothing is zero."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cases import Case
from oracle import DTYPES, Band
from window_matmul import unwindow_matmul, window_matmul, window_softmax

GARBAGE = (float("nan"), float("inf"), float("-inf"))
CASES = [
    Case(9, 9, 4, Band(2, 1)),
    Case(12, 15, 3, Band(3, 0, 2)),
    Case(10, 8, 5, Band(1, 2, 3, -2)),
    Case(7, 9, 2, Band(1, 1, (1, 3)), (1, 2)),
    Case(70, 75, 33, Band(9, 17), ()),
    Case(90, 64, 16, Band(5, 8, 4), ()),
    Case(6, 6, 2, Band(9, 9, 1, 4), ()),
]
BLIND = [  # rows that see nothing: all of them, the first ones, the last ones, every other one
    Case(4, 0, 3, Band(2, 2)),
    Case(5, 5, 3, Band(1, 1, 1, 50)),
    Case(5, 5, 3, Band(1, 1, 1, -(2**60))),
    Case(20, 6, 3, Band(2, 1)),
    Case(20, 6, 3, Band(2, 1, 1, 0)),
    Case(40, 40, 8, Band(0, 0, 1, 39)),
]

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def poisons(case: Case, rows: int) -> Iterator[tuple[int, float]]:
    """Some of the rows of a tensor, the ends among them, each with something that is not a number."""
    for at in sorted({0, 1, rows // 2, rows - 2, rows - 1} & set(range(rows))):
        for garbage in GARBAGE if case.queries < 20 else GARBAGE[:1]:
            yield at, garbage


def same_but(actual: Tensor, clean: Tensor, touched: Tensor) -> None:
    """Equal, bit for bit, outside `touched`."""
    touched = touched.expand(clean.shape)
    assert torch.equal(actual.masked_fill(touched, 0), clean.masked_fill(touched, 0))


@by_dtype
@by_case
def test_forward(backend: str, case: Case, dtype: torch.dtype) -> None:
    q, k, a, v = case.tensors(dtype)
    window, options = case.band.window, case.band.options
    key, exists = case.band.keys(case.queries, case.keys)
    scores, mixed = window_matmul(q, k, window, fill=2.5, **options), unwindow_matmul(a, v, window, **options)
    for j, garbage in poisons(case, case.keys):
        seen = key == j
        same_but(window_matmul(q, k.index_fill(-1, torch.tensor(j), garbage), window, fill=2.5, **options), scores, seen)
        same_but(unwindow_matmul(a, v.index_fill(-2, torch.tensor(j), garbage), window, **options), mixed, seen.any(-1, keepdim=True))
    for i, garbage in poisons(case, case.queries):
        row = (torch.arange(case.queries) == i)[:, None]
        same_but(window_matmul(q.index_fill(-2, torch.tensor(i), garbage), k, window, fill=2.5, **options), scores, row & exists)
        same_but(unwindow_matmul(a.index_fill(-2, torch.tensor(i), garbage), v, window, **options), mixed, row)
    for garbage in GARBAGE:
        assert torch.equal(unwindow_matmul(a.masked_fill(~exists, garbage), v, window, **options), mixed)


@by_dtype
@by_case
def test_softmax(backend: str, case: Case, dtype: torch.dtype) -> None:
    _, _, a, _ = case.tensors(dtype)
    _, exists = case.band.keys(case.queries, case.keys)
    options = case.band.options | {"num_keys": case.keys}
    p = window_softmax(a, case.band.window, **options)
    assert not p[~exists.expand(p.shape)].any()
    for garbage in (*GARBAGE, 1e4):
        assert torch.equal(window_softmax(a.masked_fill(~exists, garbage), case.band.window, **options), p)
    for i, _ in poisons(case, case.queries):
        row = (torch.arange(case.queries) == i)[:, None]
        spoilt = window_softmax(a.masked_fill(row, torch.nan), case.band.window, **options)
        same_but(spoilt, p, row & exists)
        assert spoilt[(row & exists).expand(p.shape)].isnan().all()  # what it does see is not hidden


@by_dtype
@by_case
def test_gradients_of_window_matmul(backend: str, case: Case, dtype: torch.dtype) -> None:
    q, k, g, _ = case.tensors(dtype)
    key, exists = case.band.keys(case.queries, case.keys)

    def gradients(q: Tensor, k: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
        return torch.autograd.grad(window_matmul(q, k, case.band.window, fill=-torch.inf, **case.band.options), (q, k), g)

    dq, dk = gradients(q, k, g)
    for garbage in GARBAGE:
        for clean, dirty in zip((dq, dk), gradients(q, k, g.masked_fill(~exists, garbage)), strict=True):
            assert torch.equal(clean, dirty)
    for j, garbage in poisons(case, case.keys):
        dirty_q, dirty_k = gradients(q, k.index_fill(-1, torch.tensor(j), garbage), g)
        same_but(dirty_q, dq, (key == j).any(-1, keepdim=True))
        assert torch.equal(dirty_k, dk)
    for i, garbage in poisons(case, case.queries):
        row = torch.tensor(i)
        seen = _seen_by(key, i, case.keys)
        dirty_q, dirty_k = gradients(q.index_fill(-2, row, garbage), k, g)
        assert torch.equal(dirty_q, dq)
        same_but(dirty_k, dk, seen[..., None, :])
        dirty_q, dirty_k = gradients(q, k, g.index_fill(-2, row, garbage))
        same_but(dirty_q, dq, (torch.arange(case.queries) == i)[:, None])
        same_but(dirty_k, dk, seen[..., None, :])


@by_dtype
@by_case
def test_gradients_of_unwindow_matmul(backend: str, case: Case, dtype: torch.dtype) -> None:
    g, _, a, v = case.tensors(dtype)
    key, exists = case.band.keys(case.queries, case.keys)

    def gradients(a: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        a, v = a.detach().requires_grad_(), v.detach().requires_grad_()
        return torch.autograd.grad(unwindow_matmul(a, v, case.band.window, **case.band.options), (a, v), g)

    da, dv = gradients(a, v, g)
    assert not da[~exists.expand(da.shape)].any()
    for garbage in GARBAGE:
        for clean, dirty in zip((da, dv), gradients(a.masked_fill(~exists, garbage), v, g), strict=True):
            assert torch.equal(clean, dirty)
    for j, garbage in poisons(case, case.keys):
        dirty_a, dirty_v = gradients(a, v.index_fill(-2, torch.tensor(j), garbage), g)
        same_but(dirty_a, da, key == j)
        assert torch.equal(dirty_v, dv)
    for i, garbage in poisons(case, case.queries):
        row = torch.tensor(i)
        seen = _seen_by(key, i, case.keys)
        for dirty_a, dirty_v in (gradients(a.index_fill(-2, row, garbage), v, g), gradients(a, v, g.index_fill(-2, row, garbage))):
            same_but(dirty_a, da, (torch.arange(case.queries) == i)[:, None] & exists)
            same_but(dirty_v, dv, seen[..., None])


def _seen_by(key: Tensor, query: int, num_keys: int) -> Tensor:
    """Which keys this query sees: (Lk,) or (H, Lk)."""
    return (key[..., query, :, None] == torch.arange(num_keys)).any(-2)


@by_dtype
@by_case
def test_gradient_of_softmax(backend: str, case: Case, dtype: torch.dtype) -> None:
    _, _, a, _ = case.tensors(dtype)
    g = torch.randn_like(a)
    _, exists = case.band.keys(case.queries, case.keys)

    def gradient(a: Tensor, g: Tensor) -> Tensor:
        a = a.detach().requires_grad_()
        return torch.autograd.grad(window_softmax(a, case.band.window, num_keys=case.keys, **case.band.options), a, g)[0]

    clean = gradient(a, g)
    assert not clean[~exists.expand(a.shape)].any()
    for garbage in GARBAGE:
        assert torch.equal(gradient(a.masked_fill(~exists, garbage), g), clean)
        assert torch.equal(gradient(a, g.masked_fill(~exists, garbage)), clean)
    for i, garbage in poisons(case, case.queries):
        row = (torch.arange(case.queries) == i)[:, None]
        same_but(gradient(a.masked_fill(row, garbage), g), clean, row & exists)
        same_but(gradient(a, g.masked_fill(row, garbage)), clean, row & exists)


@by_dtype
@pytest.mark.parametrize("case", BLIND, ids=str)
def test_rows_that_see_nothing(backend: str, case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    _, exists = case.band.keys(case.queries, case.keys)
    blind = ~exists.any(-1)
    assert blind.any()
    q, k, a, v = (x.requires_grad_() for x in tensors)
    window, options = case.band.window, case.band.options
    scores = window_matmul(q, k, window, fill=-torch.inf, **options)
    assert (scores[..., blind, :] == -torch.inf).all()
    p = window_softmax(a, window, num_keys=case.keys, **options)
    assert not p[..., blind, :].any()
    o = unwindow_matmul(a, v, window, **options)
    assert not o[..., blind, :].any()
    chained = unwindow_matmul(window_softmax(scores, window, num_keys=case.keys, **options), v, window, **options)
    assert not chained[..., blind, :].any()
    for output, inputs in ((scores, (q, k)), (p, (a,)), (o, (a, v)), (chained, (q, k, v))):
        rows, *keys = torch.autograd.grad(output, inputs, torch.full_like(output, 1e4), retain_graph=True)
        assert not rows[..., blind, :].any()
        assert all(x.isfinite().all() for x in (rows, *keys))


def test_a_row_of_minus_infinity_is_zero_and_has_no_gradient(backend: str) -> None:
    for dtype in DTYPES:
        a = torch.randn(8, 5).to(dtype)
        a[3] = -torch.inf
        a[0, 2:] = -torch.inf  # with the two slots outside the sequence that is all of it
        a[5, 1:] = -torch.inf
        a.requires_grad_()
        p = window_softmax(a, 2)
        assert not p[3].any() and not p[0].any()
        assert p[5].tolist() == [1, 0, 0, 0, 0]
        (da,) = torch.autograd.grad(p, a, torch.randn(8, 5).to(dtype))
        assert da.isfinite().all() and not da[3].any() and not da[0].any() and not da[5].any()

"""tests/python/test_forward.py: what the three operators compute, in every dtype, shape, window and memory layout, on every row."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from cases import CASES, LAYOUTS, Case
from oracle import DTYPES, Band, check
from window_matmul import Window, unwindow_matmul, window_matmul, window_softmax

FILLS = (0.0, float("-inf"), 3.5)


Expected = tuple[Tensor, Tensor]  # the oracle's result, and how far from it a result may be


def expected_window_matmul(q: Tensor, k: Tensor, band: Band, fill: float = 0.0) -> Expected:
    exact = oracle.window_matmul(q, k, band, fill)
    magnitude = oracle.window_matmul(q.abs(), k.abs(), band)
    bound = oracle.product_bound(torch.where(exact.isfinite(), exact, 0.0), magnitude, q.shape[-1], q.dtype)
    return exact, torch.where(oracle.exists_like(exact, band, k.shape[-1]), bound, 0.0)


def expected_unwindow_matmul(a: Tensor, v: Tensor, band: Band) -> Expected:
    exact = oracle.unwindow_matmul(a, v, band)
    return exact, oracle.product_bound(exact, oracle.unwindow_matmul(a.abs(), v.abs(), band), band.width, a.dtype)


def expected_window_softmax(a: Tensor, band: Band, num_keys: int) -> Expected:
    exact = oracle.window_softmax(a, band, num_keys)
    return exact, torch.where(oracle.exists_like(exact, band, num_keys), oracle.softmax_bound(exact, a, a.dtype), 0.0)


def check_window_matmul(q: Tensor, k: Tensor, band: Band, fill: float = 0.0, window: Any = None) -> Tensor:
    actual = window_matmul(q, k, band.window if window is None else window, fill=fill, **band.options)
    check(actual, *expected_window_matmul(q, k, band, fill), q.dtype)
    return actual


def check_unwindow_matmul(a: Tensor, v: Tensor, band: Band, window: Any = None) -> Tensor:
    actual = unwindow_matmul(a, v, band.window if window is None else window, **band.options)
    check(actual, *expected_unwindow_matmul(a, v, band), a.dtype)
    return actual


def check_window_softmax(a: Tensor, band: Band, num_keys: int) -> Tensor:
    actual = window_softmax(a, band.window, num_keys=num_keys, **band.options)
    check(actual, *expected_window_softmax(a, band, num_keys), a.dtype)
    return actual


@functools.lru_cache(maxsize=1)  # for all rows
def operands_and_results(case: Case, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], list[Expected]]:
    q, k, a, v = case.tensors(dtype)
    of_scores = [expected_window_matmul(q, k, case.band, fill) for fill in FILLS]
    return (q, k, a, v), [*of_scores, expected_unwindow_matmul(a, v, case.band), expected_window_softmax(a, case.band, case.keys)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case(backend: str, case: Case, dtype: torch.dtype) -> None:
    (q, k, a, v), expected = operands_and_results(case, dtype)
    window, options = case.band.window, case.band.options
    results = [window_matmul(q, k, window, fill=fill, **options) for fill in FILLS]
    results += [unwindow_matmul(a, v, window, **options), window_softmax(a, window, num_keys=case.keys, **options)]
    for result, (exact, bound) in zip(results, expected, strict=True):
        check(result, exact, bound, dtype)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_layouts_do_not_matter(backend: str, dtype: torch.dtype, layout: Any) -> None:
    for case in (Case(37, 45, 24, Band(6, 9), (2, 3)), Case(19, 19, 7, Band(2, 1, (1, 4)), (3, 2)), Case(66, 70, 33, Band(33, 4, 2), ())):
        band, options = case.band, case.band.options
        q, k, a, v = case.tensors(dtype)
        scores, mixed, soft = (
            expected_window_matmul(q, k, band),
            expected_unwindow_matmul(a, v, band),
            expected_window_softmax(a, band, case.keys),
        )
        for other in LAYOUTS:
            check(window_matmul(layout(q), other(k), band.window, **options), *scores, dtype)
            check(unwindow_matmul(layout(a), other(v), band.window, **options), *mixed, dtype)
        check(window_softmax(layout(a), band.window, num_keys=case.keys, **options), *soft, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stride_zero(backend: str, dtype: torch.dtype) -> None:
    band = Band(3, 2)
    one_row, one_column = torch.randn(1, 5).to(dtype), torch.randn(12, 1).to(dtype)
    one = torch.randn(1, 1).to(dtype)
    check_window_matmul(one_row.expand(12, 5), one_column[:5].expand(5, 12), band)
    check_window_matmul(one.expand(3, 12, 5), one.expand(3, 5, 12), band)
    check_unwindow_matmul(one_column.expand(12, 6), one_row.expand(12, 5), band)
    check_unwindow_matmul(one.expand(2, 12, 6), torch.randn(12, 7).to(dtype).expand(2, 12, 7), band)
    check_window_softmax(one_column.expand(4, 12, 6), band, 12)


BATCHES = [
    ((), (3,)), ((3,), ()), ((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (1, 3)), ((1,), (4,)), ((2, 3), (1, 1)),
    ((2, 1, 3), (4, 1)), ((0,), (1,)), ((1, 1, 1), ()), ((1,), (2, 0)), ((5, 1, 1, 2), (1, 2)),
]  # fmt: skip


@pytest.mark.parametrize("first, second", BATCHES, ids=str)
def test_leading_dims_broadcast_as_matmul_does(backend: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    band = Band(2, 3)
    batch = (torch.empty(*first, 7, 4) @ torch.empty(*second, 4, 9)).shape[:-2]
    a = check_window_matmul(torch.randn(*first, 7, 4), torch.randn(*second, 4, 9), band)
    assert a.shape == (*batch, 7, 6)
    o = check_unwindow_matmul(torch.randn(*first, 7, 6), torch.randn(*second, 9, 4), band)
    assert o.shape == (*batch, 7, 4)


def test_heads_with_their_own_dilation_may_come_from_either_side(backend: str) -> None:
    band = Band(2, 1, (1, 3, 2))
    for first, second in (((), (3,)), ((3,), ()), ((1,), (3,)), ((2, 1), (3,)), ((3,), (2, 1)), ((4, 3), (1, 3))):
        check_window_matmul(torch.randn(*first, 11, 5), torch.randn(*second, 5, 13), band)
        check_unwindow_matmul(torch.randn(*first, 11, 4), torch.randn(*second, 13, 5), band)


def test_worked_example(backend: str) -> None:
    for dtype in DTYPES:
        q = torch.arange(1, 9, dtype=dtype).reshape(4, 2)
        a = window_matmul(q, q.mT, 1)
        assert a.dtype == dtype
        assert a.tolist() == [[0, 5, 11], [11, 25, 39], [39, 61, 83], [83, 113, 0]]
        o = torch.tensor([[38, 54], [281, 356], [1003, 1186], [1206, 1402]], dtype=dtype)  # rounded to bfloat16, exact in the others
        assert torch.equal(unwindow_matmul(a, q, 1), o)


def test_calls_of_the_ancestor(backend: str) -> None:
    for batch in ((2,), (2, 3), (2, 1, 3)):
        q, v = torch.randn(*batch, 9, 4), torch.randn(*batch, 9, 6)
        for w in (0, 1, 3, 8, 9, 20):
            a = window_matmul(q, q.transpose(-1, -2), w)
            assert torch.equal(a, check_window_matmul(q, q.transpose(-1, -2), Band(w, w)))
            assert torch.equal(unwindow_matmul(a, v, w), check_unwindow_matmul(a, v, Band(w, w)))
            assert torch.equal(window_softmax(a, w), check_window_softmax(a, Band(w, w), 9))


def test_every_way_to_write_a_window(backend: str) -> None:
    q, k, a, v = Case(15, 15, 4, Band(2, 2), (3,)).tensors()
    for window in (2, (2, 2), Window(2, 2), Window(2, 2, dilation=1)):
        check_window_matmul(q, k, Band(2, 2), window=window)
        check_unwindow_matmul(a, v, Band(2, 2), window=window)
        assert torch.equal(window_softmax(a, window), window_softmax(a, 2))
    window = Window(2, 2, dilation=3)
    assert torch.equal(window_matmul(q, k, window), window_matmul(q, k, 2, dilation=3))
    assert torch.equal(window_matmul(q, k, window, dilation=3), window_matmul(q, k, 2, dilation=3))
    assert torch.equal(unwindow_matmul(a, v, window), unwindow_matmul(a, v, 2, dilation=3))
    assert torch.equal(window_softmax(a, window), window_softmax(a, 2, dilation=3))
    assert torch.equal(window_matmul(q, k, 2, dilation=[1, 2, 3]), window_matmul(q, k, 2, dilation=(1, 2, 3)))


def test_softmax_counts_queries_where_no_number_of_keys_is_given(backend: str) -> None:
    a = torch.randn(10, 4)
    assert torch.equal(window_softmax(a, (2, 1)), window_softmax(a, (2, 1), num_keys=10))
    assert not torch.equal(window_softmax(a, (2, 1)), window_softmax(a, (2, 1), num_keys=11, query_offset=0))


def test_fill_is_rounded_to_the_dtype_and_nothing_else_is_touched(backend: str) -> None:
    for dtype in DTYPES:
        q, k, _, _ = Case(5, 5, 3, Band(2, 2)).tensors(dtype)
        _, exists = Band(2, 2).keys(5, 5)
        plain = window_matmul(q, k, 2)
        for fill in (0.1, -7, 3, float("inf"), 1e-3):
            filled = window_matmul(q, k, 2, fill=fill)
            assert torch.equal(filled, torch.where(exists, plain, torch.tensor(fill, dtype=dtype)))


def test_torch_softmax_agrees_where_the_fill_is_minus_infinity(backend: str) -> None:
    q, k, _, _ = Case(30, 30, 8, Band(4, 3, 2)).tensors()
    scores = window_matmul(q, k, (4, 3), dilation=2, fill=float("-inf"))
    torch.testing.assert_close(window_softmax(scores, (4, 3), dilation=2), torch.softmax(scores, -1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmax_of_extreme_rows(backend: str, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    rows = [[largest, largest, 0.0], [-largest, -largest, -largest], [-torch.inf, 2.0, -torch.inf], [-torch.inf] * 3]
    p = window_softmax(torch.tensor(rows, dtype=dtype), 1, num_keys=6, query_offset=1)
    exact = torch.tensor([[0.5, 0.5, 0.0], [1 / 3] * 3, [0.0, 1.0, 0.0], [0.0] * 3], dtype=torch.float64)
    check(p, exact, exact * 4 * oracle.ROUNDING[dtype], dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_at_least_as_good_as_torch(backend: str, dtype: torch.dtype) -> None:
    case = Case(160, 160, 96, Band(24, 24), (2, 2))
    q, k, a, v = case.tensors(dtype)
    key, exists = case.band.keys(160, 160)
    ours = window_matmul(q, k, 24).double()
    index = key.clamp(max=159).expand(2, 2, -1, -1)
    theirs = torch.where(exists, (q @ k).gather(-1, index), 0).double()
    _at_most(ours, theirs, oracle.window_matmul(q, k, case.band))
    dense = torch.zeros(2, 2, 160, 161, dtype=dtype).scatter(-1, key.expand(2, 2, -1, -1), a)[..., :160]
    _at_most(unwindow_matmul(a, v, 24).double(), (dense @ v).double(), oracle.unwindow_matmul(a, v, case.band))
    masked = a.masked_fill(~exists, -torch.inf)
    _at_most(window_softmax(a, 24).double(), torch.softmax(masked, -1).double(), oracle.window_softmax(a, case.band))


def _at_most(ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    """In the largest and in the mean square error; a thousandth is for ties of rounding, which a float32 sum may break either way."""
    ours, theirs = (ours - exact).abs(), (theirs - exact).abs()
    assert ours.max() <= theirs.max() * 1.001
    assert ours.square().mean() <= theirs.square().mean() * 1.001


def test_lazily_negated_and_sliced_views(backend: str) -> None:
    z = torch.randn(2, 9, 4, dtype=torch.complex64)
    negated, strided = z.conj().imag, z.real
    assert negated.is_neg() and not strided.is_contiguous()
    check_window_matmul(negated, strided.mT, Band(2, 1))
    check_unwindow_matmul(negated, strided, Band(2, 1))
    check_window_softmax(negated, Band(2, 1), 9)

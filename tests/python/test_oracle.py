"""tests/python/test_oracle.py: the oracle against the definition written out in loops, the package's reference against the oracle."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import oracle
from cases import CASES, SMALL_CASES, Case
from oracle import Band, check
from window_matmul import reference


def window_matmul_in_loops(q: Tensor, k: Tensor, band: Band, fill: float) -> Tensor:
    (lq, n), lk = q.shape, k.shape[1]
    shift = lk - lq if band.query_offset is None else band.query_offset
    a = torch.full((lq, band.width), fill, dtype=torch.float64)
    for i, t in itertools.product(range(lq), range(-band.left, band.right + 1)):
        j = i + shift + t * band.dilation
        if 0 <= j < lk:
            a[i, t + band.left] = math.fsum(float(q[i, m]) * float(k[m, j]) for m in range(n))
    return a


def unwindow_matmul_in_loops(a: Tensor, v: Tensor, band: Band) -> Tensor:
    (lq, _), (lk, n) = a.shape, v.shape
    shift = lk - lq if band.query_offset is None else band.query_offset
    o = torch.zeros(lq, n, dtype=torch.float64)
    for i, t in itertools.product(range(lq), range(-band.left, band.right + 1)):
        j = i + shift + t * band.dilation
        if 0 <= j < lk:
            o[i] += a[i, t + band.left] * v[j]
    return o


def window_softmax_in_loops(a: Tensor, band: Band, num_keys: int) -> Tensor:
    shift = num_keys - a.shape[0] if band.query_offset is None else band.query_offset
    p = torch.zeros_like(a)
    for i in range(a.shape[0]):
        slots = [t + band.left for t in range(-band.left, band.right + 1) if 0 <= i + shift + t * band.dilation < num_keys]
        total = math.fsum(math.exp(float(a[i, c])) for c in slots)
        for c in slots:
            p[i, c] = math.exp(float(a[i, c])) / total
    return p


@pytest.mark.best_backend
@pytest.mark.parametrize("lq, lk", list(itertools.product((0, 1, 2, 5), repeat=2)))
def test_the_oracle_is_the_definition(lq: int, lk: int) -> None:
    for left, right, dilation, offset in itertools.product((0, 1, 3), (0, 2), (1, 2, 2**62), (None, -3, 0, 1, 7, 2**62)):
        band = Band(left, right, dilation, offset)
        q, k, a, v = Case(lq, lk, 3, band, ()).tensors()
        check(oracle.window_matmul(q, k, band, 3.5), window_matmul_in_loops(q, k, band, 3.5), 1e-14, torch.float64)
        check(oracle.unwindow_matmul(a, v, band), unwindow_matmul_in_loops(a, v, band), 1e-14, torch.float64)
        check(oracle.window_softmax(a, band, lk), window_softmax_in_loops(a, band, lk), 1e-14, torch.float64)


@pytest.mark.best_backend
def test_the_oracle_takes_a_dilation_for_each_head() -> None:
    case = Case(9, 11, 2, Band(2, 1, (1, 3, 4)), (2, 3))
    q, k, a, v = case.tensors()
    for head, dilation in enumerate((1, 3, 4)):
        one = Band(2, 1, dilation)
        assert torch.equal(oracle.window_matmul(q, k, case.band)[:, head], oracle.window_matmul(q[:, head], k[:, head], one))
        assert torch.equal(oracle.unwindow_matmul(a, v, case.band)[:, head], oracle.unwindow_matmul(a[:, head], v[:, head], one))
        assert torch.equal(oracle.window_softmax(a, case.band, 11)[:, head], oracle.window_softmax(a[:, head], one, 11))


@pytest.mark.best_backend
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_is_the_oracle(case: Case) -> None:
    q, k, a, v = case.tensors()
    exact = oracle.window_matmul(q, k, case.band, -1.25)
    actual = reference.window_matmul(q, k, case.band.window, fill=-1.25, **case.band.options)
    check(actual, exact, oracle.product_bound(exact, oracle.window_matmul(q.abs(), k.abs(), case.band), case.dim, q.dtype), q.dtype)
    exact = oracle.unwindow_matmul(a, v, case.band)
    actual = reference.unwindow_matmul(a, v, case.band.window, **case.band.options)
    check(
        actual, exact, oracle.product_bound(exact, oracle.unwindow_matmul(a.abs(), v.abs(), case.band), case.band.width, q.dtype), q.dtype
    )
    exact = oracle.window_softmax(a, case.band, case.keys)
    actual = reference.window_softmax(a, case.band.window, num_keys=case.keys, **case.band.options)
    check(actual, exact, oracle.softmax_bound(exact, a, q.dtype), q.dtype)


@pytest.mark.best_backend
def test_the_reference_never_lets_what_is_outside_in() -> None:
    for case in SMALL_CASES:
        _, _, a, v = case.tensors()
        _, exists = case.band.keys(case.queries, case.keys)
        poisoned = torch.where(exists, a, torch.nan)
        options = case.band.options
        clean = reference.unwindow_matmul(torch.where(exists, a, 0), v, case.band.window, **options)
        assert torch.equal(reference.unwindow_matmul(poisoned, v, case.band.window, **options), clean)
        soft = reference.window_softmax(a, case.band.window, num_keys=case.keys, **options)
        assert torch.equal(reference.window_softmax(poisoned, case.band.window, num_keys=case.keys, **options), soft)

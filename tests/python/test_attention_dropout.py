"""tests/python/test_attention_dropout.py: which weights are dropped, where the seed comes from, and that gradients know the same mask."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from attention_cases import Case, check_case, gradients, leaves, random_cases
from attention_oracle import Rule
from oracle import DTYPES
from window_matmul import window_attention, window_attention_varlen

OPERATOR = "attention"
CASES = [
    Case(Rule(2, 1)),
    Case(Rule(None, None), 9, 9, heads=4, kv_heads=2),
    Case(Rule(3, 0, (1, 2)), 12, 12, key_mask=True, sinks=True),
    Case(Rule(2, 2), 9, 9, bias="full", global_mask=True, softcap=2.0),
]


def kept_of(case: Case, p: float, seed: int) -> Tensor:
    """What the weights are multiplied with, (B, H, Lq, Lk), seen through equal weights and values that name their keys."""
    b, h, lq, lk = case.batch, case.heads, case.queries, case.keys
    q, k = torch.zeros(b, h, lq, 1, dtype=torch.float64), torch.zeros(b, h, lk, 1, dtype=torch.float64)
    v = torch.eye(lk, dtype=torch.float64).expand(b, h, lk, lk)
    torch.manual_seed(seed)
    return window_attention(q, k, v, None, dropout_p=p) * lk


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_the_definition(backend: str, case: Case) -> None:
    """The mask depends on the seed and on (batch entry, head, query, key) alone: not on window, options, dtype or values."""
    for p in (0.1, 0.5, 0.9):
        kept = kept_of(case, p, 3)
        zero, scaled = kept == 0, (kept - 1 / (1 - p)).abs() < 1e-9
        assert (zero | scaled).all() and zero.any() and scaled.any()

        def call(tensors: dict[str, Tensor], p: float = p) -> tuple[Tensor, Tensor]:
            torch.manual_seed(3)
            return case.ours(tensors, dropout_p=p)

        for dtype in DTYPES:
            check_case(case, dtype, kept=(~zero).double() / (1 - p), call=call)


@hypothesis.settings(max_examples=60)
@hypothesis.given(case=random_cases(), dtype=st.sampled_from(DTYPES), p=st.sampled_from([0.2, 0.7]), seed=st.integers(0, 2**63 - 1))
def test_random_combinations(backend: str, case: Case, dtype: torch.dtype, p: float, seed: int) -> None:
    zero = kept_of(case, p, seed) == 0

    def call(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        return case.ours(tensors, dropout_p=p)

    check_case(case, dtype, kept=(~zero).double() / (1 - p), call=call)


def test_how_many_are_kept(backend: str) -> None:
    case = Case(Rule(None, None), 150, 140, batch=1, heads=2, kv_heads=2)
    for p in (0.05, 0.3, 0.8):
        dropped = (kept_of(case, p, 1) == 0).double()
        count = dropped.numel()
        assert abs(dropped.mean() - p) < 5 * math.sqrt(p * (1 - p) / count)  # five standard deviations
        for dim in range(4):  # nor do neighbours have anything to do with each other
            if dropped.shape[dim] > 1:
                first, second = dropped.narrow(dim, 0, dropped.shape[dim] - 1), dropped.narrow(dim, 1, dropped.shape[dim] - 1)
                assert abs(((first - p) * (second - p)).mean()) < 5 * p * (1 - p) / math.sqrt(first.numel())


def test_the_mean_over_seeds_is_the_result_without(backend: str) -> None:
    case = CASES[0]
    tensors = case.tensors()
    plain, lse = case.ours(tensors)
    total, square, count = torch.zeros_like(plain), torch.zeros_like(plain), 2000
    for _ in range(count):
        out, other_lse = case.ours(tensors, dropout_p=0.4)
        total, square = total + out, square + out**2
        assert torch.equal(lse, other_lse)  # dropout comes after the softmax
    mean = total / count
    deviation = (square / count - mean**2).clamp(min=0).sqrt() / math.sqrt(count)
    assert ((mean - plain).abs() <= 5.5 * deviation + 1e-9).all()


def test_seeds(backend: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 4)

    def draw(seed: int | None = None, p: float = 0.5) -> Tensor:
        if seed is not None:
            torch.manual_seed(seed)
        return window_attention(q, k, v, 3, dropout_p=p)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(), draw())  # each call has its own
    torch.manual_seed(5)
    draw(p=0.0)
    unused = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), unused)  # p = 0 draws nothing
    assert torch.equal(draw(p=0.0), window_attention(q, k, v, 3))


def test_everything_dropped(backend: str) -> None:
    """Results are 0; the log-sum-exp is what it was, and so is its gradient."""
    case = CASES[2]
    tensors = case.tensors()
    dropped, plain = leaves(tensors), leaves(tensors)
    (out, lse), (_, expected) = case.ours(dropped, dropout_p=1.0), case.ours(plain)
    assert not out.any() and torch.equal(lse, expected)
    d_lse = torch.randn_like(lse)
    got = gradients((out, lse), dropped, (torch.randn_like(out), d_lse))
    assert not got["v"].any() and not got["sinks"].any()
    torch.testing.assert_close((got["q"], got["k"]), torch.autograd.grad(expected, (plain["q"], plain["k"]), d_lse))


def test_of_packed_sequences(backend: str) -> None:
    """The mask of a sequence depends on its number, and on heads, queries and keys within it."""
    lengths = [3, 9, 1, 6]
    cu = torch.tensor([0, *lengths]).cumsum(0)
    q, k, v = torch.randn(3, sum(lengths), 2, 4, dtype=torch.float64)

    def packed(**options: Any) -> Tensor:
        torch.manual_seed(11)
        return window_attention_varlen(q, k, v, cu, cu, 2, dropout_p=0.5, **options)

    out = packed()
    padded = [torch.zeros(4, 9, 2, 4, dtype=torch.float64) for _ in range(3)]
    for s, length in enumerate(lengths):
        for whole, x in zip(padded, (q, k, v), strict=True):
            whole[s, :length] = x[cu[s] : cu[s + 1]]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    torch.manual_seed(11)
    batch = window_attention(*(x.transpose(1, 2) for x in padded), 2, key_mask=mask, dropout_p=0.5).transpose(1, 2)
    for s, length in enumerate(lengths):
        torch.testing.assert_close(out[cu[s] : cu[s + 1]], batch[s, :length])


@pytest.mark.best_backend
def test_checkpoints_draw_the_same_again(backend: str) -> None:
    case = replace(CASES[0], queries=9)
    tensors = leaves(case.tensors())

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return case.ours({"q": q, "k": k, "v": v}, dropout_p=0.5)[0]

    torch.manual_seed(2)
    expected = torch.autograd.grad(f(**tensors).sin().sum(), list(tensors.values()))
    torch.manual_seed(2)
    y = torch.utils.checkpoint.checkpoint(f, *tensors.values(), use_reentrant=False)
    assert all(torch.equal(x, e) for x, e in zip(torch.autograd.grad(y.sin().sum(), list(tensors.values())), expected, strict=True))

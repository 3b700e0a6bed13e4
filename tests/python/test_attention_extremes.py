"""tests/python/test_attention_extremes.py: finite scores near the ends of what sums can hold, whole rows of them, and sinks far below.

Powers of two that leave every score as it is leave the results as they are: q 2^a, k 2^b and scale 2^-(a + b) give the same output and
log-sum-exp, d_q 2^-a and d_k 2^-b.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_cases import Case, gradients, leaves
from attention_oracle import Rule
from oracle import DTYPES, ROUNDING
from window_matmul import unwindow_matmul, window_attention, window_matmul, window_softmax
from window_matmul.testing import backends

OPERATOR = "attention"
MANY = Case(Rule(9, 4), 70, 75, heads=4, dim=5, value_dim=3, scale=0.5)
FEW = Case(Rule(700, 0), 3, 1300, batch=1, heads=4, dim=5, value_dim=3, scale=0.5)
by_size = pytest.mark.parametrize("case", [MANY, FEW], ids=["many", "few"])


def check_close(got: Tensor, want: Tensor, dtype: torch.dtype, terms: int = 64) -> None:
    """To the rounding of the dtype, and of sums of some terms, beside the largest element."""
    size = float(want.abs().max())
    allowed = (2 * ROUNDING[dtype] + terms * ROUNDING[torch.float64 if dtype == torch.float64 else torch.float32]) * size
    assert (got.double() - want).abs().max() <= allowed, f"{(got.double() - want).abs().max():.3g} beside {size:.3g}"


def results(case: Case, tensors: dict[str, Tensor], exact: bool = False) -> dict[str, Tensor]:
    """out, lse and all gradients, of ours or of the definition in double precision."""
    tensors = leaves({name: x.double() if exact and x.dtype != torch.bool else x for name, x in tensors.items()})
    dense = case.exact(tensors) if exact else None
    out, lse = case.ours(tensors) if dense is None else (dense.out, dense.lse)
    generator = torch.Generator().manual_seed(5)
    d_out, d_lse = (torch.randn(x.shape, generator=generator).to(x.dtype) for x in (out, lse))
    return {"out": out.detach(), "lse": lse.detach()} | gradients((out, lse), tensors, (d_out, d_lse))


# ---- the order of scaling ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "case",
    [
        MANY,
        replace(MANY, softcap=2.0, sinks=True),
        replace(MANY, bias="slots", key_mask=True),
        replace(MANY, queries=75, global_tokens=2),
        FEW,
        replace(FEW, softcap=2.0, bias="slots"),
    ],
    ids=str,
)
@pytest.mark.parametrize("q, k", [(10, -100), (100, 0), (0, 110), (60, 60), (-60, -60), (-20, -100)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_powers_of_two(backend: str, dtype: torch.dtype, q: int, k: int, case: Case) -> None:
    assert case.scale is not None
    if dtype == torch.float64:
        q, k = 8 * q, 8 * k
    plain = case.tensors(dtype)
    want = results(case, plain, exact=True)
    scaled = plain | {"q": plain["q"] * 2.0**q, "k": plain["k"] * 2.0**k}
    got = results(replace(case, scale=math.ldexp(case.scale, -q - k)), scaled)
    got["q"], got["k"] = got["q"].double() * 2.0**q, got["k"].double() * 2.0**k
    if dtype == torch.bfloat16:
        want.pop("sinks", None)  # it has the roundings of every output
    for name, x in want.items():
        check_close(got[name], x, torch.float32 if name == "lse" and dtype != torch.float64 else dtype, 640)


@pytest.mark.parametrize("cap", [2.0**120, 2.0**-120], ids=str)
def test_caps_at_the_ends(backend: str, cap: float) -> None:
    """One that is far above all scores changes nothing, and one far below leaves none of them."""
    for case in (MANY, FEW):
        plain = case.tensors(torch.float32)
        want = results(replace(case, scale=case.scale if cap > 1 else 0.0), plain, exact=True)
        got = results(replace(case, softcap=cap), plain)
        for name in ("out", "lse", "v", *(("q", "k") if cap > 1 else ())):
            check_close(got[name], want[name], torch.float32, 640)


def test_the_queries_alone_overflow(backend: str) -> None:
    """q 1e3, k 2e-38 and scale 1e36: 40 keys whose score is 20."""
    for queries in (1, 40):
        q, k, v = torch.full((1, 1, queries, 1), 1e3), torch.full((1, 1, 40, 1), 2e-38), torch.arange(40.0).view(1, 1, 40, 1)
        out, lse = window_attention(q, k, v, None, scale=1e36, return_lse=True)
        assert (lse - 20 - math.log(40)).abs().max() < 1e-5 and (out - 19.5).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scores_at_the_ends(backend: str, dtype: torch.dtype) -> None:
    """Products that are finite and would not be in units of log 2; those that are not do as a softmax over them does."""
    high = torch.finfo(dtype).max
    for queries in (1, 50):
        k = torch.tensor([0.8, 0.9, 0.9, -0.9], dtype=dtype).mul(high).view(1, 1, 4, 1)
        v = torch.arange(4, dtype=dtype).view(1, 1, 4, 1)
        for sign, want_out, want_lse in ((1, 1.5, 0.9), (-1, 3.0, 0.9)):
            q = torch.full((1, 1, queries, 1), sign, dtype=dtype, requires_grad=True)
            v_ = v.clone().requires_grad_()
            out, lse = window_attention(q, k, v_, None, scale=1.0, return_lse=True)
            assert (out == want_out).all() and (lse / high - want_lse).abs().max() < 1e-6
            d_q, d_v = torch.autograd.grad(out.sum(), (q, v_))
            assert (
                d_v.flatten().tolist() == ([0, queries / 2, queries / 2, 0] if sign > 0 else [0, 0, 0, queries]) and not d_q.isnan().any()
            )
        out, lse = window_attention(-q.detach().abs(), k[:, :, :3], v[:, :, :3], None, scale=1.0, return_lse=True)
        assert (out == 0).all() and (lse / high + 0.8).abs().max() < 1e-6
        out, _ = window_attention(2 * q.detach().abs(), k[:, :, :1], v[:, :, :1], None, scale=1.0, return_lse=True)
        assert out.isnan().all() or (backend == "reference" and dtype == torch.float32)  # it sums in double


# ---- bias --------------------------------------------------------------------------------------------------------------------------------
@by_size
@pytest.mark.parametrize("low", [-1e9, -0.7, -0.88, -1.0], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_whole_row_of_a_low_bias(backend: str, dtype: torch.dtype, low: float, case: Case) -> None:
    """Below -1e9 as a part of the lowest number: a bias like others, and as large as others, in every dtype."""
    case = replace(case, bias="slots", wide_bias=dtype != torch.float64, rule=Rule(min(case.rule.left or 0, 400), 0))
    plain = case.tensors(dtype)
    lowest = torch.finfo(plain["bias"].dtype).max
    plain["bias"] = torch.full_like(plain["bias"], low if low < -1 else low * lowest)
    plain["q"] = plain["q"] * 0  # so that no rounding of a score is as large as the score
    got, want = results(case, plain), results(case, plain, exact=True)
    for name, x in want.items():
        check_close(got[name], x, torch.float32 if name == "lse" and dtype != torch.float64 else dtype, 2600)


@by_size
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_slots_that_differ_at_the_ends(backend: str, dtype: torch.dtype, case: Case) -> None:
    """Two low numbers are two numbers, and a high one takes everything."""
    case = replace(case, bias="slots", rule=Rule(case.rule.left or 0, 0))
    high = torch.finfo(dtype).max
    for value, other in ((0.97 * high, None), (-0.72 * high, -0.9 * high)):
        plain = case.tensors(dtype)
        bias = plain["bias"] if other is None else torch.full_like(plain["bias"], other)
        bias[:, -2] = value
        plain["bias"] = bias
        got, want = results(case, plain), results(case, plain, exact=True)
        for name, x in want.items():
            assert got[name].isfinite().all(), name
            check_close(got[name], x, dtype, 2600)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_three_operators_with_a_low_mask(backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added to scores, as users write it: a whole row of it gives the mean, and its gradients are those of a mean."""
    if backend not in backends("band_out", str(dtype).removeprefix("torch.")):
        return  # it has fused attention alone
    q, k, v = torch.zeros(3, 2, 12, 4, dtype=dtype)
    v = torch.randn(2, 12, 4, dtype=torch.float64).to(dtype).requires_grad_()
    for low in (-1e4 if dtype == torch.float16 else -1e9, torch.finfo(dtype).min):
        monkeypatch.setenv("WINDOW_MATMUL_BACKEND", backend)
        a = (window_matmul(q, k.mT, (3, 0)) + torch.full((4,), low, dtype=dtype)).requires_grad_()
        p = window_softmax(a, (3, 0))
        out = unwindow_matmul(p, v, (3, 0))
        d_out = torch.randn_like(out)
        d_a, d_v = torch.autograd.grad(out, (a, v), d_out)
        monkeypatch.setenv("WINDOW_MATMUL_BACKEND", "reference")  # a row may take bf16 alone
        wide = v.detach().double().requires_grad_()
        exact_a = a.detach().double().mul(0).requires_grad_()
        exact = unwindow_matmul(window_softmax(exact_a, (3, 0)), wide, (3, 0))
        want_a, want_v = torch.autograd.grad(exact, (exact_a, wide), d_out.double())
        for got, want in ((out, exact), (d_v, want_v), (d_a, want_a)):
            assert (got.double() - want).abs().max() <= 16 * ROUNDING[dtype] * max(1.0, float(want.detach().abs().max()))


# ---- sinks -------------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "dtype, sink", [(torch.float32, s) for s in (-10.0, -20.0, -80.0, 12.0)] + [(torch.float64, s) for s in (-30.0, -60.0)]
)
def test_the_gradient_of_a_sink_far_below_the_scores(backend: str, dtype: torch.dtype, sink: float) -> None:
    """-p (1 - p) 2, where 1 - (1 - p) would have lost p."""
    q, k, v = (torch.full((1, 1, 1, 1), x, dtype=dtype) for x in (0.0, 0.0, 2.0))
    sinks = torch.tensor([sink], dtype=dtype, requires_grad=True)
    (got,) = torch.autograd.grad(window_attention(q, k, v, None, sinks=sinks).sum(), sinks)
    want = -2 * math.exp(sink) / (1 + math.exp(sink)) ** 2
    assert abs(got.item() / want - 1) <= 16 * (1 + abs(sink)) * ROUNDING[dtype]
    if sink == -10:
        assert abs(got.item() + 9.0792e-05) < 1e-9


@pytest.mark.parametrize("options", [{}, {"global_tokens": 3}, {"bias": torch.zeros(1, 64)}], ids=["plain", "global", "bias"])
def test_the_gradient_of_a_sink_over_many_rows(backend: str, options: dict[str, Any]) -> None:
    q, k, v = (torch.full((1, 1, 512, 1), x) for x in (0.0, 0.0, 2.0))
    sinks = torch.tensor([-14.0], requires_grad=True)
    out, lse = window_attention(q, k, v, (63, 0), sinks=sinks, return_lse=True, **options)
    (got,) = torch.autograd.grad(out.sum(), sinks)
    odds = (-14 - lse.double()).exp()
    want = -2 * (odds / (1 + odds) ** 2).sum().item()
    assert abs(got.item() / want - 1) <= 600 * ROUNDING[torch.float32]


@pytest.mark.parametrize("low", [-1e9, -3e38], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sink_beside_a_low_row(backend: str, dtype: torch.dtype, low: float) -> None:
    """It is one key more: the share of each is one part of the row's keys and it, in output and gradients."""
    case = Case(Rule(5, 0), 17, 17, bias="slots", sinks=True, wide_bias=dtype != torch.float64)
    plain = case.tensors(dtype)
    plain |= {"q": plain["q"] * 0, "bias": torch.full_like(plain["bias"], low), "sinks": torch.full_like(plain["sinks"], low)}
    got, want = results(case, plain), results(case, plain, exact=True)
    for name, x in want.items():
        check_close(got[name], x, torch.float32 if name == "lse" and dtype != torch.float64 else dtype, 640)

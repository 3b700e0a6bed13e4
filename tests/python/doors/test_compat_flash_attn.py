"""tests/python/doors/test_compat_flash_attn.py: flash-attn's functions against their documented formula, option by option."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from flash_formula import (
    CU_K,
    CU_Q,
    DIM,
    HEADS,
    SLOPES,
    assert_close,
    assert_gradients,
    by_sequence,
    formula,
    packed,
    qkv,
    uniform,
)
from oracle import DTYPES
from window_matmul import window_attention, window_attention_varlen
from window_matmul.compat import strict
from window_matmul.compat.flash_attn import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

pytestmark = pytest.mark.best_backend

LENGTHS = [(7, 7), (5, 9), (9, 5), (1, 6), (6, 1), (1, 1), (0, 4), (4, 0)]
WINDOWS = [(-1, -1), (2, 1), (0, 0), (3, -1), (-1, 2), (100, 100), (1, 4)]


# ---- batches -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("slopes", SLOPES)
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("window_size", WINDOWS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_results_and_gradients(lengths: tuple[int, int], window_size: tuple[int, int], causal: bool, slopes: str) -> None:
    tensors = qkv(*lengths, grad=True)
    options = {"causal": causal, "window_size": window_size, "alibi_slopes": SLOPES[slopes]}
    out, lse, dropped = flash_attn_func(*tensors, **options, return_attn_probs=True)  # type: ignore[arg-type, misc]
    right = formula(*tensors, **options)
    assert_close(out, right[0])
    assert_close(lse, right[1])
    assert dropped.shape == (0,) and dropped.dtype is torch.float64
    assert out.is_contiguous() and torch.equal(out, flash_attn_func(*tensors, **options))  # type: ignore[arg-type]
    assert_gradients((out, lse), right[:2], tensors)


OPTIONS: list[dict[str, Any]] = [
    {"softmax_scale": 0.7},
    {"softcap": 1.5},
    {"softcap": -1.0},  # none, as 0
    {"deterministic": True},
    {"softcap": 2.0, "softmax_scale": 1.3, "causal": True, "window_size": (4, 4), "alibi_slopes": SLOPES["(B, H)"]},
]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options: dict[str, Any], kv_heads: int) -> None:
    tensors = qkv(6, 9, kv_heads, grad=True)
    out, lse, _ = flash_attn_func(*tensors, **options, return_attn_probs=True)
    right = formula(*tensors, **options | ({"softcap": 0.0} if options.get("softcap", 0) < 0 else {}))
    assert_close(out, right[0])
    assert_gradients((out, lse), right[:2], tensors)


@pytest.mark.parametrize("slopes", SLOPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, slopes: str) -> None:
    tensors = qkv(9, 9, dtype=dtype)
    options = {"window_size": (3, 2), "alibi_slopes": SLOPES[slopes]}
    out, lse, dropped = flash_attn_func(*tensors, **options, return_attn_probs=True)  # type: ignore[arg-type, misc]
    right = formula(*tensors, **options)
    assert out.dtype is dropped.dtype is dtype and lse.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert_close(out, right[0], dtype)
    assert_close(lse, right[1], torch.float32)


def test_slopes_are_not_rounded_by_autocast() -> None:
    """At a distance of 300 a slope of 0.01 in bfloat16 would be off by 0.01."""
    q, k, v = uniform(1, 301, HEADS, DIM), uniform(1, 301, 2, DIM), uniform(1, 301, 2, DIM)
    q, k, v = (x.float() for x in (q, k, v))
    slopes = torch.full((HEADS,), 0.01)
    halves = [x.bfloat16() for x in (q, k, v)]
    with torch.autocast("cpu", torch.bfloat16):
        out = flash_attn_func(q, k, v, alibi_slopes=slopes)
        cu = torch.tensor([0, 301])
        packed = flash_attn_varlen_func(q[0], k[0], v[0], cu, cu, 301, 301, alibi_slopes=slopes)
    assert isinstance(out, Tensor) and torch.equal(out, flash_attn_func(*halves, alibi_slopes=slopes))  # type: ignore[arg-type]
    assert out.dtype is torch.bfloat16 and torch.equal(out[0], packed)  # type: ignore[arg-type]


def test_packed_tensors() -> None:
    q, k, v = qkv(7, 7, HEADS)
    options: dict[str, Any] = {"causal": True, "window_size": (3, 0), "return_attn_probs": True}
    right = flash_attn_func(q, k, v, **options)
    three, two = torch.stack([q, k, v], 2).requires_grad_(), torch.stack([k, v], 2).requires_grad_()
    for results, whole, stacked in (
        (flash_attn_qkvpacked_func(three, **options), three, [q, k, v]),
        (flash_attn_kvpacked_func(q, two, **options), two, [k, v]),
    ):
        for result, want in zip(results, right, strict=True):
            assert torch.equal(result, want)
        leaves = [x.clone().requires_grad_() for x in stacked]
        operands = leaves if len(leaves) == 3 else [q, *leaves]
        weight = uniform(*q.shape)
        (gradient,) = torch.autograd.grad(results[0], whole, weight)
        for at, want in enumerate(torch.autograd.grad(flash_attn_func(*operands, **options)[0], leaves, weight)):
            assert torch.equal(gradient[:, :, at], want)


def test_results_lie_as_queries_do() -> None:
    q, k, v = qkv(7, 7)
    inside = q.transpose(1, 2).contiguous().transpose(1, 2)
    out = flash_attn_func(inside, k, v)
    assert isinstance(out, Tensor) and out.stride() == torch.empty_like(inside).stride()
    assert torch.equal(out, flash_attn_func(q, k, v))  # type: ignore[arg-type]


def test_a_batch_of_none() -> None:
    q, k, v = (x[:0] for x in qkv(7, 7))
    for slopes in (None, torch.ones(HEADS), torch.ones(0, HEADS)):
        assert flash_attn_func(q, k, v, alibi_slopes=slopes).shape == q.shape  # type: ignore[union-attr]


# ---- packed sequences ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("around", [(0, 0), (2, 3)], ids=["", "rows of no sequence"])
@pytest.mark.parametrize("slopes", [None, (HEADS,), (4, HEADS)], ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("window_size", WINDOWS, ids=str)
def test_sequences(window_size: tuple[int, int], causal: bool, slopes: tuple[int, ...] | None, around: tuple[int, int]) -> None:
    tensors = packed(before=around[0], behind=around[1])
    options = {"causal": causal, "window_size": window_size, "alibi_slopes": None if slopes is None else torch.rand(slopes), "softcap": 3.0}
    cu_q, cu_k = CU_Q + around[0], CU_K + around[0]
    out, lse, _ = flash_attn_varlen_func(*tensors, cu_q, cu_k, 7, 8, **options, return_attn_probs=True)  # type: ignore[arg-type, misc]
    right = by_sequence(*tensors, *around, **options)  # type: ignore[arg-type]
    assert_close(out, right[0])
    assert_close(lse, right[1])
    assert lse.shape == (HEADS, len(tensors[0]))
    assert_gradients((out, lse), right, tensors)


def test_packed_tensors_of_sequences() -> None:
    q, k, v = uniform(3, 13, HEADS, DIM)
    options: dict[str, Any] = {"window_size": (2, 1), "return_attn_probs": True}
    right = flash_attn_varlen_func(q, k, v, CU_Q, CU_Q, 7, 7, **options)
    three = flash_attn_varlen_qkvpacked_func(torch.stack([q, k, v], 1), CU_Q, 7, **options)
    two = flash_attn_varlen_kvpacked_func(q, torch.stack([k, v], 1), CU_Q, CU_Q.long(), 7, 9, **options)
    for results in (three, two):
        assert all(torch.equal(result, want) for result, want in zip(results, right, strict=True))


def test_no_sequences() -> None:
    cu = torch.zeros(1, dtype=torch.int32)
    for slopes in (None, torch.ones(0, HEADS)):
        out, lse, _ = flash_attn_varlen_func(*packed(), cu, cu, 0, 0, alibi_slopes=slopes, return_attn_probs=True)
        assert not out.any() and (lse == torch.inf).all()


# ---- dropout -------------------------------------------------------------------------------------------------------------------------
def seeded(function: Any, *args: Any, **options: Any) -> Any:
    torch.manual_seed(7)
    return function(*args, **options)


def test_dropout_is_that_of_the_operators() -> None:
    q, k, v = qkv(6, 9)
    out = seeded(flash_attn_func, q, k, v, dropout_p=0.3, window_size=(3, 1))
    want = seeded(window_attention, *(x.transpose(1, 2) for x in (q, k, v)), (3, 1), dropout_p=0.3)
    assert torch.equal(out, want.transpose(1, 2))
    assert not torch.equal(out, flash_attn_func(q, k, v, dropout_p=0.3, window_size=(3, 1)))  # type: ignore[arg-type]
    tensors = packed()
    out = seeded(flash_attn_varlen_func, *tensors, CU_Q, CU_K, 7, 8, dropout_p=0.3)
    assert torch.equal(out, seeded(window_attention_varlen, *tensors, CU_Q, CU_K, None, dropout_p=0.3))


@pytest.mark.filterwarnings("ignore::window_matmul.compat.WindowFallbackWarning")
@pytest.mark.parametrize("slopes", SLOPES)
def test_dropped_weights(slopes: str) -> None:
    """What is returned for tests gives the output, and the calls before and after draw as if it had not been asked for."""
    q, k, v = qkv(6, 9)
    options = {"dropout_p": 0.4, "window_size": (3, 1), "alibi_slopes": SLOPES[slopes]}
    out, _, dropped = seeded(flash_attn_func, q, k, v, **options, return_attn_probs=True)
    after = torch.rand(())
    assert torch.equal(out, seeded(flash_attn_func, q, k, v, **options)) and torch.equal(after, torch.rand(()))
    weights = formula(q, k, v, **options)[2]
    assert_close(dropped.abs(), weights)
    kept = dropped.clamp(min=0) / (1 - 0.4)
    assert_close(out, (kept @ v.repeat_interleave(2, 2).transpose(1, 2)).transpose(1, 2))
    seen = weights > 0
    share = float((dropped < 0)[seen].double().mean())
    assert abs(share - 0.4) < 4 * (0.4 * 0.6 / int(seen.sum())) ** 0.5  # four standard deviations


@pytest.mark.filterwarnings("ignore::window_matmul.compat.WindowFallbackWarning")
@pytest.mark.parametrize("slopes", [None, (4, HEADS)], ids=str)
def test_dropped_weights_of_sequences(slopes: tuple[int, ...] | None) -> None:
    tensors = packed(before=2, behind=1)
    cu_q, cu_k = CU_Q + 2, CU_K + 2
    options = {"dropout_p": 0.4, "window_size": (3, 2), "alibi_slopes": None if slopes is None else torch.rand(slopes)}
    out, _, dropped = seeded(flash_attn_varlen_func, *tensors, cu_q, cu_k, 8, 8, **options, return_attn_probs=True)
    assert dropped.shape == (4, HEADS, 8, 8) and bool((dropped < 0).any())
    for s, ((a, b), (c, d)) in enumerate(zip(itertools.pairwise(cu_q.tolist()), itertools.pairwise(cu_k.tolist()), strict=True)):
        mine = dropped[s, :, : b - a, : d - c]
        assert int(dropped[s].count_nonzero()) == int(mine.count_nonzero())
        values = tensors[2][c:d].repeat_interleave(2, 1).transpose(0, 1)
        assert_close(out[a:b], (mine.clamp(min=0) / (1 - 0.4) @ values).transpose(0, 1))


def test_weights_are_the_dense_way() -> None:
    q, k, v = qkv(5, 5)
    with strict(), pytest.raises(RuntimeError, match="return_attn_probs=True beside dropout"):
        flash_attn_func(q, k, v, 0.1, return_attn_probs=True)
    with strict():
        flash_attn_func(q, k, v, 0.1)
        flash_attn_func(q, k, v, return_attn_probs=True)


# ---- graphs --------------------------------------------------------------------------------------------------------------------------
def test_compiled_whole() -> None:
    tensors = qkv(6, 9, dtype=torch.float32, grad=True)
    options: dict[str, Any] = {"causal": True, "window_size": (4, 4), "return_attn_probs": True}
    for slopes in SLOPES.values():
        compiled = torch.compile(flash_attn_func, fullgraph=True, backend="aot_eager")(*tensors, **options, alibi_slopes=slopes)
        eager = flash_attn_func(*tensors, **options, alibi_slopes=slopes)
        for result, want in zip(compiled, eager, strict=True):
            assert torch.equal(result, want)
        found, right = (torch.autograd.grad(x[0].sum(), tensors) for x in (compiled, eager))
        assert all(torch.equal(gradient, want) for gradient, want in zip(found, right, strict=True))


def test_sequences_compiled_whole() -> None:
    tensors = packed(torch.float32)
    for slopes in (None, torch.rand(HEADS)):
        options: dict[str, Any] = {"window_size": (3, 2), "alibi_slopes": slopes}
        compiled = torch.compile(flash_attn_varlen_func, fullgraph=True, backend="aot_eager")(*tensors, CU_Q, CU_K, 7, 8, **options)
        eager = flash_attn_varlen_func(*tensors, CU_Q, CU_K, 7, 8, **options)
        assert torch.equal(compiled, eager)  # type: ignore[arg-type]
        found, right = (torch.autograd.grad(x.sum(), tensors) for x in (compiled, eager))  # type: ignore[union-attr]
        assert all(torch.equal(gradient, want) for gradient, want in zip(found, right, strict=True))

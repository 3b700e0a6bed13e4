"""tests/python/doors/test_compat_flash_attn.py: flash-attn's functions against their documented formula, dense in float64, option by option."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import window_matmul.compat.flash_attn as door
from oracle import DTYPES, ROUNDING
from window_matmul import window_attention, window_attention_varlen
from window_matmul.compat import WindowFallbackWarning, strict
from window_matmul.compat.flash_attn import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

pytestmark = pytest.mark.best_backend

BATCH, HEADS, DIM = 2, 4, 8
LENGTHS = [(7, 7), (5, 9), (9, 5), (1, 6), (6, 1), (1, 1), (0, 4), (4, 0)]
WINDOWS = [(-1, -1), (2, 1), (0, 0), (3, -1), (-1, 2), (100, 100), (1, 4)]
# Numbers of q, k and v are below 1, so scores (with slopes below 1 and distances below 9) below 12, and no sum here has more than 64 terms.
SIZE, TERMS = 12, 64


def uniform(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (2 * torch.rand(shape, dtype=torch.float64) - 1).to(dtype)


def qkv(lq: int, lk: int, kv_heads: int = 2, dtype: torch.dtype = torch.float64, grad: bool = False) -> list[Tensor]:
    shapes = (BATCH, lq, HEADS, DIM), (BATCH, lk, kv_heads, DIM), (BATCH, lk, kv_heads, DIM)
    return [uniform(*shape, dtype=dtype).requires_grad_(grad) for shape in shapes]


def allowed(dtype: torch.dtype = torch.float64) -> float:
    """Sums of scores, of weights and of outputs, each of up to TERMS numbers up to SIZE, and the rounding of a result below SIZE."""
    sums = ROUNDING[torch.float64 if dtype is torch.float64 else torch.float32]
    return SIZE * (3 * TERMS * sums + 2 * ROUNDING[dtype])


def formula(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """out (B, Lq, H, D), lse (B, H, Lq) and the softmax (B, H, Lq, Lk), as they are documented there."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    lq, lk = q.shape[2], k.shape[2]
    left, right = options.get("window_size", (-1, -1))
    right = 0 if options.get("causal") else right
    scale = options.get("softmax_scale") or DIM**-0.5
    scores = scale * (q @ k.mT)
    if cap := options.get("softcap"):
        scores = cap * torch.tanh(scores / cap)
    aligned = torch.arange(lq)[:, None] + lk - lq
    distance = torch.arange(lk) - aligned
    if (slopes := options.get("alibi_slopes")) is not None:
        scores = scores - slopes.double().expand(len(q), -1)[:, :, None, None] * distance.abs()
    seen = torch.ones(lq, lk, dtype=torch.bool)
    if left >= 0:
        seen = seen & (distance >= -left)
    if right >= 0:
        seen = seen & (distance <= right)
    blind = ~seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen & ~blind, -torch.inf)
    weights = torch.softmax(scores, -1).masked_fill(blind, 0.0) if lk else scores
    lse = torch.logsumexp(scores, -1).masked_fill(blind[:, 0], torch.inf) if lk else scores.sum(-1) + torch.inf
    return (weights @ v).transpose(1, 2), lse, weights


def assert_close(result: Tensor, expected: Tensor, dtype: torch.dtype = torch.float64) -> None:
    torch.testing.assert_close(result.double(), expected.double(), rtol=0, atol=allowed(dtype))


def assert_gradients(results: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tensors: list[Tensor]) -> None:
    """Through out and, where a key is seen, the log-sum-exp."""
    of_out, of_lse = uniform(*expected[0].shape), uniform(*expected[1].shape)
    seen = expected[1].isfinite()

    def weighted(out: Tensor, lse: Tensor) -> Tensor:
        return (out * of_out).sum() + (lse * of_lse)[seen].sum()

    found, right = (torch.autograd.grad(weighted(*x), tensors) for x in (results, expected))
    for gradient, want in zip(found, right, strict=True):
        torch.testing.assert_close(gradient, want, rtol=0, atol=TERMS * allowed())  # sums over the queries


SLOPES = {"none": None, "(H,)": torch.tensor([0.9, 0.5, 0.0, -0.2]), "(B, H)": torch.tensor([[0.9, 0.5, 0.1, 0.2], [0.0, 0.3, 0.7, -0.1]])}


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
    for results, packed, stacked in (
        (flash_attn_qkvpacked_func(three, **options), three, [q, k, v]),
        (flash_attn_kvpacked_func(q, two, **options), two, [k, v]),
    ):
        for result, want in zip(results, right, strict=True):
            assert torch.equal(result, want)
        leaves = [x.clone().requires_grad_() for x in stacked]
        operands = leaves if len(leaves) == 3 else [q, *leaves]
        weight = uniform(*q.shape)
        (gradient,) = torch.autograd.grad(results[0], packed, weight)
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
CU_Q, CU_K = torch.tensor([0, 5, 5, 12, 13], dtype=torch.int32), torch.tensor([0, 3, 7, 15, 15], dtype=torch.int32)


def packed(dtype: torch.dtype = torch.float64, before: int = 0, behind: int = 0) -> list[Tensor]:
    around = before + behind
    shapes = (13 + around, HEADS, DIM), (15 + around, 2, DIM), (15 + around, 2, DIM)
    return [uniform(*shape, dtype=dtype).requires_grad_() for shape in shapes]


def by_sequence(q: Tensor, k: Tensor, v: Tensor, before: int, behind: int, **options: Any) -> tuple[Tensor, Tensor]:
    outs, lses = [q.new_zeros(before, HEADS, DIM)], [q.new_full((HEADS, before), torch.inf)]
    slopes = options.pop("alibi_slopes", None)
    for s, ((a, b), (c, d)) in enumerate(zip(itertools.pairwise(CU_Q.tolist()), itertools.pairwise(CU_K.tolist()), strict=True)):
        mine = slopes if slopes is None or slopes.ndim == 1 else slopes[s]
        parts = (x[None, before + i : before + j] for x, i, j in ((q, a, b), (k, c, d), (v, c, d)))
        out, lse, _ = formula(*parts, **options, alibi_slopes=mine)
        outs.append(out[0])
        lses.append(lse[0])
    return torch.cat([*outs, q.new_zeros(behind, HEADS, DIM)]), torch.cat([*lses, q.new_full((HEADS, behind), torch.inf)], 1)


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
    assert issubclass(WindowFallbackWarning, UserWarning)


# ---- graphs --------------------------------------------------------------------------------------------------------------------------
def test_compiled_whole() -> None:
    tensors = qkv(6, 9, dtype=torch.float32, grad=True)
    options: dict[str, Any] = {"causal": True, "window_size": (4, 4), "return_attn_probs": True}
    for slopes in SLOPES.values():
        compiled = torch.compile(flash_attn_func, fullgraph=True)(*tensors, **options, alibi_slopes=slopes)
        eager = flash_attn_func(*tensors, **options, alibi_slopes=slopes)
        for result, want in zip(compiled, eager, strict=True):
            assert torch.equal(result, want)
        found, right = (torch.autograd.grad(x[0].sum(), tensors) for x in (compiled, eager))
        assert all(torch.equal(gradient, want) for gradient, want in zip(found, right, strict=True))


def test_sequences_compiled_whole() -> None:
    tensors = packed(torch.float32)
    for slopes in (None, torch.rand(HEADS)):
        options: dict[str, Any] = {"window_size": (3, 2), "alibi_slopes": slopes}
        compiled = torch.compile(flash_attn_varlen_func, fullgraph=True)(*tensors, CU_Q, CU_K, 7, 8, **options)
        eager = flash_attn_varlen_func(*tensors, CU_Q, CU_K, 7, 8, **options)
        assert torch.equal(compiled, eager)  # type: ignore[arg-type]
        found, right = (torch.autograd.grad(x.sum(), tensors) for x in (compiled, eager))  # type: ignore[union-attr]
        assert all(torch.equal(gradient, want) for gradient, want in zip(found, right, strict=True))


# ---- arguments -----------------------------------------------------------------------------------------------------------------------
SHARED: dict[str, Any] = {
    "dropout_p": 0.0, "softmax_scale": None, "causal": False, "window_size": (-1, -1), "softcap": 0.0, "alibi_slopes": None,
    "deterministic": False, "return_attn_probs": False,
}  # fmt: skip
NEEDED = inspect.Parameter.empty
BOUNDS = dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"), NEEDED)
SIGNATURES: dict[str, dict[str, Any]] = {
    "flash_attn_func": dict.fromkeys("qkv", NEEDED) | SHARED,
    "flash_attn_kvpacked_func": dict.fromkeys(("q", "kv"), NEEDED) | SHARED,
    "flash_attn_qkvpacked_func": {"qkv": NEEDED} | SHARED,
    "flash_attn_varlen_func": dict.fromkeys("qkv", NEEDED) | BOUNDS | SHARED | {"block_table": None},
    "flash_attn_varlen_kvpacked_func": dict.fromkeys(("q", "kv"), NEEDED) | BOUNDS | SHARED,
    "flash_attn_varlen_qkvpacked_func": dict.fromkeys(("qkv", "cu_seqlens", "max_seqlen"), NEEDED) | SHARED,
    "flash_attn_with_kvcache": dict.fromkeys(("q", "k_cache", "v_cache"), NEEDED) | {
        "k": None, "v": None, "rotary_cos": None, "rotary_sin": None, "cache_seqlens": None, "cache_batch_idx": None,
        "cache_leftpad": None, "block_table": None, "softmax_scale": None, "causal": False, "window_size": (-1, -1), "softcap": 0.0,
        "rotary_interleaved": True, "alibi_slopes": None, "num_splits": 0, "return_softmax_lse": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_2_8_3(name: str) -> None:
    parameters = inspect.signature(getattr(door, name)).parameters
    assert [(x, p.default) for x, p in parameters.items()] == list(SIGNATURES[name].items())
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters.values())
    assert sorted(door.__all__) == sorted(SIGNATURES)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q": None}, TypeError, "q is of type NoneType"),
    ({"q": torch.ones(2, 5, 4, 8, dtype=torch.int64)}, TypeError, "q is torch.int64"),
    ({"q": torch.ones(5, 4, 8)}, ValueError, r"q is \(5, 4, 8\); it needs to be \(B, Lq, H, D\)"),
    ({"k": torch.ones(3, 5, 2, 8)}, ValueError, r"k is \(3, 5, 2, 8\) beside q .* dim 0 needs to be 2"),
    ({"k": torch.ones(2, 5, 2, 7)}, ValueError, r"k is \(2, 5, 2, 7\) beside q .* dim -1 needs to be 8"),
    ({"k": torch.ones(2, 5, 3, 8)}, ValueError, r"k is \(2, 5, 3, 8\) beside q .* needs to divide 4"),
    ({"v": torch.ones(2, 6, 2, 8)}, ValueError, r"v is \(2, 6, 2, 8\) beside k"),
    ({"v": torch.ones(2, 5, 2, 8).half()}, TypeError, "v is torch.float16"),
    ({"dropout_p": 1.5}, ValueError, "dropout_p is 1.5"),
    ({"dropout_p": "0"}, TypeError, "dropout_p is '0'"),
    ({"softmax_scale": "1"}, TypeError, "softmax_scale is '1'"),
    ({"softmax_scale": float("nan")}, ValueError, "softmax_scale is nan"),
    ({"causal": 1}, TypeError, "causal is 1"),
    ({"window_size": (-2, 3)}, ValueError, r"window_size\[0\] is -2"),
    ({"window_size": (3, 2.5)}, TypeError, r"window_size\[1\] is 2.5"),
    ({"window_size": (1, 2, 3)}, ValueError, r"window_size is \(1, 2, 3\)"),
    ({"window_size": 4}, TypeError, "window_size is 4"),
    ({"softcap": float("inf")}, ValueError, "softcap is inf"),
    ({"softcap": float("nan")}, ValueError, "softcap is nan"),
    ({"softcap": None}, TypeError, "softcap is None"),
    ({"alibi_slopes": [1.0]}, TypeError, "alibi_slopes is of type list"),
    ({"alibi_slopes": torch.ones(4).double()}, TypeError, "alibi_slopes is torch.float64"),
    ({"alibi_slopes": torch.ones(3)}, ValueError, r"alibi_slopes is \(3,\); .* here \(4,\) or \(2, 4\)"),
    ({"alibi_slopes": torch.ones(1, 4)}, ValueError, r"alibi_slopes is \(1, 4\)"),
    ({"alibi_slopes": torch.ones(4, requires_grad=True)}, ValueError, "alibi_slopes requires grad"),
    ({"deterministic": None}, TypeError, "deterministic is None"),
    ({"return_attn_probs": 1}, TypeError, "return_attn_probs is 1"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED, ids=lambda x: str(x)[:40] if isinstance(x, str) else None)
def test_refusals_name_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    q, k, v = qkv(5, 5, dtype=torch.float32)
    with pytest.raises(error, match=message):
        flash_attn_func(**{"q": q, "k": k, "v": v} | change)


REFUSED_SEQUENCES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q": torch.ones(1, 13, 4, 8).double()}, ValueError, r"q is \(1, 13, 4, 8\); it needs to be \(total_q, H, D\)"),
    ({"cu_seqlens_q": [0, 13]}, TypeError, "cu_seqlens_q is of type list"),
    ({"cu_seqlens_k": CU_K.float()}, TypeError, "cu_seqlens_k is torch.float32"),
    ({"cu_seqlens_k": CU_K[:4]}, ValueError, r"cu_seqlens_k is \(4,\); it needs to be \(5,\)"),
    ({"max_seqlen_q": 6}, ValueError, "max_seqlen_q is 6; it needs to be an int of at least 7"),
    ({"max_seqlen_k": 7}, ValueError, "max_seqlen_k is 7; it needs to be an int of at least 8"),
    ({"max_seqlen_q": 7.0}, TypeError, "max_seqlen_q is 7.0"),
    ({"max_seqlen_k": None}, TypeError, "max_seqlen_k is None"),
    ({"block_table": torch.zeros(4, 1, dtype=torch.int32)}, ValueError, "block_table is given"),
    ({"cu_seqlens_k": torch.tensor([0, 3, 2, 9, 15])}, ValueError, "cu_seqlens_k"),
    ({"cu_seqlens_k": torch.tensor([0, 3, 2, 9, 15]), "alibi_slopes": torch.ones(4, HEADS)}, ValueError, "cu_seqlens_k is .*never to fall"),
    (
        {"cu_seqlens_q": torch.tensor([-1, 3, 4, 9, 13]), "alibi_slopes": torch.ones(4, HEADS)},
        ValueError,
        "cu_seqlens_q is .*within 0 to 13",
    ),
    (
        {"cu_seqlens_q": torch.tensor([0, 3, 4, 9, 14]), "alibi_slopes": torch.ones(4, HEADS)},
        ValueError,
        "cu_seqlens_q is .*within 0 to 13",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED_SEQUENCES, ids=lambda x: str(x)[:40] if isinstance(x, str) else None)
def test_refusals_of_sequences(change: dict[str, Any], error: type[Exception], message: str) -> None:
    q, k, v = packed()
    call = {"q": q, "k": k, "v": v, "cu_seqlens_q": CU_Q, "cu_seqlens_k": CU_K, "max_seqlen_q": 7, "max_seqlen_k": 8}
    with pytest.raises(error, match=message):
        flash_attn_varlen_func(**call | change)  # type: ignore[arg-type]


def test_refusals_of_packed_tensors() -> None:
    with pytest.raises(ValueError, match=r"qkv is \(2, 5, 2, 4, 8\); it needs to be \(B, L, 3, H, D\)"):
        flash_attn_qkvpacked_func(torch.ones(2, 5, 2, 4, 8))
    with pytest.raises(ValueError, match=r"kv is \(5, 2, 4, 8\); it needs to be \(B, Lk, 2, Hkv, D\)"):
        flash_attn_kvpacked_func(torch.ones(2, 5, 4, 8), torch.ones(5, 2, 4, 8))
    with pytest.raises(TypeError, match="qkv is of type list"):
        flash_attn_varlen_qkvpacked_func([], CU_Q, 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kv is"):
        flash_attn_varlen_kvpacked_func(torch.ones(13, 4, 8), torch.ones(13, 3, 4, 8), CU_Q, CU_Q, 7, 7)

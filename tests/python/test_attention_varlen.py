"""tests/python/test_attention_varlen.py: packed sequences give what each sequence gives alone, with every option, forward and backward."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from attention_cases import DIFFERENTIABLE
from oracle import DTYPES, ROUNDING
from window_matmul import Window, window_attention, window_attention_varlen

OPERATOR = "attention"
LENGTHS = [([5, 3, 7], [5, 3, 7]), ([5, 0, 1, 4], [8, 2, 1, 0]), ([1, 1, 2], [9, 4, 2]), ([6], [6]), ([], []), ([0, 0], [0, 0])]
HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 5, 3


def bounds_of(lengths: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


def tensors_of(queries: int, keys: int, width: int, options: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Packed, as window_attention_varlen takes them."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(dtype)

    tensors = {"q": normal(queries, HEADS, DIM), "k": normal(keys, KV_HEADS, DIM), "v": normal(keys, KV_HEADS, VALUE_DIM)}
    if "slots" in options:
        tensors["bias"] = normal(HEADS, width)
    if "full" in options:
        tensors["bias"] = normal(HEADS, queries, width)
    if "sinks" in options:
        tensors["sinks"] = normal(HEADS)
    if "key_mask" in options:
        tensors["key_mask"] = torch.rand(keys) < 0.7
    if "global_mask" in options:
        tensors["global_tokens"] = torch.rand(keys) < 0.3
    return tensors


def one_by_one(tensors: dict[str, Tensor], queries: list[int], keys: list[int], **options: Any) -> tuple[Tensor, Tensor]:
    """A call for each sequence."""
    outs, lses, q, k = [], [], 0, 0
    for lq, lk in zip(queries, keys, strict=True):
        part = dict(tensors)
        for name, x in tensors.items():
            if name == "q":
                part[name] = x[q : q + lq].transpose(0, 1)[None]
            elif name in "kv":
                part[name] = x[k : k + lk].transpose(0, 1)[None]
            elif name in ("key_mask", "global_tokens"):
                part[name] = x[k : k + lk][None]
            elif name == "bias" and x.ndim == 3:
                part[name] = x[None, :, q : q + lq]
        out, lse = window_attention(**part, **options, return_lse=True)
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
        q, k = q + lq, k + lk
    wide = torch.float64 if tensors["q"].dtype == torch.float64 else torch.float32
    return torch.cat([tensors["q"].new_empty(0, HEADS, VALUE_DIM), *outs]), torch.cat([torch.empty(HEADS, 0, dtype=wide), *lses], 1)


def check_packed(queries: list[int], keys: list[int], chosen: set[str], dtype: torch.dtype, bounds: torch.dtype, **options: Any) -> None:
    """Outputs bit for bit; gradients of what sequences share are sums in another order."""
    window = options["window_size"]
    width = 0 if None in window else sum(window) + 1
    tensors = tensors_of(sum(queries), sum(keys), width, chosen, dtype)
    results = []
    for call in (
        lambda t: window_attention_varlen(
            **t, cu_seqlens_q=bounds_of(queries, bounds), cu_seqlens_k=bounds_of(keys, bounds), **options, return_lse=True
        ),
        lambda t: one_by_one(t, queries, keys, **options),
    ):
        leaf = {name: x.clone().requires_grad_() if name in DIFFERENTIABLE else x for name, x in tensors.items()}
        out, lse = call(leaf)
        torch.default_generator.manual_seed(1)
        cotangents = torch.randn(out.shape).to(out.dtype), torch.randn(lse.shape).to(lse.dtype)
        names = [name for name in DIFFERENTIABLE if name in leaf]
        used = [(y, g) for y, g in zip((out, lse), cotangents, strict=True) if y.requires_grad]
        grads = torch.autograd.grad([y for y, _ in used], [leaf[n] for n in names], [g for _, g in used], allow_unused=True)
        results.append((out, lse, {n: torch.zeros_like(leaf[n]) if g is None else g for n, g in zip(names, grads, strict=True)}))
    (out, lse, got), (want_out, want_lse, want) = results
    assert torch.equal(out, want_out) and torch.equal(lse, want_lse)
    for name in got:
        if name in "qkv":
            assert torch.equal(got[name], want[name]), name
        else:
            slack = 64 * ROUNDING[dtype]  # sums over sequences of what was rounded in each
            torch.testing.assert_close(got[name], want[name], rtol=slack, atol=slack)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("queries, keys", LENGTHS, ids=str)
def test_as_one_call_each(backend: str, queries: list[int], keys: list[int], dtype: torch.dtype) -> None:
    for window in ((2, 1), (2, 0), (None, None), (None, 0)):
        for chosen in (set(), {"sinks"}, {"key_mask"}, {"global_mask"}):
            check_packed(queries, keys, chosen, dtype, torch.int32, window_size=window)
        for options in ({"softcap": 2.0}, {"scale": 0.7}, {"dilation": 2}, {"dilation": (1, 2, 3, 1)}, {"global_tokens": 2}):
            check_packed(queries, keys, set(), dtype, torch.int64, window_size=window, **options)
    for chosen in ({"slots"}, {"full"}, {"full", "sinks", "key_mask", "global_mask"}):
        check_packed(queries, keys, chosen, dtype, torch.int64, window_size=(2, 1))


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    lengths = st.integers(0, 9)
    pairs = draw(st.lists(st.tuples(lengths, lengths) | lengths.map(lambda n: (n, n)), max_size=4))
    bias = draw(st.sampled_from(["", "slots", "full"]))
    side = st.integers(0, 5) | st.nothing() if bias else st.none() | st.integers(0, 5)
    chosen = {bias} | draw(st.sets(st.sampled_from(["sinks", "key_mask", "global_mask"])))
    options: dict[str, Any] = {"window_size": (draw(side), draw(side))}
    options["dilation"] = draw(st.integers(1, 3) | st.tuples(*[st.integers(1, 3)] * HEADS))
    options["softcap"] = draw(st.sampled_from([0.0, 0.0, 3.0]))
    if "global_mask" not in chosen:
        options["global_tokens"] = draw(st.none() | st.integers(0, 12))
    return {"queries": [n for n, _ in pairs], "keys": [n for _, n in pairs], "chosen": chosen} | options


@hypothesis.settings(max_examples=100)
@hypothesis.given(call=calls(), dtype=st.sampled_from(DTYPES), bounds=st.sampled_from([torch.int32, torch.int64]))
def test_random_sequences(backend: str, call: dict[str, Any], dtype: torch.dtype, bounds: torch.dtype) -> None:
    torch.default_generator.manual_seed(3)
    check_packed(**call, dtype=dtype, bounds=bounds)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("queries, keys", LENGTHS, ids=str)
def test_rows_outside_the_sequences(backend: str, queries: list[int], keys: list[int], dtype: torch.dtype) -> None:
    """NaN in front of the first sequence and behind the last: the same bits for all others; 0 for these, and -inf."""

    def around(x: Tensor, dim: int, first: int, last: int) -> Tensor:
        fills = torch.nan if x.is_floating_point() else True
        front, back = (x.new_full((*x.shape[:dim], n, *x.shape[dim + 1 :]), fills) for n in (first, last))
        return torch.cat([front, x, back], dim)

    def results(tensors: dict[str, Tensor], d: tuple[Tensor, Tensor], first_q: int, first_k: int, **options: Any) -> dict[str, Tensor]:
        leaf = {name: x.clone().requires_grad_() if name in DIFFERENTIABLE else x for name, x in tensors.items()}
        ends = {"cu_seqlens_q": bounds_of(queries) + first_q, "cu_seqlens_k": bounds_of(keys) + first_k}
        out, lse = window_attention_varlen(**leaf, **ends, window_size=(2, 1), return_lse=True, **options)
        names = [name for name in DIFFERENTIABLE if name in leaf]
        return {"out": out, "lse": lse} | dict(zip(names, torch.autograd.grad((out, lse), [leaf[n] for n in names], d), strict=True))

    for chosen, options in (({"full", "sinks", "key_mask"}, {"global_tokens": 2}), ({"slots", "global_mask"}, {"dropout_p": 0.5})):
        tensors = tensors_of(sum(queries), sum(keys), 4, chosen, dtype)
        d = tensors["q"].new_ones(sum(queries), HEADS, VALUE_DIM), torch.ones(HEADS, sum(queries)).to(dtype=_wide(dtype))
        torch.default_generator.manual_seed(1)
        want = results(tensors, d, 0, 0, **options)
        dims = {"q": 0, "k": 0, "v": 0, "key_mask": 0, "global_tokens": 0} | ({"bias": 1} if "full" in chosen else {})
        slack = {name: (3, 2) if name in ("q", "bias") else (1, 4) for name in dims}
        wide = {name: around(x, dims[name], *slack[name]) if name in dims else x for name, x in tensors.items()}
        torch.default_generator.manual_seed(1)
        got = results(wide, (around(d[0], 0, 3, 2), around(d[1], 1, 3, 2)), 3, 1, **options)
        for name, x in got.items():
            dim, (first, last) = {"out": (0, (3, 2)), "lse": (1, (3, 2))}.get(name) or (dims.get(name, 0), slack.get(name, (0, 0)))
            inside = x.narrow(dim, first, x.shape[dim] - first - last)
            assert torch.equal(inside, want[name]), name
            outside = torch.cat([x.narrow(dim, 0, first), x.narrow(dim, x.shape[dim] - last, last)], dim)
            assert torch.equal(outside, torch.full_like(outside, -torch.inf if name == "lse" else 0.0)), name


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def test_results_lie_as_q_does(backend: str) -> None:
    q, k, v = torch.randn(3, 8, 2, 4)
    cu = bounds_of([3, 5])
    out, lse = window_attention_varlen(q, k, v, cu, cu, 2, return_lse=True)
    assert out.is_contiguous() and lse.is_contiguous() and (out.shape, lse.shape) == ((8, 2, 4), (2, 8))
    turned = window_attention_varlen(*(x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v)), cu, cu, 2)
    assert turned.transpose(0, 1).is_contiguous() and torch.equal(turned, out)
    assert torch.equal(window_attention_varlen(q, k, v, cu, cu, Window(2, 2)), out)
    with_strides = torch.stack([cu, cu], 1)[:, 0]
    assert torch.equal(window_attention_varlen(q, k, v, with_strides, cu.int(), 2), out)

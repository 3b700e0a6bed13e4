"""tests/python/test_huggingface.py: equal to the sliding chunks of Hugging Face's Longformer, imported from transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from oracle import check
from window_matmul import Window, unwindow_matmul, window_matmul, window_softmax

SHAPES = [(1, 8, 1, 4, 2), (2, 64, 3, 16, 16), (1, 256, 2, 64, 32), (2, 48, 2, 5, 8)]  # batch, length, heads, dim, one side of the window
by_shape = pytest.mark.parametrize("batch, length, heads, dim, side", SHAPES)


class Chunks:
    """The methods of a layer, without a layer: all they ask of it is one entry of its configuration and their own helpers."""

    config = SimpleNamespace(onnx_export=False)
    _chunk = staticmethod(LongformerSelfAttention._chunk)
    _pad_and_transpose_last_two_dims = staticmethod(LongformerSelfAttention._pad_and_transpose_last_two_dims)
    _pad_and_diagonalize = staticmethod(LongformerSelfAttention._pad_and_diagonalize)
    _mask_invalid_locations = staticmethod(LongformerSelfAttention._mask_invalid_locations)
    query_key = LongformerSelfAttention._sliding_chunks_query_key_matmul
    probs_value = LongformerSelfAttention._sliding_chunks_matmul_attn_probs_value


def heads_first(x: Tensor) -> Tensor:
    """Theirs is (B, L, H, D), ours (B, H, L, D): a view."""
    return x.transpose(1, 2)


def tensors(*shape: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]


def near(actual: Tensor, theirs: Tensor, terms: int) -> None:
    """Two sums of `terms` products of numbers of about 1, both rounded: 10 sqrt(terms) is more than any magnitude here."""
    check(actual, theirs.detach().double(), 10 * terms * torch.finfo(theirs.dtype).eps * max(terms, 1) ** 0.5, theirs.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@by_shape
def test_scores(backend: str, batch: int, length: int, heads: int, dim: int, side: int, dtype: torch.dtype) -> None:
    q, k, _ = tensors(batch, length, heads, dim, dtype=dtype)
    window = Window.from_hf_longformer(2 * side)
    theirs = Chunks().query_key(q, k, side)
    ours = heads_first(window_matmul(heads_first(q), heads_first(k).mT, window, fill=-torch.inf))
    near(ours, theirs, dim)
    g = torch.randn(theirs.shape, dtype=dtype)
    inside = theirs.detach().isfinite()
    for x, y in zip(*(torch.autograd.grad(s, (q, k), g.where(inside, 0)) for s in (ours, theirs)), strict=True):
        near(x, y, 2 * side + 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@by_shape
def test_values(backend: str, batch: int, length: int, heads: int, dim: int, side: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(batch, length, heads, dim, dtype=dtype)
    scores = Chunks().query_key(q, k, side).detach()
    p = torch.softmax(scores, -1).requires_grad_()
    theirs = Chunks().probs_value(p, v, side)
    ours = heads_first(unwindow_matmul(heads_first(p), heads_first(v), side))
    near(ours, theirs, 2 * side + 1)
    g = torch.randn(theirs.shape, dtype=dtype)
    (ours_p, ours_v), (theirs_p, theirs_v) = (torch.autograd.grad(s, (p, v), g) for s in (ours, theirs))
    near(ours_v, theirs_v, 2 * side + 1)
    near(ours_p, theirs_p.where(scores.isfinite(), 0), dim)  # theirs pads with -1, so slots without a key have a gradient there
    near(heads_first(window_softmax(heads_first(scores), side)), p, 1)


def test_a_whole_layer(backend: str) -> None:
    """Longformer's attention without global tokens, from hidden states to output."""
    from transformers import LongformerConfig

    config = LongformerConfig(
        hidden_size=32,
        num_attention_heads=4,
        attention_window=[16],
        num_hidden_layers=1,
        intermediate_size=8,
        attention_probs_dropout_prob=0.0,
    )
    layer = LongformerSelfAttention(config, layer_id=0).double().eval()
    x = torch.randn(2, 64, 32, dtype=torch.float64)
    nothing: Any = torch.zeros(2, 64, dtype=torch.float64)
    theirs = layer(x, attention_mask=nothing, is_index_masked=nothing.bool(), is_index_global_attn=nothing.bool(), is_global_attn=False)[0]
    q, k, v = (heads_first(f(x).unflatten(-1, (4, 8))) for f in (layer.query, layer.key, layer.value))
    window = Window.from_hf_longformer(config.attention_window[0])
    p = window_softmax(window_matmul(q / 8**0.5, k.mT, window), window)
    ours = heads_first(unwindow_matmul(p, v, window)).flatten(2)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # theirs takes the softmax in float32

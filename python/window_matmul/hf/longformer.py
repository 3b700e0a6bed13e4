# python/window_matmul/hf/longformer.py: Longformer's self-attention, and that of LED's encoder, on the operators.
"""Local rows see their window and the global keys with the local projections: one fused call. Global rows see every key with projections
of their own, and are computed beside it. Where attentions are asked for (or a head mask is given), the stock layer runs with its two
sliding-chunk products exchanged for the band operators.
"""

import functools
import inspect
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.led import modeling_led
from transformers.models.longformer import modeling_longformer

from .. import _shards
from ..attention import window_attention
from ..compat.longformer import sliding_chunks_matmul_pv, sliding_chunks_matmul_qk
from ._patch import Model, Patched, patch

__all__ = ["patch_longformer"]

_MASKS = ("attention_mask", "is_index_masked", "is_index_global_attn", "is_global_attn")


def patch_longformer(model: Model) -> Model:
    """Puts the self-attention of Longformer layers, and of LED's encoder, on `window_attention`, in place.

    Outputs, attentions and gradients are the stock model's, for every window, padding, number of global tokens and head mask, in training
    and evaluation; float64 is not rounded to float32 in the softmax, except where attentions are asked for. Dropout drops with the
    same probability, by other random numbers. Memory does not grow with the window. Parameters and state_dict are untouched.

    Args:
        model: any torch.nn.Module with such layers.

    Returns:
        The model; `unpatch` gives it back as it was.

    Raises:
        TypeError: model is no torch.nn.Module.
        ValueError: it has no such layer, or one of a user's subclass.

    Source: Beltagy, Peters and Cohan, "Longformer: The Long-Document Transformer" (arXiv:2004.05150).
    """
    return patch(model, (LongformerSelfAttention, LEDEncoderSelfAttention), around=(LongformerModel, LEDEncoder))


class _WindowAttention(Patched):
    """What the patched layers have in common. Attributes are those of the stock layers."""

    query: Any
    key: Any
    value: Any
    query_global: Any
    key_global: Any
    value_global: Any
    num_heads: int
    head_dim: int
    dropout: float
    training: bool
    one_sided_attn_window_size: int

    def forward(self, hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        """The stock layer's arguments and results. hidden_states: (B, L, E)."""
        _shards.refuse("a Longformer layer")
        stock = super().forward  # type: ignore[misc]
        call = inspect.signature(stock).bind(hidden_states, *args, **named).arguments
        masks: list[Any] = [call.get(name) for name in _MASKS]
        if call.get("output_attentions") or call.get("layer_head_mask") is not None or not _agree(*masks):
            return stock(hidden_states, *args, **named)
        _, is_masked, is_global, any_global = masks
        return (self._attend(hidden_states, is_masked, is_global if any_global else None),)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, H, L, D), as it lies."""
        heads: Tensor = x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        return heads

    def _attend(self, x: Tensor, is_masked: Tensor, is_global: Tensor | None) -> Tensor:
        key_mask = ~is_masked if is_masked.any() else None
        w = self.one_sided_attn_window_size
        # The same window counted from the key before: aligned so, global queries are queries like others, whose rows come from elsewhere.
        window, offset = ((w, w), 0) if is_global is None else ((w - 1, w + 1), -1)
        q, k, v = (self._heads(project(x)) for project in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        out = window_attention(q, k, v, window, key_mask=key_mask, global_tokens=is_global, dropout_p=dropout, query_offset=offset)
        out = out.transpose(1, 2).flatten(2)
        if key_mask is not None:
            out = out.masked_fill(is_masked[:, :, None], 0.0)
        if is_global is None:
            return out
        places = is_global.nonzero(as_tuple=True)
        number = is_global.cumsum(1)[places] - 1  # of a global token among those of its entry
        few = x.new_zeros(x.shape[0], int(number.max()) + 1, x.shape[2]).index_put((places[0], number), x[places])
        attend = self._few_global_rows if 4 * few.shape[1] <= self.head_dim else self._global_rows
        rows = attend(self._heads(self.query_global(few)), x, key_mask, dropout)
        return out.index_put(places, rows.transpose(1, 2).flatten(2)[places[0], number].to(out.dtype))

    def _global_rows(self, q: Tensor, x: Tensor, key_mask: Tensor | None, dropout: float) -> Tensor:
        """q (B, H, G, D), the queries of the global tokens -> (B, H, G, D)."""
        k, v = self._heads(self.key_global(x)), self._heads(self.value_global(x))
        return window_attention(q, k, v, None, key_mask=key_mask, dropout_p=dropout)

    def _few_global_rows(self, q: Tensor, x: Tensor, key_mask: Tensor | None, dropout: float) -> Tensor:
        """The same: q (Wk x + bk) is (q Wk) x + q bk, and p (Wv x + bv) is Wv (p x) + bv sum(p). Few queries need no L x E projections."""
        weights = (self.key_global.weight, self.value_global.weight)
        wk, wv = (weight.unflatten(0, (self.num_heads, self.head_dim)) for weight in weights)
        bk, bv = (bias.unflatten(0, (self.num_heads, 1, self.head_dim)) for bias in (self.key_global.bias, self.value_global.bias))
        q = q * self.head_dim**-0.5
        scores = (q @ wk).flatten(1, 2) @ x.mT + (q * bk).sum(-1).flatten(1, 2)[:, :, None]
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None], torch.finfo(scores.dtype).min)
        probabilities = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
        probabilities = functional.dropout(probabilities, dropout)
        sums, totals = ((probabilities @ x), probabilities.sum(-1, keepdim=True))
        sums, totals = (part.unflatten(1, (self.num_heads, -1)) for part in (sums, totals))
        rows: Tensor = sums @ wv.mT + bv * totals
        return rows

    def _sliding_chunks_query_key_matmul(self, query: Tensor, key: Tensor, window_overlap: int) -> Tensor:
        return sliding_chunks_matmul_qk(query, key, window_overlap, 0.0)

    def _sliding_chunks_matmul_attn_probs_value(self, attn_probs: Tensor, value: Tensor, window_overlap: int) -> Tensor:
        return sliding_chunks_matmul_pv(attn_probs, value, window_overlap)


def _agree(mask: Tensor | None, is_masked: Tensor | None, is_global: Tensor | None, any_global: bool | None) -> bool:
    """Whether the masks are there and say the same, as those do that the models make: below 0 masked, above 0 global."""
    if mask is None or is_masked is None or is_global is None:
        return False
    return torch.equal(mask < 0, is_masked) and torch.equal(mask > 0, is_global) and bool(any_global) == bool(is_global.any())


# The names are those of the stock classes, by which wrappers of models find their layers.
class LongformerSelfAttention(_WindowAttention, modeling_longformer.LongformerSelfAttention):
    """The layer of Longformer, patched."""


class LEDEncoderSelfAttention(_WindowAttention, modeling_led.LEDEncoderSelfAttention):
    """The layer of LED's encoder, patched."""


# ---- around the layers ---------------------------------------------------------------------------------------------------------------
# The stock models make a mask of L x L numbers and keep one row of it.
def _with_globals(function: Any, **values: Any) -> Any:
    """A copy of the function that finds these values under global names it uses."""
    changed = FunctionType(function.__code__, function.__globals__ | values, function.__name__, function.__defaults__, function.__closure__)
    changed.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(changed, function)


def _row_of_mask(*, attention_mask: Tensor, inputs_embeds: Tensor | None = None, input_embeds: Tensor | None = None, **_: Any) -> Tensor:
    """(B, L), 0 for what is masked -> (B, 1, 1, L), 0 for what is seen. The name of the embeddings depends on the version."""
    embeds = input_embeds if inputs_embeds is None else inputs_embeds
    assert embeds is not None
    seen = torch.zeros_like(attention_mask, dtype=embeds.dtype)
    return seen.masked_fill(attention_mask == 0, torch.finfo(embeds.dtype).min)[:, None, None]


class LongformerModel(Patched, modeling_longformer.LongformerModel):
    """The model around patched layers."""

    forward = _with_globals(modeling_longformer.LongformerModel.forward, create_bidirectional_mask=_row_of_mask)


class LEDEncoder(Patched, modeling_led.LEDEncoder):
    """LED's encoder around patched layers."""

    forward = _with_globals(
        modeling_led.LEDEncoder.forward,
        _prepare_4d_attention_mask_inverted=functools.partial(modeling_led._prepare_4d_attention_mask_inverted, tgt_len=1),
    )

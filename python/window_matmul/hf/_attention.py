# python/window_matmul/hf/_attention.py: the attention function of transformers' AttentionInterface.
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import _shards
from .._attention.arguments import as_factor, as_form, as_operands, as_probability, as_real, as_reals
from .._attention.autograd import attention
from .._attention.ops import NUM_TENSORS
from .._band.arguments import UNBOUNDED, check_strided
from ..attention import window_attention, window_attention_varlen
from ..compat import fall_back
from . import _versions
from ._dense import dense_attention
from ._given import pattern_of
from ._patterns import Pattern, WindowMask, dense_pattern, in_band, is_traced
from ._places import FAR
from ._ranks import over_ranks
from ._told import asks_for_more, chosen_keys, is_layer, refuse_unknown, scale_of, sinks_of

_NO_TABLES = (None,) * (NUM_TENSORS - 3)
_OUTPUT = "output_attentions=True asks for the weights of attention, so it is computed the dense way"
_MASK = "the attention mask is no window and lies within none, so attention is computed the dense way"
_BIAS = "position_bias without a window is a number for each pair, so attention is computed the dense way"
_CHOSEN = "the model chooses keys for each query, so attention is computed the dense way"


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """What layers of transformers call where `attn_implementation="window_matmul"`.

    The mask decides which keys a query sees. Without one, `is_causal` (else the module's) and `sliding_window` do: that many keys, the
    query's own included, before it, and after it where it is not causal. Two-sided layers of a model that made no mask see all keys, as
    with its eager attention: DiffusionGemma's decoder, which has a number all the same. Inside
    `window_matmul.distributed.context_parallel` the tensors are this rank's part of the sequence.

    Args:
        query: (B, H, Lq, D).
        key: (B, Hkv, Lk, D); H is a multiple of Hkv.
        value: (B, Hkv, Lk, Dv).
        attention_mask: what the mask function returned, or (B or 1, H or 1, Lq or 1, Lk), bool or to be added to the scores.
        dropout: the probability to drop a weight. The random numbers are those of `window_attention`.
        scaling: factor of the scores; by default 1 / sqrt(D).
        sliding_window: an int of at least 1, or None.
        softcap: scores become softcap * tanh(score / softcap).
        s_aux: (H,): one more logit a head, without a value.
        position_bias: (B or 1, H, Lq, Lk), added to the scores.
        kwargs: `output_attentions`; `cu_seq_lens_q` and `cu_seq_lens_k` of packed sequences, with a batch of 1; `sinks` (B, H, Lq, 1), a
            logit a query as s_aux is one a head; `indices` and `block_indices`, of the keys that sparse attention has chosen. Others do
            not concern it, unless the model's own eager attention takes them: a ValueError.

    Returns:
        (B, Lq, H, Dv), contiguous, and None or the weights (B, H, Lq, Lk).

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: a window that is no int of at least 1, s_aux of another length, a mask whose shape fits nothing.
        RuntimeError: no mask function is registered beside this one.
    """
    if sliding_window is not None and (type(sliding_window) is not int or sliding_window < 1):
        raise ValueError(f"sliding_window is {sliding_window!r}; it needs to be an int of at least 1, or None")
    refuse_unknown(module, kwargs)
    if type(dropout) is type(scaling) is float and dropout == 0.0 and s_aux is position_bias is None and not asks_for_more(kwargs):
        at_once = _at_once(query, key, value, attention_mask, scaling, 0.0 if softcap is None else softcap)
        if at_once is not None:
            return at_once, None
    _check_tensors({"query": query, "key": key, "value": value}, s_aux=s_aux, position_bias=position_bias, **kwargs)
    scale, softcap, dropout = _numbers(scale_of(module, scaling, query.shape[3]), softcap, dropout)
    options = {"scale": scale, "softcap": softcap, "sinks": sinks_of(s_aux, kwargs.get("sinks"), query), "dropout_p": dropout}
    pattern, chosen = _pattern(module, query, key, attention_mask, sliding_window, is_causal), chosen_keys(module, kwargs, query, key)
    reason = _OUTPUT if kwargs.get("output_attentions") else _CHOSEN if chosen is not None else _MASK if pattern is None else ""
    if kwargs.get("cu_seq_lens_q") is not None:
        pattern = _packed(pattern, query, key, kwargs["cu_seq_lens_q"], kwargs.get("cu_seq_lens_k"))
    if position_bias is not None and pattern is not None:
        pattern, reason = _with_position_bias(pattern, position_bias, query, key, reason)
    if _shards.current is not None:
        return over_ranks(query, key, value, attention_mask, pattern, options, reason, _shards.current), None
    if reason or pattern is None:
        fall_back(reason)
        return _densely(query, key, value, attention_mask, pattern, chosen, position_bias, options)
    return _windowed(query, key, value, pattern, options), None


# ---- arguments -------------------------------------------------------------------------------------------------------------------------
_TENSORS = ("s_aux", "position_bias", "sinks", "indices", "block_indices", "cu_seq_lens_q", "cu_seq_lens_k")  # each of which may be None


def _check_tensors(operands: dict[str, Tensor], **others: Any) -> None:
    for name, x in operands.items():
        check_strided(name, x)
        if x.ndim != 4:
            raise ValueError(f"{name} is {tuple(x.shape)}; it needs to have 4 dims: batch, heads, tokens, features")
    for name in _TENSORS:
        if others.get(name) is not None:
            check_strided(name, others[name])


def _numbers(scaling: float | None, softcap: float | None, dropout: float) -> tuple[float | None, float, float]:
    """By the names they have here, and on every way."""
    scale = as_factor("scaling", scaling)
    cap = 0.0 if softcap is None else as_real("softcap", softcap, "a finite number of at least 0, or None")
    if not 0 <= cap < math.inf:
        raise ValueError(f"softcap is {cap}; it needs to be a finite number, not below 0, or None")
    return scale, cap, as_probability("dropout", dropout)


# ---- which keys are seen ---------------------------------------------------------------------------------------------------------------
def _pattern(
    module: Any, query: Tensor, key: Tensor, mask: Tensor | None, sliding_window: int | None, is_causal: bool | None
) -> Pattern | None:
    """None where no operator says what the mask does."""
    rows, columns = query.shape[2], key.shape[2]
    if mask is None:
        name = getattr(getattr(module, "config", None), "_attn_implementation", _versions.NAME)
        if not _versions.has_mask_function(name):
            raise RuntimeError(
                f'no mask function is registered for attn_implementation="{name}", so padding would be lost: '
                f"AttentionMaskInterface.register({name!r}, window_matmul.hf.attention_mask)"
            )
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        side = None if sliding_window is None or (not causal and is_layer(module)) else min(sliding_window - 1, FAR)
        return Pattern(side, 0 if causal else side, columns - rows)
    if not isinstance(mask, Tensor):
        raise TypeError(f"attention_mask is of type {type(mask).__name__}; it needs to be a torch.Tensor or None")
    shape = tuple(mask.shape)
    full = (*query.shape[:2], rows, columns)
    fits = len(shape) == 4 and shape[3] == columns and all(size == 1 or size == most for size, most in zip(shape, full, strict=True))
    if not fits or (isinstance(mask, WindowMask) and shape[2] != rows):
        raise ValueError(
            f"attention_mask is {shape}; it needs to be (B or 1, H or 1, Lq or 1, Lk), here {full}; a cache whose sliding_window is 1 "
            "returns other keys than it says: window_matmul.hf.WindowCache does not"
        )
    if isinstance(mask, WindowMask):
        return mask.pattern
    if mask.dtype is not torch.bool and not mask.dtype.is_floating_point:
        raise TypeError(f"attention_mask is {mask.dtype}; it needs to be bool, or floating point to be added to the scores")
    pattern = pattern_of(mask, shape[2], columns)
    return pattern if shape[2] == rows or pattern is None or pattern.bias is None else None  # a row for all queries: keys, no numbers


def _packed(pattern: Pattern | None, query: Tensor, key: Tensor, of_queries: Tensor, of_keys: Tensor | None) -> Pattern:
    """Packed sequences as flash-attention is told of them: one batch entry, and the same of queries and keys."""
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        shapes = f"query of {tuple(query.shape)} and key of {tuple(key.shape)}"
        raise ValueError(f"cu_seq_lens_q is given beside {shapes}; packed sequences need a batch of 1, and as many keys as queries")
    if pattern is None or pattern.offset != 0:
        raise ValueError(
            "cu_seq_lens_q is given beside an attention mask that is no window; it needs None, or a mask without packed sequences"
        )
    if of_keys is not None and of_keys is not of_queries:
        if of_keys.shape != of_queries.shape or not (is_traced(of_keys) or torch.equal(of_keys, of_queries)):
            raise ValueError(f"cu_seq_lens_k is {tuple(of_keys.shape)}; it needs to be equal to cu_seq_lens_q, {tuple(of_queries.shape)}")
        if is_traced(of_keys):
            torch._assert_async((of_keys == of_queries).all(), "cu_seq_lens_k needs to be equal to cu_seq_lens_q")
    return pattern._replace(bounds=of_queries)


def _with_position_bias(pattern: Pattern, bias: Tensor, query: Tensor, key: Tensor, reason: str) -> tuple[Pattern, str]:
    """Its slots, where these are fewer than all pairs."""
    rows, columns = query.shape[2], key.shape[2]
    if bias.ndim != 4 or tuple(bias.shape[1:]) != (query.shape[1], rows, columns):
        raise ValueError(
            f"position_bias is {tuple(bias.shape)}; it needs to be (B or 1, H, Lq, Lk), here {(1, query.shape[1], rows, columns)}"
        )
    left, right = pattern.left, pattern.right
    if reason or left is None or right is None or left + 1 + right >= columns:
        return pattern, reason or _BIAS
    slots = in_band(bias, left, right, pattern.offset)
    return pattern._replace(bias=slots if pattern.bias is None else slots + pattern.bias.to(slots.dtype)), ""


# ---- attention -------------------------------------------------------------------------------------------------------------------------
def _at_once(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float) -> Tensor | None:
    """A window and nothing else, as in every layer for every token of generation; None for what it is not sure about. After the weights
    of a model have gone through the caches all code is cold: looking for options that are not there took a tenth of what attention took."""
    if is_compiling() or type(mask) is not WindowMask or type(query) is not Tensor or _shards.current is not None:
        return None
    left, right, offset, *tables = mask.pattern
    batch, heads, rows, columns = mask.sizes
    if tables != [None, None, None] or (rows, columns) != (query.shape[2], key.shape[2]) or batch != query.shape[0] or heads != 1:
        return None
    q, k, v = as_operands(query, key, value, 4)
    band = (UNBOUNDED if left is None else left, UNBOUNDED if right is None else right, as_form(q, None))
    reals = as_reals(scaling, softcap, 0.0, q.shape[3])
    out, _ = attention(q, k, v, *_NO_TABLES, band, offset, 0, reals)
    return out.transpose(1, 2).contiguous()


def _windowed(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, options: dict[str, Any]) -> Tensor:
    sinks = options["sinks"]
    if sinks is None or sinks.ndim == 1:
        return _attended(query, key, value, pattern, options)[0].contiguous()
    wide = None if query.dtype is torch.float64 else torch.float32
    out, lse = _attended(query, key, value, pattern, options | {"sinks": None, "return_lse": True, "out_dtype": wide})
    assert lse is not None
    share = (lse[..., None] - sinks).sigmoid()  # of the keys in a softmax with one logit more
    shared: Tensor = (out * share.transpose(1, 2)).to(query.dtype).contiguous()
    return shared


def _attended(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, options: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """(B, Lq, H, Dv), and where the options ask for it the log-sum-exps (B, H, Lq)."""
    left, right, offset, key_mask, bounds, bias = pattern
    batch, heads, rows = query.shape[:3]
    if key_mask is not None and key_mask.shape[0] != batch:
        key_mask = key_mask.expand(batch, -1)
    if bias is not None:
        bias = bias.to(query.dtype if query.dtype is torch.float64 else torch.float32).expand(batch, heads, rows, -1)
    if bounds is None:
        found = window_attention(query, key, value, (left, right), key_mask=key_mask, bias=bias, query_offset=offset, **options)
        out, lse = found if isinstance(found, tuple) else (found, None)
        return out.transpose(1, 2), lse
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    key_mask = None if key_mask is None else key_mask.flatten()
    bias = None if bias is None else bias.transpose(0, 1).flatten(1, 2)
    found = window_attention_varlen(q, k, v, bounds, bounds, (left, right), key_mask=key_mask, bias=bias, **options)
    out, lse = found if isinstance(found, tuple) else (found, None)
    return out.reshape(batch, rows, heads, -1), None if lse is None else lse.unflatten(1, (batch, rows)).transpose(0, 1)


def _densely(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    pattern: Pattern | None,
    chosen: Tensor | None,
    position_bias: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    if isinstance(mask, Tensor) and not isinstance(mask, WindowMask):  # as it is, and packed sequences beside it
        pattern = None if pattern is None or pattern.bounds is None else Pattern(None, None, 0, None, pattern.bounds)
    else:
        mask = None
    lets = None if pattern is None else dense_pattern(pattern, query.shape[0], query.shape[2], key.shape[2], query.device)
    for seen in (lets, chosen):
        if seen is not None:
            mask = seen if mask is None else mask & seen if mask.dtype is torch.bool else mask.masked_fill(~seen, -torch.inf)
    scale = query.shape[3] ** -0.5 if options["scale"] is None else options["scale"]
    out, weights = dense_attention(
        query,
        key,
        value,
        mask,
        scale=scale,
        softcap=options["softcap"],
        sinks=options["sinks"],
        position_bias=position_bias,
        dropout=options["dropout_p"],
    )
    return out.transpose(1, 2).contiguous(), weights

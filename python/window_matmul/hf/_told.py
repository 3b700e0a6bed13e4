# python/window_matmul/hf/_told.py: what some models tell their attention function beyond the arguments that all have.
from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

import torch
from torch import Tensor

_CHOICES = ("indices", "block_indices")
_UNDERSTOOD = frozenset(("output_attentions", "cu_seq_lens_q", "cu_seq_lens_k", "sinks", *_CHOICES))


def refuse_unknown(module: Any, kwargs: dict[str, Any]) -> None:
    """An argument by which the model's own eager attention computes other numbers is not left away."""
    for name in _own_arguments(type(module).__module__) or ():
        if kwargs.get(name) is not None:
            raise ValueError(f"{name} is given, which the attention of {type(module).__name__} knows and window_matmul does not; use eager")


def asks_for_more(kwargs: dict[str, Any]) -> bool:
    """Whether something is given beside the arguments that all have."""
    return not _UNDERSTOOD.isdisjoint(kwargs)


def scale_of(module: Any, scaling: float | None, dim: int) -> float | None:
    """GPT-2 of 4.57 hands over no factor and leaves its two options to its own eager attention."""
    if scaling is not None or not hasattr(module, "scale_attn_by_inverse_layer_idx"):
        return scaling
    scale = dim**-0.5 if module.scale_attn_weights else 1.0
    return scale / (module.layer_idx + 1) if module.scale_attn_by_inverse_layer_idx else scale


def is_layer(module: Any) -> bool:
    """Whether it is of a model of transformers, with eager attention beside it."""
    return _own_arguments(type(module).__module__) is not None


def _own_arguments(source: str) -> tuple[str, ...] | None:
    """What the function beside a model's layers takes, under the name that transformers has for it. `attention_forward` gets what all have
    by name, so that these are not among the others."""
    return _known(getattr(sys.modules.get(source), "eager_attention_forward", None))


_own_arguments._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in compat/__init__.py


@functools.cache
def _known(function: Any) -> tuple[str, ...] | None:
    return None if function is None else tuple(name for name in inspect.signature(function).parameters if name not in _UNDERSTOOD)


def sinks_of(s_aux: Tensor | None, sinks: Tensor | None, query: Tensor) -> Tensor | None:
    """One more logit without a value: (H,), or (B, H, Lq, 1) one for each query, as Inkling 2 computes them; of a dtype that is taken."""
    if s_aux is not None and sinks is not None:
        raise ValueError("sinks is given beside s_aux; one of them needs to be None")
    for name, x, need, shape in (("s_aux", s_aux, "(H,)", (query.shape[1],)), ("sinks", sinks, "(B, H, Lq, 1)", (*query.shape[:3], 1))):
        if x is not None and tuple(x.shape) != shape:
            raise ValueError(f"{name} is {tuple(x.shape)}; it needs to be {need}, here {shape}")
    given = sinks if s_aux is None else s_aux
    return given if given is None or given.dtype in (query.dtype, torch.float32) else given.to(query.dtype)


def chosen_keys(module: Any, kwargs: dict[str, Any], query: Tensor, key: Tensor) -> Tensor | None:
    """(B, 1 or H, Lq, Lk) bool: the keys that a model has chosen for each query by scores of its own; None where it has not.

    Such models put the choice into the mask for "eager" and "sdpa" alone, and hand it over to others: numbers of keys (B, Lq, n), or of
    blocks of keys (B, groups of heads, Lq, n), below 0 for none.
    """
    batch, heads, rows, columns = *query.shape[:3], key.shape[2]
    for name in _CHOICES:
        numbers, dims = kwargs.get(name), 3 if name == "indices" else 4
        if numbers is None:
            continue
        shape = tuple(numbers.shape)
        if len(shape) != dims or shape[0] != batch or shape[-2] != rows or (dims == 4 and heads % max(shape[1], 1)):
            need = "(B, Lq, n)" if dims == 3 else "(B, groups of heads, Lq, n)"
            raise ValueError(f"{name} is {shape}; it needs to be {need} beside query of {tuple(query.shape)}")
        size = 1 if dims == 3 else module.indexer.block_size
        chosen = _at(numbers if dims == 4 else numbers[:, None], -(-columns // size))
        return chosen.repeat_interleave(size, -1)[..., :columns].repeat_interleave(1 if dims == 3 else heads // shape[1], 1)
    return None


def _at(numbers: Tensor, count: int) -> Tensor:
    """(..., n) of places, negative for none -> (..., count) bool: whether it is one of them."""
    there = numbers.where(numbers >= 0, count).long()
    return torch.zeros(*there.shape[:-1], count + 1, dtype=torch.bool, device=there.device).scatter(-1, there, True)[..., :count]

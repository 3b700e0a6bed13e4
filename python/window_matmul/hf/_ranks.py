# python/window_matmul/hf/_ranks.py: layers of models whose sequences are cut over ranks, inside distributed.context_parallel.
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._shards import Cut
from ._patterns import Pattern, WindowMask


def over_ranks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, pattern: Pattern | None, options: dict[str, Any], reason: str, cut: Cut
) -> Tensor:
    """(B, n_r, H, Dv), this rank's rows. Windows go to `distributed.window_attention`, full attention to torch's context parallelism."""
    _check(query, key, mask, pattern, options["sinks"], reason)
    assert pattern is not None
    if pattern.left is None or pattern.right is None:
        return _fully(query, key, value, pattern, options, cut).transpose(1, 2).contiguous()
    from ..distributed import window_attention

    bias, key_mask = pattern.bias, pattern.key_mask
    if bias is not None:
        bias = bias.to(query.dtype if query.dtype is torch.float64 else torch.float32).expand(*query.shape[:3], -1)
    if key_mask is not None:
        key_mask = key_mask.expand(query.shape[0], -1)
    more: dict[str, Any] = {**cut._asdict(), **options, "key_mask": key_mask, "bias": bias}
    out = window_attention(query, key, value, (pattern.left, pattern.right), **more)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2).contiguous()


def _check(query: Tensor, key: Tensor, mask: Tensor | None, pattern: Pattern | None, sinks: Tensor | None, reason: str) -> None:
    inside = "inside window_matmul.distributed.context_parallel"
    if pattern is None or reason:
        raise RuntimeError(f"a layer {inside} needs a mask that is a window: {reason}")
    if sinks is not None and sinks.ndim != 1:
        raise RuntimeError(f"sinks is {tuple(sinks.shape)} {inside}; it needs to be a number a head")
    if mask is not None and not isinstance(mask, WindowMask):
        raise RuntimeError(f"attention_mask is {tuple(mask.shape)} {inside}; it needs to be a padding mask of this rank's part, or None")
    if pattern.bounds is not None:
        raise RuntimeError(f"sequences are packed {inside}; they need window_matmul.distributed.window_attention_varlen")
    if query.shape[2] != key.shape[2] or pattern.offset != 0:
        raise RuntimeError(f"key is {tuple(key.shape)} beside query of {tuple(query.shape)} {inside}; it needs to have no cache")


def _fully(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, options: dict[str, Any], cut: Cut) -> Tensor:
    """By torch.nn.functional.scaled_dot_product_attention, as torch's context_parallel has replaced it."""
    from torch.distributed.tensor.experimental._context_parallel import _attention as of_torch

    from ..distributed import Layout

    layer = f"a layer that sees ({pattern.left}, {pattern.right}) inside window_matmul.distributed.context_parallel"
    attend = torch.nn.functional.scaled_dot_product_attention
    if attend not in of_torch._replaced_functions:
        raise RuntimeError(f"{layer} needs torch.distributed.tensor.experimental.context_parallel around it, which is not active")
    needed = Layout.zigzag if of_torch._cp_options.enable_load_balance else Layout.contiguous
    if cut.layout is not needed:
        raise RuntimeError(f"{layer} has {cut.layout} beside torch's context_parallel; it needs {needed}, as that cuts sequences")
    if pattern.left is not None or pattern.right not in (None, 0):
        raise RuntimeError(f"{layer} is neither a window, nor causal, nor full; torch's context parallelism has nothing else")
    unknown = {"sinks": options["sinks"], "softcap": options["softcap"] or None, "padding": pattern.key_mask, "bias": pattern.bias}
    for name, x in unknown.items():
        if x is not None:
            raise RuntimeError(f"{layer} has {name}, which torch's context parallelism has not")
    scale, p, grouped = options["scale"], options["dropout_p"], query.shape[1] != key.shape[1]
    return attend(query, key, value, dropout_p=p, is_causal=pattern.right == 0, scale=scale, enable_gqa=grouped)

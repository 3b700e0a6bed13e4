# python/window_matmul/hf/_masks.py: the mask function of transformers' AttentionMaskInterface: patterns instead of (Lq, Lk) masks.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _shards
from .._band.arguments import check_strided
from . import _versions
from ._patterns import Pattern, as_mask, is_traced, window_mask
from ._places import FAR, Seen, seen_by


def attention_mask(
    *,
    batch_size: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    **kwargs: Any,
) -> Tensor:
    """What transformers builds masks with where `attn_implementation="window_matmul"`; the arguments are those of its `sdpa_mask`.

    Args:
        mask_function: which keys a query sees, of positions; its pattern is found by evaluating it.
        attention_mask: (B, keys), True for keys that may be seen; these hold at positions from 0 on.

    Returns:
        The pattern as a `WindowMask` (B, 1, Lq, Lk) where it is a window, or all, in each batch entry or packed sequence, or whatever lies
        within a window; else the dense mask (B, 1, Lq, Lk), as for one query of a static cache. Masks are bool, or for models that take no
        SDPA numbers to be added to the scores, which is all that these know of.

    Raises:
        TypeError: mask_function is no function, or attention_mask no tensor.
        ValueError: no query sees a key, or attention_mask has not two dims.
    """
    if not callable(mask_function):
        raise TypeError(f"mask_function is {mask_function!r}; it needs to be a function of batch entry, head, query and key")
    seen = seen_by(mask_function)
    if seen.exact and seen.first > seen.last:
        raise ValueError("sliding_window lets no query see a key; it needs to be an int of at least 1")
    aligned = allow_is_causal_skip or allow_is_bidirectional_skip or seen.segments is not None
    rows, first, device = _versions.queries(kv_length, kv_offset, aligned, kwargs)
    dtype = torch.bool if _versions.takes_bool_masks(kwargs.get("config")) else kwargs.get("dtype", torch.float32)
    static = not allow_is_causal_skip and not allow_is_bidirectional_skip
    if first is not None and not (rows == 1 and (static or not seen.exact)):
        padding = _padding(attention_mask, kv_offset, kv_length)
        sizes = (batch_size, rows, kv_length)
        if seen.has_tables:
            pattern = _packed(seen, sizes, first - kv_offset, padding)
        elif seen.exact:
            pattern = _band(seen, sizes, first - kv_offset, padding)
        else:
            pattern = _within(seen, mask_function, sizes, (first, kv_offset), padding, device)
        if pattern is not None:
            return window_mask((batch_size, 1, rows, kv_length), device, pattern, dtype)
    dense = _versions.dense_mask(
        batch_size=batch_size,
        kv_length=kv_length,
        mask_function=mask_function,
        kv_offset=kv_offset,
        attention_mask=attention_mask,
        **kwargs,
    )
    if rows == 1 and dtype is not torch.bool:  # a row of keys, which numbers would not tell a traced graph
        return window_mask((batch_size, 1, rows, kv_length), device, Pattern(None, None, 0, dense[:, 0, 0]), dtype)
    return as_mask(dense, dtype)


def _padding(mask: Tensor | None, offset: int, length: int) -> Tensor | None:
    """(B, Lk) of the keys that are there; None where all may be seen."""
    if mask is None:
        return None
    check_strided("attention_mask", mask)
    if mask.ndim != 2:
        raise ValueError(f"attention_mask is {tuple(mask.shape)}; it needs to be (B, keys) for padding, or (B, 1, Lq, Lk)")
    mask = F.pad(mask, (0, max(offset + length - mask.shape[1], 0)))[:, offset : offset + length]
    if is_traced(mask) or _shards.current is not None:  # the same on all ranks: others may have padding
        return mask
    return None if mask.all() else mask


def _band(seen: Seen, sizes: tuple[int, int, int], offset: int, padding: Tensor | None) -> Pattern:
    """Sides beyond the sequence are unbounded; a window beside the aligned key moves to it."""
    _, rows, columns = sizes
    if _shards.current is not None:  # the sequence goes on beyond this rank's part
        first, last = (None if side in (-FAR, FAR) else side for side in (seen.first, seen.last))
    else:
        first = None if seen.first <= 1 - rows - offset else seen.first
        last = None if seen.last >= columns - 1 - offset else seen.last
    move = max(first or 0, 0) + min(last or 0, 0)
    return Pattern(None if first is None else move - first, None if last is None else last - move, offset + move, padding)


def _packed(seen: Seen, sizes: tuple[int, int, int], offset: int, padding: Tensor | None) -> Pattern | None:
    """Sequences one after the other in each batch entry. Where positions count in each, a window of positions is one of places."""
    batch, rows, columns = sizes
    if not seen.exact or seen.first > 0 or seen.last < 0 or offset != 0 or rows != columns:
        return None
    numbers, positions = seen.segments, seen.positions
    if numbers is None or numbers.shape[1] != rows:
        return None
    step = numbers.diff(dim=1)
    right = step >= 0
    if positions is not None:
        right = right & ((positions.diff(dim=1) == 1) | (step != 0))
    starts = F.pad(step != 0, (1, 0), value=True).expand(batch, rows).reshape(-1)
    if is_traced(right):
        torch._assert_async(right.all(), "the positions of packed sequences need to count up by 1 in each")
        places = torch.arange(batch * rows, device=starts.device, dtype=torch.int32)
        bounds = F.pad(places.where(starts, batch * rows).sort().values, (0, 1), value=batch * rows)  # the rest are empty sequences
    elif not right.all():
        return None
    else:
        bounds = F.pad(starts.nonzero()[:, 0].int(), (0, 1), value=batch * rows)
    left, right_side = (None if side >= rows - 1 else side for side in (-seen.first, seen.last))
    return Pattern(left, right_side, 0, padding, bounds)


def _within(
    seen: Seen,
    mask_function: Callable[..., Any],
    sizes: tuple[int, int, int],
    offsets: tuple[int, int],
    padding: Tensor | None,
    device: torch.device,
) -> Pattern | None:
    """A pattern that lies within a window: its slots, as 0 or -inf. None where the window is as wide as the mask."""
    batch, rows, columns = sizes
    if seen.first == -FAR or seen.last == FAR or seen.first > 0 or seen.last < 0 or seen.last - seen.first + 1 >= columns:
        return None
    query = torch.arange(rows, device=device)[:, None] + offsets[0]
    key = query + torch.arange(seen.first, seen.last + 1, device=device)
    there = (key >= offsets[1]) & (key < offsets[1] + columns)
    key = key.clamp(offsets[1], offsets[1] + columns - 1)
    slots = _evaluated(mask_function, batch, query, key) & there
    bias = torch.zeros((), device=device).where(slots, -torch.inf)
    return Pattern(-seen.first, seen.last, offsets[0] - offsets[1], padding, None, bias)


def _evaluated(mask_function: Callable[..., Any], batch: int, query: Tensor, key: Tensor) -> Tensor:
    """(B, 1, Lq, W) bool. A user's function may take but single indices, so it is mapped over them, as transformers does."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    over_keys = torch.vmap(mask_function, (None, None, None, 0))
    over_rows = torch.vmap(over_keys, (None, None, 0, 0))
    over_batch = torch.vmap(over_rows, (0, None, None, None))
    entries, head = torch.arange(batch, device=key.device), torch.zeros((), dtype=torch.long, device=key.device)
    with TransformGetItemToIndex():
        slots: Tensor = over_batch(entries, head, query[:, 0], key)
    return slots[:, None]

# python/window_matmul/hf/_given.py: the pattern of a mask (B, H, Lq, Lk) that somebody else made.
from __future__ import annotations

import weakref

import torch
from torch import Tensor

from ._patterns import Pattern, dense_pattern, in_band

_known: dict[int, tuple[weakref.ref[Tensor], int, Pattern | None]] = {}  # of masks that live: each layer comes with the same


def pattern_of(mask: Tensor, rows: int, columns: int) -> Pattern | None:
    """A window, with a key mask or a bias where they are needed; None where the mask is as wide as it looks."""
    if mask.shape[1] == rows == 1 and mask.dtype is torch.bool:
        return Pattern(None, None, 0, mask[:, 0, 0])
    if torch.compiler.is_compiling() or mask.requires_grad:
        return None
    if mask.is_inference():  # has no version
        return _recognised(mask, rows, columns)
    place = id(mask)
    known = _known.get(place)
    if known is None or known[0]() is not mask or known[1] != mask._version:
        reference = weakref.ref(mask, lambda _: _known.pop(place, None))
        known = _known[place] = reference, mask._version, _recognised(mask, rows, columns)
    return known[2]


def _recognised(mask: Tensor, rows: int, columns: int) -> Pattern | None:
    is_bool = mask.dtype is torch.bool
    seen = mask if is_bool else mask > torch.finfo(mask.dtype).min
    some = seen.flatten(0, 1).any(0)
    first, last = _extremes(some)
    if first > last:
        return None
    offset = columns - rows
    band = (max(offset - first, 0), max(last - offset, 0))
    if mask.shape[1] == 1 and (is_bool or not mask.where(seen, 0).any()):
        keys = seen[:, 0].any(1)
        if rows == 1:
            return Pattern(None, None, 0, None if keys.all() else keys)
        left, right = (None if side >= far else side for side, far in zip(band, (columns - 1, rows - 1), strict=True))
        pattern = Pattern(left, right, offset, None if keys.all() else keys)
        if torch.equal(dense_pattern(pattern, mask.shape[0], rows, columns, mask.device), seen):
            return pattern
    if 2 * (band[0] + 1 + band[1]) > columns:
        return None
    numbers = torch.zeros((), device=mask.device).where(mask, -torch.inf) if is_bool else mask.where(seen, -torch.inf)
    return Pattern(*band, offset, None, None, in_band(numbers, *band, offset))


def _extremes(seen: Tensor) -> tuple[int, int]:
    """The least and the greatest key - query of a pair (Lq, Lk) that is seen; greater and less where none is."""
    rows, columns = seen.shape
    row = torch.arange(rows, device=seen.device)[seen.any(1)]
    if row.numel() == 0:
        return 1, 0
    places = seen[row].byte()
    first, last = places.argmax(1), columns - 1 - places.flip(1).argmax(1)
    return int((first - row).min()), int((last - row).max())

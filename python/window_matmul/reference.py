# python/window_matmul/reference.py: the definitions in plain PyTorch, in float64, from dense matrices and a boolean band.
"""Slow (L x L) and readable as mathematics. Tests, the demo and the benchmarks compare against it.

The functions take the arguments of the public ones. Whatever the inputs' dtype, results are float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .window import Window

WindowSize = int | tuple[int | None, int | None] | Window
Dilation = int | Sequence[int]


def as_window(window_size: WindowSize, dilation: int = 1) -> Window:
    if isinstance(window_size, Window):
        return window_size
    left, right = (window_size, window_size) if isinstance(window_size, int) else window_size
    return Window(left, right, dilation)


def offsets(num_queries: int, num_keys: int, query_offset: int | None = None, device: torch.device | None = None) -> Tensor:
    """(Lq, Lk): how far key j lies after the key aligned with query i, j - (i + shift)."""
    shift = num_keys - num_queries if query_offset is None else query_offset
    i, j = torch.arange(num_queries, device=device), torch.arange(num_keys, device=device)
    return j - (i[:, None] + shift)


def band_mask(
    window_size: WindowSize,
    num_queries: int,
    num_keys: int,
    *,
    dilation: Dilation = 1,
    query_offset: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """(Lq, Lk), or (H, Lq, Lk) with a dilation for each head: whether query i sees key j."""
    if not isinstance(dilation, int):
        heads = [band_mask(window_size, num_queries, num_keys, dilation=d, query_offset=query_offset, device=device) for d in dilation]
        return torch.stack(heads)
    window = as_window(window_size, dilation)
    distance = offsets(num_queries, num_keys, query_offset, device)
    taps = distance.div(window.dilation, rounding_mode="floor")
    mask = distance == taps * window.dilation
    if window.left is not None:
        mask &= taps >= -window.left
    if window.right is not None:
        mask &= taps <= window.right
    return mask


def _keys_of_slots(
    window_size: WindowSize, num_queries: int, num_keys: int, dilation: Dilation, query_offset: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """j(i, c) as (Lq, W) or (H, Lq, W), and whether that key exists; where it does not, j is some other number in range."""
    if not isinstance(dilation, int):
        pairs = [_keys_of_slots(window_size, num_queries, num_keys, d, query_offset, device) for d in dilation]
        return torch.stack([j for j, _ in pairs]), torch.stack([exists for _, exists in pairs])
    window = as_window(window_size, dilation)
    assert window.left is not None and window.right is not None
    shift = num_keys - num_queries if query_offset is None else query_offset
    i = torch.arange(num_queries, device=device)[:, None]
    t = torch.arange(-window.left, window.right + 1, device=device)
    j = i + shift + t * window.dilation
    return j.clamp(0, max(num_keys - 1, 0)), (j >= 0) & (j < num_keys)


def window_matmul(
    q: Tensor,
    k: Tensor,
    window_size: WindowSize,
    *,
    dilation: Dilation = 1,
    fill: float = 0.0,
    query_offset: int | None = None,
) -> Tensor:
    """The entries of the dense product q k that lie in the band, slot by slot."""
    scores = q.double() @ k.double()
    j, exists = _keys_of_slots(window_size, q.shape[-2], k.shape[-1], dilation, query_offset, q.device)
    if scores.shape[-1] == 0:
        return scores.new_full((*scores.shape[:-1], j.shape[-1]), fill)
    return scores.gather(-1, j.expand(*scores.shape[:-2], *j.shape[-2:])).where(exists, fill)


def to_dense(a: Tensor, window_size: WindowSize, num_keys: int, *, dilation: Dilation = 1, query_offset: int | None = None) -> Tensor:
    """(..., Lq, Lk): band storage as the matrix it stands for, 0 outside the band."""
    j, exists = _keys_of_slots(window_size, a.shape[-2], num_keys, dilation, query_offset, a.device)
    dense = a.new_zeros((*a.shape[:-1], num_keys), dtype=torch.float64)
    if num_keys == 0:
        return dense
    return dense.scatter_add(-1, j.expand(a.shape), a.double().where(exists, 0.0))


def unwindow_matmul(a: Tensor, v: Tensor, window_size: WindowSize, *, dilation: Dilation = 1, query_offset: int | None = None) -> Tensor:
    """The dense matrix that a stands for, times v."""
    return to_dense(a, window_size, v.shape[-2], dilation=dilation, query_offset=query_offset) @ v.double()


def window_softmax(
    a: Tensor,
    window_size: WindowSize,
    *,
    dilation: Dilation = 1,
    num_keys: int | None = None,
    query_offset: int | None = None,
) -> Tensor:
    """exp(a) over the slots whose key exists, divided by their sum; 0 elsewhere, and in rows without a key above -inf."""
    num_keys = a.shape[-2] if num_keys is None else num_keys
    _, exists = _keys_of_slots(window_size, a.shape[-2], num_keys, dilation, query_offset, a.device)
    return _softmax(a.double(), exists)


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    scores = scores.where(seen, -torch.inf)
    highest = scores.detach().amax(-1, keepdim=True) if scores.shape[-1] > 0 else scores.new_zeros(())
    e = (scores - highest.where(highest > -torch.inf, 0.0)).exp()
    total = e.sum(-1, keepdim=True)
    return e / total.where(total != 0, 1.0)


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, window_size: WindowSize, *, dilation: Dilation = 1, query_offset: int | None = None
) -> Tensor:
    """softmax(q kT / sqrt(N) over the band) v with dense matrices: what the three operators compute together."""
    mask = band_mask(window_size, q.shape[-2], k.shape[-2], dilation=dilation, query_offset=query_offset, device=q.device)
    return _softmax(q.double() @ k.double().mT / q.shape[-1] ** 0.5, mask) @ v.double()

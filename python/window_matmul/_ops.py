# python/window_matmul/_ops.py: the five private operators as PyTorch sees them: their handles, the shapes they give, vmap.
"""Nothing here checks arguments: functional.py does, and the library does once more.

Letters: Lq queries, Lk keys, N head dim, W = left + 1 + right slots; slot c of query i is key j = i + shift + (c - left) * dilation.
Leading dims are equal; `dilation` is () for 1, one int, or one for each entry of dim -3.

    band_out                 q (Lq, N), k (N, Lk)  -> (Lq, W)    a[i,c] = sum_n q[i,n] k[n,j]; `fill` where key j does not exist
    band_in                  a (Lq, W), v (Lk, N)  -> (Lq, N)    o[i,n] = sum_c a[i,c] v[j,n]
    band_in_transposed       a (Lq, W), x (Lq, N)  -> (Lk, N)    o[j,n] = sum of a[i,c] x[i,n] over the (i, c) whose key is j
    window_softmax           a (Lq, W)             -> (Lq, W)    over the slots whose key exists; 0 elsewhere
    window_softmax_backward  g (Lq, W), p (Lq, W)  -> (Lq, W)    p[i,c] (g[i,c] - sum_c' p[i,c'] g[i,c']); 0 elsewhere
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake, register_vmap

from . import _load as _load

library = Library("window_matmul", "FRAGMENT")  # lives as long as the module

band_out = torch.ops.window_matmul.band_out.default  # (q, k, left, right, dilation, shift, fill)
band_in = torch.ops.window_matmul.band_in.default  # (a, v, left, right, dilation, shift)
band_in_transposed = torch.ops.window_matmul.band_in_transposed.default  # (a, x, left, right, dilation, shift, num_keys)
window_softmax = torch.ops.window_matmul.window_softmax.default  # (a, left, right, dilation, shift, num_keys)
window_softmax_backward = torch.ops.window_matmul.window_softmax_backward.default  # (g, p, left, right, dilation, shift, num_keys)

TENSORS = {band_out: 2, band_in: 2, band_in_transposed: 2, window_softmax: 1, window_softmax_backward: 2}  # each op's first arguments


# ---- shapes: results are contiguous, as the library makes them --------------------------------------------------------------------
def _empty(like: Tensor, *shape: int) -> Tensor:
    known = [size for size in shape if type(size) is int]  # symbols are not known yet
    if math.prod(size or 1 for size in known) * like.element_size() >= 1 << 63:
        raise ValueError(f"the shape of the result is {shape}; it needs to be so small that its size fits into 64 bits")
    return like.new_empty(shape)


def _like_band_out(q: Tensor, k: Tensor, left: int, right: int, *_: Any) -> Tensor:
    return _empty(q, *q.shape[:-1], left + 1 + right)


def _like_band_in(a: Tensor, v: Tensor, *_: Any) -> Tensor:
    return _empty(a, *a.shape[:-1], v.shape[-1])


def _like_band_in_transposed(a: Tensor, x: Tensor, left: int, right: int, dilation: Sequence[int], shift: int, num_keys: int) -> Tensor:
    return _empty(a, *a.shape[:-2], num_keys, x.shape[-1])


def _like_band(a: Tensor, *_: Any) -> Tensor:
    return _empty(a, *a.shape)


# ---- vmap: the mapped dim becomes the first of the leading dims, so that dim -3 stays what it was -----------------------------------
def _vmap_rule(op: Any, tensors: int) -> Callable[..., tuple[Tensor, int]]:
    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        pairs = zip(args[:tensors], in_dims[:tensors], strict=True)
        mapped = (x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in pairs)
        return op(*mapped, *args[tensors:]), 0

    return rule


_SHAPES: dict[Any, Callable[..., Tensor]] = {
    band_out: _like_band_out,
    band_in: _like_band_in,
    band_in_transposed: _like_band_in_transposed,
    window_softmax: _like_band,
    window_softmax_backward: _like_band,
}

for _op, _tensors in TENSORS.items():
    register_fake(_op, _SHAPES[_op])
    register_vmap(_op, _vmap_rule(_op, _tensors))

# python/window_matmul/_attention/ops.py: fused attention's two private operators as PyTorch sees them: what they give, vmap.
"""Nothing here checks arguments: attention.py does, and the library does once more.

    attention           (*tensors, *numbers)                                          -> out, lse
    attention_backward  (d_out, d_lse or None, out, lse, *tensors, *numbers, wanted)  -> d_q, d_k, d_v, d_bias, d_sinks

tensors  q (B, H, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv), and for each option that is not used None: bias (H, W) or (B, H, Lq, W),
         sinks (H,), key_mask and global_mask (B, Lk), cu_q and cu_k (packed sequences, B = 1), seed (for dropout,
         one int64; of a part of a larger call, the places of its sequences, queries (B, Lq) and keys (Lk) there behind it),
         key_lengths (B,), offsets (B,), which stand for the shift
numbers  band: left, right, the form of the results, then the dilation's; shift; global tokens;
         reals: softcap, dropout_p, then the scale if it is not 1 / sqrt(D)
form     a sum of HEADS_INSIDE: results lie as (B, L, H, n); WIDE_OUT: out, and its gradient, in the sums' dtype; SPLIT_LSE, without
         backward: lse is (B, H, Lq, 2), the highest score and the log of the sum of exp(score - highest); HIGH_PRECISION: products of
         float32 on a GPU by three of TF32
wanted   bit n asks for the n-th gradient; the others come back without elements
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.library import fallthrough_kernel, register_fake, register_vmap
from torch.nn import Parameter

from .._band.ops import check_size, library

Tensors = tuple[Tensor, ...]
MaybeTensors = tuple[Tensor | None, ...]

NUM_TENSORS = 12
NUM_GRADIENTS = 5
_OTHERS = 4  # tensors that stand before q in attention_backward
_BIAS, _SINKS, _CU_Q, _SEED = 3, 4, 7, 9  # places in `tensors`
HEADS_INSIDE, WIDE_OUT, SPLIT_LSE, HIGH_PRECISION = 1, 2, 4, 8  # form

attention = torch.ops.window_matmul.attention.default
attention_backward = torch.ops.window_matmul.attention_backward.default
# The same without an Autograd kernel and for CPU tensors only, quicker to call.
direct_attention = torch.ops.window_matmul._attention.default._op
direct_attention_backward = torch.ops.window_matmul._attention_backward.default._op
# Of CPU tensors, without recording: results go into the tensors that stand first, gradients that are not wanted being None.
direct_attention_into = torch.ops.window_matmul._attention_into.default._op
direct_attention_backward_into = torch.ops.window_matmul._attention_backward_into.default._op
_direct_empty_of = torch.ops.window_matmul._empty_of.default._op
for _name in ("_attention", "_attention_backward", "_attention_into", "_attention_backward_into", "_empty_of"):
    library.impl(_name, fallthrough_kernel, "Autograd")


# ---- results without data -----------------------------------------------------------------------------------------------------------
def _empty(like: Tensor, shape: Sequence[int], heads_inside: int | bool, dtype: torch.dtype | None = None) -> Tensor:
    check_size(like, shape)
    if not heads_inside:
        return like.new_empty(shape, dtype=dtype)
    batch, heads, length, last = shape
    return like.new_empty(batch, length, heads, last, dtype=dtype).transpose(1, 2)


def empty_of(like: Tensor, shape: Sequence[int], heads_inside: int, dtype: torch.dtype) -> Tensor:
    """Not yet written. On a CPU a large one lies in huge pages, and in memory that is kept for such."""
    if like.is_cpu and dtype is like.dtype and type(like) in (Tensor, Parameter) and not is_compiling():
        return _direct_empty_of(like, shape, heads_inside)  # type: ignore[no-any-return]
    return _empty(like, shape, heads_inside, dtype)


def _fake_attention(*args: Any) -> Tensors:
    q, _, v = args[:3]
    form = args[NUM_TENSORS][2]
    sums = torch.float64 if q.dtype is torch.float64 else torch.float32
    out = _empty(q, (*q.shape[:3], v.shape[3]), form & HEADS_INSIDE, sums if form & WIDE_OUT else q.dtype)
    return out, q.new_empty((*q.shape[:3], 2) if form & SPLIT_LSE else q.shape[:3], dtype=sums)


def _fake_backward(*args: Any) -> Tensors:
    likes, wanted = args[_OTHERS : _OTHERS + NUM_GRADIENTS], args[-1]
    heads_inside = args[_OTHERS + NUM_TENSORS][2] & HEADS_INSIDE
    layouts = (heads_inside,) * 3 + (False,) * 2
    return tuple(
        _empty(like, like.shape, layout) if wanted >> n & 1 else likes[0].new_empty(0)
        for n, (like, layout) in enumerate(zip(likes, layouts, strict=True))
    )


register_fake(attention, _fake_attention)
register_fake(attention_backward, _fake_backward)


# ---- vmap ----------------------------------------------------------------------------------------------------------------------------
def _fold(x: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """(B, ...) with a mapped dim somewhere -> (size * B, ...)."""
    if x is None:
        return None
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def _entry(x: Tensor | None, dim: int | None, n: int) -> Tensor | None:
    """Number n of a mapped dim; zeros where it has none, for the shapes of nothing."""
    if x is None or dim is None:
        return x
    x = x.movedim(dim, 0)
    return x[n] if x.shape[0] else x.new_zeros(x.shape[1:])


def _is_for_all(tensors: MaybeTensors, dims: Sequence[int | None], place: int) -> bool:
    """Whether this tensor has no batch dim: sinks, and bias as (H, W)."""
    x = tensors[place]
    return x is not None and (place == _SINKS or x.ndim - (dims[place] is not None) == 2)


def _folds(tensors: MaybeTensors, dims: Sequence[int | None], wanted: int) -> bool:
    """Whether the mapped dim can become a part of the batch. Not where a result would be summed over it, or depends on the place in it."""
    if tensors[_CU_Q] is not None or tensors[_SEED] is not None:
        return False
    places = [place for place in (_BIAS, _SINKS) if _is_for_all(tensors, dims, place)]
    return all(dims[place] is None and not wanted >> place & 1 for place in places)


def _vmap_rule(op: Any, others: int) -> Callable[..., tuple[Tensors, tuple[int, ...]]]:
    """`others` tensors stand before q; all of them are entries of the batch."""

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        size, last = info.batch_size, others + NUM_TENSORS
        tensors, dims, numbers = args[:last], in_dims[:last], args[last:]
        wanted = numbers[-1] if others else 0
        if not _folds(tensors[others:], dims[others:], wanted):
            entries = ([_entry(x, dim, n) for x, dim in zip(tensors, dims, strict=True)] for n in range(max(size, 1)))
            results = [torch.stack(of_entries)[:size] for of_entries in zip(*(op(*entry, *numbers) for entry in entries), strict=True)]
            return tuple(results), (0,) * len(results)
        for_all = [others + n for n in (_BIAS, _SINKS) if _is_for_all(tensors[others:], dims[others:], n)]
        folded = [x if n in for_all else _fold(x, dim, size) for n, (x, dim) in enumerate(zip(tensors, dims, strict=True))]
        batch = _entry(tensors[others], dims[others], 0).shape[0]  # type: ignore[union-attr]
        results = op(*folded, *numbers)
        return tuple(x.new_empty(size, 0) if x.ndim == 1 else x.unflatten(0, (size, batch)) for x in results), (0,) * len(results)

    return rule


register_vmap(attention, _vmap_rule(attention, 0))
register_vmap(attention_backward, _vmap_rule(attention_backward, _OTHERS))

# python/window_matmul/compat/flash_attn.py: the functions of flash-attn 2.8, by name, on fused attention.
"""flash-attn's functions with the arguments, defaults, layouts and results of its release 2.8.3, on the CPU and on GPUs:

    from window_matmul.compat.flash_attn import flash_attn_func

Tensors are (B, L, H, D), or (total, H, D) where sequences are packed; any head dim, values may have another; float16, bfloat16, float32
or float64. The last query is aligned with the last key; a query that sees no key gives 0. The options are the same in all functions:

    dropout_p: probability to drop a weight, beside softcap too. The random numbers are those of `window_attention`, and others than there.
    softmax_scale: by default 1 / sqrt(D).
    causal: sets the right side of the window to 0.
    window_size: keys before and after the aligned one; -1 is unbounded.
    softcap: above 0, scores become softcap * tanh(score / softcap).
    alibi_slopes: (H,) or (B, H), float32: -slope * |i + Lk - Lq - j| is added to the score of query i and key j. There is no gradient, as
        there; slopes that require one are refused. With (B, H) each entry is a call of its own; where sequences are packed cu_seqlens
        are read for that, which waits for a GPU, and no graph of torch.compile can do.
    deterministic: results and gradients always are.
    return_attn_probs: return (out, softmax_lse, S_dmask). softmax_lse is (B, H, Lq) or (H, total_q), float32 (float64 for float64), and
        +inf where a query sees no key, as there (`merge_states` asks for -inf). It has a gradient, which is dropped there. S_dmask has
        no elements without dropout. With dropout it is the softmax (B, H, Lq, Lk), negative where a weight was dropped, in these sizes
        and not in multiples of 128. It is for tests: computed the dense way, and not in graphs of torch.compile.

Where kernels there leave the documented formula, this is the formula: the log-sum-exp of causal calls with slopes; and with more queries
than keys right sides of Lk and more, -1 among them, which are Lk or no bound there.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .._attention.arguments import as_bounds
from .._band.arguments import check_dense
from .._integers import as_int
from ._flash_cache import flash_attn_with_kvcache
from ._flash_call import as_call, as_theirs, attend, attend_varlen, can_read, check_shapes, dropped_weights, refuse_pages

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]

Results = Tensor | tuple[Tensor, Tensor, Tensor]
Sides = tuple[int, int]


# ---- batches -------------------------------------------------------------------------------------------------------------------------
def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sides = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Results:
    """q (B, Lq, H, D) attends to k (B, Lk, Hkv, D) and v (B, Lk, Hkv, Dv); H is a multiple of Hkv. The options: the module's docstring.

    >>> import torch
    >>> q, k, v = torch.zeros(3, 1, 4, 1, 2)
    >>> flash_attn_func(q, k, v + torch.arange(4.0).view(4, 1, 1), causal=True, window_size=(1, 1))[0, :, 0, 0]
    tensor([0.0000, 0.5000, 1.5000, 2.5000])
    """
    check_shapes(q, k, v, ("(B, Lq, H, D)", "(B, Lk, Hkv, D)", "(B, Lk, Hkv, Dv)"))
    call = as_call(q, len(q), dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)
    if not call.with_weights:
        return attend(q, k, v, call)[0]
    dropped = q.new_empty(0)
    if call.dropout_p:
        unit = torch.eye(k.shape[1], dtype=k.dtype, device=k.device)[None, :, None].expand(*k.shape[:3], -1)
        dropped = dropped_weights(lambda values, call: attend(q, k, values, call)[0], unit, call).transpose(1, 2)
    out, lse = attend(q, k, v, call)
    return out, as_theirs(lse), dropped


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sides = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Results:
    """`flash_attn_func` of keys and values in one tensor, (B, Lk, 2, Hkv, D)."""
    k, v = _unpacked("kv", kv, 2, "(B, Lk, 2, Hkv, D)")
    return flash_attn_func(q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sides = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Results:
    """`flash_attn_func` of queries, keys and values in one tensor, (B, L, 3, H, D)."""
    q, k, v = _unpacked("qkv", qkv, 3, "(B, L, 3, H, D)")
    return flash_attn_func(q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)


def _unpacked(name: str, packed: Tensor, parts: int, layout: str) -> tuple[Tensor, ...]:
    check_dense(name, packed)
    if packed.ndim != layout.count(",") + 1 or packed.shape[-3] != parts:
        raise ValueError(f"{name} is {tuple(packed.shape)}; it needs to be {layout}")
    return packed.unbind(-3)


# ---- packed sequences ----------------------------------------------------------------------------------------------------------------
def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sides = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Results:
    """q (total_q, H, D) attends to k (total_k, Hkv, D) and v (total_k, Hkv, Dv), sequence by sequence. The options: the module's docstring.

    Args:
        q: the queries of all sequences, one after the other.
        k: their keys, likewise.
        v: likewise.
        cu_seqlens_q: (B + 1,), int32 or int64: where sequences begin and end. Rows before the first and behind the last give 0 and an lse
            of +inf.
        cu_seqlens_k: likewise.
        max_seqlen_q: at least the length of the longest sequence, which is checked on the CPU. It is needed for S_dmask alone.
        max_seqlen_k: likewise.
        block_table: None. Paged keys are refused.
    """
    refuse_pages(block_table)
    check_shapes(q, k, v, ("(total_q, H, D)", "(total_k, Hkv, D)", "(total_k, Hkv, Dv)"))
    as_bounds("cu_seqlens_q", cu_seqlens_q, q)
    as_bounds("cu_seqlens_k", cu_seqlens_k, q)
    entries = len(cu_seqlens_q) - 1
    if len(cu_seqlens_k) - 1 != entries:
        raise ValueError(f"cu_seqlens_k is {tuple(cu_seqlens_k.shape)}; it needs to be ({entries + 1},), as cu_seqlens_q")
    longest_q = _as_longest("q", max_seqlen_q, cu_seqlens_q)
    longest_k = _as_longest("k", max_seqlen_k, cu_seqlens_k)
    call = as_call(q, entries, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)
    if not call.with_weights:
        return attend_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, call)[0]
    dropped = q.new_empty(0)
    if call.dropout_p:
        _, places = _places(cu_seqlens_k, len(k))
        unit = functional.one_hot(places.clamp(0, longest_k), longest_k + 1)[:, None, :longest_k].to(k.dtype).expand(-1, k.shape[1], -1)
        rows = dropped_weights(lambda values, call: attend_varlen(q, k, values, cu_seqlens_q, cu_seqlens_k, call)[0], unit, call)
        dropped = _by_sequence(rows, cu_seqlens_q, longest_q)
    out, lse = attend_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, call)
    return out, as_theirs(lse), dropped


def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sides = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Results:
    """`flash_attn_varlen_func` of keys and values in one tensor, (total_k, 2, Hkv, D)."""
    k, v = _unpacked("kv", kv, 2, "(total_k, 2, Hkv, D)")
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sides = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Results:
    """`flash_attn_varlen_func` of queries, keys and values in one tensor, (total, 3, H, D)."""
    q, k, v = _unpacked("qkv", qkv, 3, "(total, 3, H, D)")
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def _as_longest(which: str, longest: int, cu_seqlens: Tensor) -> int:
    least = int(cu_seqlens.diff().max()) if len(cu_seqlens) > 1 and can_read(cu_seqlens) else 0
    need = f"an int of at least {least}, the longest sequence of cu_seqlens_{which}" if least else "an int of at least 0"
    number = as_int(f"max_seqlen_{which}", longest, need)
    if number < least:
        raise ValueError(f"max_seqlen_{which} is {number}; it needs to be {need}")
    return number


def _places(cu_seqlens: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Of each row its sequence (that of rows behind all is their number) and its place there (below 0 before the first)."""
    rows = torch.arange(total, device=cu_seqlens.device)
    ends = cu_seqlens.long()
    sequence = torch.searchsorted(ends[1:], rows, right=True)
    return sequence, rows - ends[sequence]


def _by_sequence(rows: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
    """(total_q, H, n) -> (B, H, longest, n)."""
    sequence, places = _places(cu_seqlens, len(rows))
    inside = (places >= 0) & (sequence < len(cu_seqlens) - 1)
    result = rows.new_zeros(len(cu_seqlens) - 1, longest, *rows.shape[1:])
    result[sequence[inside], places[inside]] = rows[inside]
    return result.transpose(1, 2)

# python/window_matmul/_attention/arguments.py: the arguments of fused attention, checked and brought to the form the operators take.
"""Each check says what is wrong as _band/arguments.py does. Tensors are (B, H, L, n), or (L, H, n) where sequences are packed; heads are
dim 1 of both.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled

from .. import _arguments as plain
from .._arguments import as_factor as as_factor
from .._arguments import as_probability as as_probability
from .._arguments import as_real as as_real
from .._arguments import as_reals as as_reals
from .._arguments import check_heads_of as check_heads_of
from .._band.arguments import (
    DTYPES,
    STRIDED,
    UNBOUNDED,
    as_autocast,
    as_count,
    as_offset,
    check_beside,
    check_dense,
    check_device,
    check_strided,
    precision_of,
)
from .._band.ops import HIGH
from .._integers import as_flag as as_flag
from .ops import HEADS_INSIDE, HIGH_PRECISION, WIDE_OUT

_SEEDS = (1 << 63) - 1


class Options(NamedTuple):
    """What is not used is None, or 0."""

    bias: Tensor | None = None
    sinks: Tensor | None = None
    key_mask: Tensor | None = None
    global_mask: Tensor | None = None
    global_tokens: int = 0


_NO_OPTIONS = Options()


# ---- q, k, v -------------------------------------------------------------------------------------------------------------------------
def as_operands(q: Tensor, k: Tensor, v: Tensor, dims: int) -> tuple[Tensor, Tensor, Tensor]:
    """One dtype, one device, shapes that fit. Only autocast copies."""
    if not _are_right(q, k, v) or _is_any_autocast_enabled():
        for name, x in (("q", q), ("k", k), ("v", v)):
            check_dense(name, x)
        q, k, v = as_autocast(q), as_autocast(k), as_autocast(v)
        check_beside("k", k, "q", q)
        check_beside("v", v, "q", q)
    plain.check_operands(q.shape, k.shape, v.shape, dims)
    return q, k, v


def _are_right(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return (
        isinstance(q, Tensor)
        and isinstance(k, Tensor)
        and isinstance(v, Tensor)
        and q.dtype is k.dtype
        and q.dtype is v.dtype
        and q.dtype in DTYPES
        and q.is_cpu
        and k.is_cpu
        and v.is_cpu
        and q.layout is STRIDED
        and k.layout is STRIDED
        and v.layout is STRIDED
        and not (q.is_nested or k.is_nested or v.is_nested)
    )


def as_form(q: Tensor, out_dtype: object) -> int:
    """How the results are to be: laid out as q is, in the sums' dtype where that is asked for, on a GPU with torch's precision."""
    inside = HEADS_INSIDE if q.stride(1) < q.stride(2) else 0
    if not q.is_cpu and precision_of(q) == HIGH:
        inside |= HIGH_PRECISION
    if out_dtype is None or out_dtype is q.dtype:
        return inside
    if not isinstance(out_dtype, torch.dtype) or out_dtype is not torch.float32 or q.dtype is torch.float64:
        need = "None or torch.float64" if q.dtype is torch.float64 else f"None, torch.float32 or the dtype of q, {q.dtype}"
        raise TypeError(f"out_dtype is {out_dtype!r} beside q of {q.dtype}; it needs to be {need}")
    return inside | WIDE_OUT


def draw_seed(dropout_p: float, device: torch.device) -> Tensor | None:
    """From the default generator of the device. A tensor, so that it is drawn anew at each run of a compiled graph."""
    return torch.randint(_SEEDS, (), device=device) if dropout_p else None


# ---- options -------------------------------------------------------------------------------------------------------------------------
def as_options(
    q: Tensor,
    k: Tensor,
    sides: tuple[int, int],
    bias: Tensor | None,
    sinks: Tensor | None,
    key_mask: Tensor | None,
    global_tokens: int | Tensor | None,
) -> Options:
    if bias is sinks is key_mask is global_tokens is None:
        return _NO_OPTIONS
    mask_shape = (k.shape[0], k.shape[2]) if q.ndim == 4 else (k.shape[0],)
    global_mask, count = _as_global(global_tokens, q, mask_shape)
    return Options(
        None if bias is None else _as_bias(bias, q, sides),
        None if sinks is None else _as_sinks(sinks, q),
        None if key_mask is None else _as_mask("key_mask", key_mask, q, mask_shape),
        global_mask,
        count,
    )


def _as_bias(bias: Tensor, q: Tensor, sides: tuple[int, int]) -> Tensor:
    bias = _as_logits("bias", bias, q)
    plain.check_bias(bias.shape, q.shape, sides)
    return bias


def _as_sinks(sinks: Tensor, q: Tensor) -> Tensor:
    sinks = _as_logits("sinks", sinks, q)
    plain.check_sinks(sinks.shape, q.shape)
    return sinks


def as_kept(sinks: Tensor, dtype: torch.dtype) -> Tensor:
    """Beside a q of `dtype`: autocast casts q, and sinks in the half that q had keep their values."""
    return sinks.float() if {sinks.dtype, dtype} == {torch.float16, torch.bfloat16} and _is_any_autocast_enabled() else sinks


def _as_logits(name: str, x: Tensor, q: Tensor) -> Tensor:
    """bias or sinks, in q's dtype or float32. Autocast casts bias where it casts q."""
    check_strided(name, x)
    if name == "bias" and q.dtype is not torch.float64 and x.dtype in DTYPES:
        x = as_autocast(x)
    elif name == "sinks":
        x = as_kept(x, q.dtype)
    if x.dtype is not q.dtype and x.dtype is not torch.float32:
        raise TypeError(f"{name} is {x.dtype} beside q of {q.dtype}; it needs to be the same or float32")
    check_device(name, x, "q", q)
    return x


def _as_mask(name: str, mask: Tensor, q: Tensor, shape: tuple[int, ...]) -> Tensor:
    check_strided(name, mask)
    if mask.dtype is not torch.bool:
        raise TypeError(f"{name} is {mask.dtype}; it needs to be bool")
    plain.check_mask(name, mask.shape, shape)
    check_device(name, mask, "q", q)
    return mask


def _as_global(global_tokens: int | Tensor | None, q: Tensor, mask_shape: tuple[int, ...]) -> tuple[Tensor | None, int]:
    """A mask, or a number of keys. Numbers beyond the sequence are all right."""
    if global_tokens is None:
        return None, 0
    if isinstance(global_tokens, Tensor) and (global_tokens.ndim > 0 or global_tokens.dtype is torch.bool):
        return _as_mask("global_tokens", global_tokens, q, mask_shape), 0
    return None, as_count("global_tokens", global_tokens, "an int of at least 0, a bool mask, or None", UNBOUNDED)


def as_entries(
    key_lengths: Tensor | None, query_offset: int | Tensor | None, q: Tensor, k: Tensor
) -> tuple[Tensor | None, Tensor | None, int]:
    """What each entry of the batch has of its own, key lengths and offsets, and the offset of all where there are none."""
    lengths = None if key_lengths is None else _as_numbers("key_lengths", key_lengths, q)
    if isinstance(query_offset, Tensor) and query_offset.ndim > 0:
        return lengths, _as_numbers("query_offset", query_offset, q), 0
    if query_offset is not None:
        return lengths, None, as_offset(query_offset, "an int, a tensor (B,) of ints, or None")
    if lengths is None:
        return None, None, k.shape[2] - q.shape[2]
    return lengths, lengths - q.shape[2], 0


def _as_numbers(name: str, numbers: Tensor, q: Tensor) -> Tensor:
    """One for each entry. The values are checked where they are read, in the library."""
    check_strided(name, numbers)
    _check_integers(name, numbers)
    plain.check_entries(name, numbers.shape, q.shape)
    check_device(name, numbers, "q", q)
    return numbers


def _check_integers(name: str, numbers: Tensor) -> None:
    if numbers.dtype is not torch.int32 and numbers.dtype is not torch.int64:
        raise TypeError(f"{name} is {numbers.dtype}; it needs to be int32 or int64")


def as_bounds(name: str, cu_seqlens: Tensor, q: Tensor) -> Tensor:
    """Where packed sequences begin and end. The values are checked where they are read, in the library."""
    check_strided(name, cu_seqlens)
    _check_integers(name, cu_seqlens)
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] == 0:
        raise ValueError(f"{name} is {tuple(cu_seqlens.shape)}; it needs to be (number of sequences + 1,)")
    check_device(name, cu_seqlens, "q", q)
    return cu_seqlens

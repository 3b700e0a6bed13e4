# python/window_matmul/compat/_array_options.py: the options of fused attention on arrays, checked and given to the C library.
from ctypes import pointer

import numpy as np

from .. import _arguments as plain
from .. import _c_library as library
from .._integers import as_int
from ._arrays import Array, as_array


def _as_logits(name: str, x: object, q: Array) -> Array:
    """bias or sinks, in q's dtype or float32."""
    array = as_array(name, x)
    if array.dtype not in (q.dtype, "float32"):
        raise TypeError(f"{name} is {array.dtype} beside q of {q.dtype}; it needs to be the same or float32")
    return array


def _as_mask(name: str, x: object, need: tuple[int, ...]) -> Array:
    array = as_array(name, x)
    if array.dtype != "bool":
        raise TypeError(f"{name} is {array.dtype}; it needs to be bool")
    plain.check_mask(name, array.shape, need)
    return array


def _as_numbers(name: str, x: object, q: Array) -> Array:
    array = as_array(name, x)
    if array.dtype not in ("int32", "int64"):
        raise TypeError(f"{name} is {array.dtype}; it needs to be int32 or int64")
    plain.check_entries(name, array.shape, q.shape)
    return array


def _is_array(x: object) -> bool:
    """No number: those that are arrays have no dims."""
    return hasattr(x, "__dlpack__") and getattr(x, "ndim", 1) > 0


def sums_of(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def as_out_dtype(q: Array, out_dtype: object) -> str:
    if out_dtype is None:
        return q.dtype
    try:
        name = np.dtype(out_dtype).name  # type: ignore[call-overload]
    except TypeError:
        name = ""
    if name not in (q.dtype, sums_of(q.dtype)):
        need = "None or float64" if q.dtype == "float64" else f"None, float32 or the dtype of q, {q.dtype}"
        raise TypeError(f"out_dtype is {out_dtype!r} beside q of {q.dtype}; it needs to be {need}")
    return str(name)


def as_seed(dropout_p: float, dropout_seed: object) -> int:
    need = "an int from 0 to 2**64 - 1"
    if dropout_seed is None:
        if dropout_p:
            raise ValueError(f"dropout_seed is None beside a dropout_p of {dropout_p}; it needs to be {need}")
        return 0
    seed = as_int("dropout_seed", dropout_seed, need)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"dropout_seed is {seed}; it needs to be {need}")
    return seed


def set_options(
    options: library.AttentionOptions,
    q: Array,
    k: Array,
    sides: tuple[int, int],
    bias: object,
    sinks: object,
    key_mask: object,
    global_tokens: object,
) -> list[Array]:
    """Returns what has to live as long as the call."""
    kept, mask_shape = [], (k.shape[0], k.shape[2])

    def give(field: str, array: Array) -> None:
        kept.append(array)
        setattr(options, field, pointer(array.tensor()))

    if _is_array(global_tokens) or getattr(global_tokens, "dtype", None) == np.bool_:
        give("global_mask", _as_mask("global_tokens", global_tokens, mask_shape))
    elif global_tokens is not None:
        need = "an int of at least 0, a bool mask, or None"
        options.global_tokens = plain.as_count("global_tokens", global_tokens, need, plain.UNBOUNDED)
    if bias is not None:
        give("bias", _as_logits("bias", bias, q))
        plain.check_bias(kept[-1].shape, q.shape, sides)
    if sinks is not None:
        give("sinks", _as_logits("sinks", sinks, q))
        plain.check_sinks(kept[-1].shape, q.shape)
    if key_mask is not None:
        give("key_mask", _as_mask("key_mask", key_mask, mask_shape))
    return kept


def set_entries(options: library.AttentionOptions, kept: list[Array], q: Array, key_lengths: object, query_offset: object) -> int | None:
    """What each entry of the batch has of its own; returns the offset of all, None for the library's."""
    if key_lengths is not None:
        kept.append(_as_numbers("key_lengths", key_lengths, q))
        options.key_lengths = pointer(kept[-1].tensor())
    if _is_array(query_offset):
        kept.append(_as_numbers("query_offset", query_offset, q))
        options.query_offsets = pointer(kept[-1].tensor())
        return None
    return None if query_offset is None else plain.as_offset(query_offset, "an int, an array (B,) of ints, or None")

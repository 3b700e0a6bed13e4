# python/window_matmul/compat/_array_options.py: the options of fused attention on arrays, checked and given to the C library.
from ctypes import pointer

import numpy as np

from .. import _c_library as library
from . import _array_checks as checks
from ._arrays import Array, as_array


def _is_array(x: object) -> bool:
    """No number: those that are arrays have no dims."""
    return hasattr(x, "__dlpack__") and getattr(x, "ndim", 1) > 0


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
    kept = []

    def give(field: str, name: str, x: object) -> Array:
        kept.append(as_array(name, x))
        setattr(options, field, pointer(kept[-1].tensor()))
        return kept[-1]

    if _is_array(global_tokens) or getattr(global_tokens, "dtype", None) == np.bool_:
        checks.check_mask("global_tokens", give("global_mask", "global_tokens", global_tokens), k)
    elif global_tokens is not None:
        options.global_tokens = checks.as_global_count(global_tokens)
    if bias is not None:
        checks.check_bias(give("bias", "bias", bias), q, sides)
    if sinks is not None:
        checks.check_sinks(give("sinks", "sinks", sinks), q)
    if key_mask is not None:
        checks.check_mask("key_mask", give("key_mask", "key_mask", key_mask), k)
    return kept


def set_entries(options: library.AttentionOptions, kept: list[Array], q: Array, key_lengths: object, query_offset: object) -> int | None:
    """What each entry of the batch has of its own; returns the offset of all, None for the library's."""

    def give(field: str, name: str, x: object) -> None:
        kept.append(as_array(name, x))
        checks.check_numbers(name, kept[-1], q)
        setattr(options, field, pointer(kept[-1].tensor()))

    if key_lengths is not None:
        give("key_lengths", "key_lengths", key_lengths)
    if _is_array(query_offset):
        give("query_offsets", "query_offset", query_offset)
        return None
    return checks.as_offset_of_all(query_offset)

# python/window_matmul/compat/_array_checks.py: what the doors for arrays, NumPy's and JAX's, refuse of dtypes and shapes.
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from .. import _arguments as plain
from .._integers import as_int

FLOATS = ("float32", "float64", "bfloat16", "float16")


class Typed(plain.Shaped, Protocol):
    @property
    def dtype(self) -> Any: ...


class _Broadcast:
    """What a dilation for each head is checked against."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.ndim = shape, len(shape)


# ---- dtypes --------------------------------------------------------------------------------------------------------------------------
def check_floats(name: str, x: Typed) -> None:
    """Of a dtype that the operators take."""
    if str(x.dtype) not in FLOATS:
        raise TypeError(f"{name} is {x.dtype}; it needs to be float32, float64, bfloat16 or float16")


def check_beside(name: str, x: Typed, other_name: str, other: Typed) -> None:
    if x.dtype != other.dtype:
        raise TypeError(f"{name} is {x.dtype} beside {other_name} of {other.dtype}; it needs to be the same")


def check_size(shape: Sequence[int], dtype: "np.dtype[Any]") -> None:
    """Of a result."""
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 1 << 63:
        raise ValueError(f"the shape of the result is {tuple(shape)}; it needs to be so small that its size fits into 64 bits")


def sums_of(dtype: object) -> str:
    return "float64" if str(dtype) == "float64" else "float32"


def as_out_dtype(dtype: object, out_dtype: object) -> str:
    """Beside q of a dtype, by name."""
    of_q = str(dtype)
    if out_dtype is None:
        return of_q
    try:
        name = str(np.dtype(out_dtype).name)  # type: ignore[call-overload]
    except TypeError:
        name = ""
    if name not in (of_q, sums_of(of_q)):
        need = "None or float64" if of_q == "float64" else f"None, float32 or the dtype of q, {of_q}"
        raise TypeError(f"out_dtype is {out_dtype!r} beside q of {of_q}; it needs to be {need}")
    return name


# ---- bands ---------------------------------------------------------------------------------------------------------------------------
class Band(NamedTuple):
    left: int
    right: int
    shift: int
    num_keys: int
    dilation: tuple[int, ...]

    @property
    def width(self) -> int:
        return self.left + 1 + self.right


def check_operand(name: str, x: Typed) -> None:
    check_floats(name, x)
    if not 2 <= x.ndim <= plain.MAX_DIMS:
        raise ValueError(f"{name} is {tuple(x.shape)}; it needs to have 2 to {plain.MAX_DIMS} dims")


def _broadcast(x_name: str, x: Typed, y_name: str, y: Typed) -> tuple[int, ...]:
    """What the leading dims broadcast to."""
    check_operand(x_name, x)
    check_operand(y_name, y)
    check_beside(y_name, y, x_name, x)
    try:
        return np.broadcast_shapes(tuple(x.shape[:-2]), tuple(y.shape[:-2]))
    except ValueError:
        raise ValueError(
            f"{y_name} is {tuple(y.shape)} beside {x_name} of {tuple(x.shape)}; the leading dims (all but two) need to be broadcastable, "
            "to a size that fits into 64 bits"
        ) from None


def _band(window_size: object, dilation: object, name: str, shape: Sequence[int], num_keys: int, query_offset: object) -> Band:
    """Of the operand `name`, which has that shape after broadcasting."""
    left, right, taps = plain.as_band(window_size, dilation)
    plain.check_heads(dilation, name, _Broadcast(tuple(shape)))
    shift = num_keys - shape[-2] if query_offset is None else plain.as_offset(query_offset)
    return Band(left, right, shift, num_keys, taps)


def _check_width(a: Typed, band: Band) -> None:
    if a.shape[-1] != band.width:
        raise ValueError(f"a is {tuple(a.shape)}; its dim -1 needs to be left + 1 + right = {band.width}")


def band_of_matmul(q: Typed, k: Typed, window_size: object, dilation: object, query_offset: object) -> tuple[Band, tuple[int, ...]]:
    """The band, and the leading dims of the result."""
    leading = _broadcast("q", q, "k", k)
    if q.shape[-1] != k.shape[-2]:
        k_shape, q_shape = (*leading, *k.shape[-2:]), (*leading, *q.shape[-2:])
        raise ValueError(f"k is {k_shape} beside q of {q_shape}; its dim -2 needs to be q's dim -1, {q.shape[-1]}")
    return _band(window_size, dilation, "q", (*leading, *q.shape[-2:]), k.shape[-1], query_offset), leading


def band_of_unmatmul(a: Typed, v: Typed, window_size: object, dilation: object, query_offset: object) -> tuple[Band, tuple[int, ...]]:
    leading = _broadcast("a", a, "v", v)
    band = _band(window_size, dilation, "a", (*leading, *a.shape[-2:]), v.shape[-2], query_offset)
    _check_width(a, band)
    return band, leading


def band_of_softmax(a: Typed, window_size: object, dilation: object, num_keys: object, query_offset: object) -> Band:
    check_operand("a", a)
    keys = a.shape[-2] if num_keys is None else plain.as_count("num_keys", num_keys)
    band = _band(window_size, dilation, "a", a.shape, keys, query_offset)
    _check_width(a, band)
    return band


# ---- options of fused attention ------------------------------------------------------------------------------------------------------
def check_attention(q: Typed, k: Typed, v: Typed, dilation: object) -> None:
    for name, x in zip("qkv", (q, k, v), strict=True):
        check_floats(name, x)
    check_beside("k", k, "q", q)
    check_beside("v", v, "q", q)
    plain.check_operands(q.shape, k.shape, v.shape, 4)
    plain.check_heads_of(dilation, q)


def check_logits(name: str, x: Typed, q: Typed) -> None:
    """bias or sinks, in q's dtype or float32."""
    if str(x.dtype) not in (str(q.dtype), "float32"):
        raise TypeError(f"{name} is {x.dtype} beside q of {q.dtype}; it needs to be the same or float32")


def check_bias(bias: Typed, q: Typed, sides: tuple[int, int]) -> None:
    check_logits("bias", bias, q)
    plain.check_bias(bias.shape, q.shape, sides)


def check_sinks(sinks: Typed, q: Typed) -> None:
    check_logits("sinks", sinks, q)
    plain.check_sinks(sinks.shape, q.shape)


def check_mask(name: str, x: Typed, k: Typed) -> None:
    if str(x.dtype) != "bool":
        raise TypeError(f"{name} is {x.dtype}; it needs to be bool")
    plain.check_mask(name, x.shape, (k.shape[0], k.shape[2]))


def check_numbers(name: str, x: Typed, q: Typed) -> None:
    if str(x.dtype) not in ("int32", "int64"):
        raise TypeError(f"{name} is {x.dtype}; it needs to be int32 or int64")
    plain.check_entries(name, x.shape, q.shape)


class Options(NamedTuple):
    arrays: dict[str, Any]  # by their names in the C interface: those that are given
    global_tokens: int  # how many of the first
    query_offset: int | None  # of all; None for the library's own, or where each entry has one


def as_options(
    as_array: Callable[[str, object], Any],
    is_array: Callable[[object], bool],
    q: Typed,
    k: Typed,
    sides: tuple[int, int],
    *,
    bias: object,
    sinks: object,
    key_mask: object,
    global_tokens: object,
    key_lengths: object,
    query_offset: object,
) -> Options:
    """`as_array` makes an array of the door's kind of an argument, `is_array` tells those that have dims from numbers."""
    arrays: dict[str, Any] = {}
    count, offset = 0, None

    def give(field: str, name: str, x: object) -> Any:
        arrays[field] = as_array(name, x)
        return arrays[field]

    if is_array(global_tokens) or getattr(global_tokens, "dtype", None) == np.bool_:
        check_mask("global_tokens", give("global_mask", "global_tokens", global_tokens), k)
    elif global_tokens is not None:
        count = plain.as_count("global_tokens", global_tokens, "an int of at least 0, a bool mask, or None", plain.UNBOUNDED)
    if bias is not None:
        check_bias(give("bias", "bias", bias), q, sides)
    if sinks is not None:
        check_sinks(give("sinks", "sinks", sinks), q)
    if key_mask is not None:
        check_mask("key_mask", give("key_mask", "key_mask", key_mask), k)
    if key_lengths is not None:
        check_numbers("key_lengths", give("key_lengths", "key_lengths", key_lengths), q)
    if is_array(query_offset):
        check_numbers("query_offset", give("query_offsets", "query_offset", query_offset), q)
    elif query_offset is not None:
        offset = plain.as_offset(query_offset, "an int, an array (B,) of ints, or None")
    return Options(arrays, count, offset)


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

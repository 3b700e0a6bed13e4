# python/window_matmul/compat/numpy.py: the operators on NumPy arrays, and on whatever has __dlpack__; torch is not imported.
"""`window_matmul`, `window_softmax`, `unwindow_matmul` and `window_attention` with the arguments, numbers and errors of the functions of
these names on torch tensors, forward alone.

Arrays are NumPy's, of any strides, or those of any library with `__dlpack__` whose memory is the CPU's; neither is copied. Results are
NumPy arrays of the inputs' dtype: float64, float32, float16, and bfloat16 where ml_dtypes is installed. Calls run on as many threads as the
process may use, or WINDOW_MATMUL_THREADS, and are equal bit for bit for every number.

>>> import numpy as np
>>> x = np.arange(1.0, 9.0).reshape(4, 2)
>>> window_matmul(x, x.T, 1)
array([[  0.,   5.,  11.],
       [ 11.,  25.,  39.],
       [ 39.,  61.,  83.],
       [ 83., 113.,   0.]])
"""

from ctypes import c_double, pointer, sizeof
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, overload

try:
    import numpy as np
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    raise ImportError("window_matmul.compat.numpy needs NumPy: pip install numpy") from None

from numpy.typing import NDArray

from .. import _arguments as plain
from .. import _c_library as library
from .._integers import as_flag, as_int
from ..window import Window
from ._arrays import Array, as_array, as_floats, check_beside, empty

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["unwindow_matmul", "window_attention", "window_matmul", "window_softmax"]

WindowSize: TypeAlias = int | tuple[int, int] | Window
AnyWindow: TypeAlias = WindowSize | tuple[int | None, int | None] | None
Dilation: TypeAlias = int | tuple[int, ...] | list[int]


class HasDLPack(Protocol):
    def __dlpack__(self, *, stream: Any = ...) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, Any]: ...


ArrayLike: TypeAlias = NDArray[Any] | HasDLPack


# ---- bands ---------------------------------------------------------------------------------------------------------------------------
def _as_operand(name: str, x: object) -> Array:
    array = as_floats(name, x)
    if not 2 <= array.ndim <= plain.MAX_DIMS:
        raise ValueError(f"{name} is {array.shape}; it needs to have 2 to {plain.MAX_DIMS} dims")
    return array


def _as_operands(x_name: str, x: object, y_name: str, y: object) -> tuple[Array, Array, tuple[int, ...]]:
    """Both, and what their leading dims broadcast to."""
    a, b = _as_operand(x_name, x), _as_operand(y_name, y)
    check_beside(y_name, b, x_name, a)
    try:
        return a, b, np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(
            f"{y_name} is {b.shape} beside {x_name} of {a.shape}; the leading dims (all but two) need to be broadcastable, to a size that "
            "fits into 64 bits"
        ) from None


class _Broadcast:
    """What a dilation for each head is checked against."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.ndim = shape, len(shape)


def window_matmul(
    q: ArrayLike, k: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, fill: float = 0.0, query_offset: int | None = None
) -> NDArray[Any]:
    """Scores of each query with the keys of its window: ``a[i, c] = sum_n q[i, n] * k[n, j(i, c)]``.

    As `window_matmul.window_matmul`: q (..., Lq, N), k (..., N, Lk), as a rule ``keys.swapaxes(-1, -2)``, give (..., Lq, W).
    """
    left, right, taps = plain.as_band(window_size, dilation)
    x, y, leading = _as_operands("q", q, "k", k)
    if x.shape[-1] != y.shape[-2]:
        k_shape, q_shape = (*leading, *y.shape[-2:]), (*leading, *x.shape[-2:])
        raise ValueError(f"k is {k_shape} beside q of {q_shape}; its dim -2 needs to be q's dim -1, {x.shape[-1]}")
    num_queries, num_keys = x.shape[-2], y.shape[-1]
    plain.check_heads(dilation, "q", _Broadcast((*leading, *x.shape[-2:])))
    shift = num_keys - num_queries if query_offset is None else plain.as_offset(query_offset)
    number = plain.as_fill(fill)
    a, to = empty((*leading, num_queries, left + 1 + right), x.dtype)
    window = library.window(left, right, taps, shift)
    library.call("band_out", window, x.tensor(), y.tensor(), number[0] if number else 0.0, to.tensor())
    return a


def unwindow_matmul(
    a: ArrayLike, v: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, query_offset: int | None = None
) -> NDArray[Any]:
    """Sums of the values of each query's window, weighted by its slots: ``o[i, n] = sum_c a[i, c] * v[j(i, c), n]``.

    As `window_matmul.unwindow_matmul`: a (..., Lq, W), v (..., Lk, N) give (..., Lq, N).
    """
    left, right, taps = plain.as_band(window_size, dilation)
    x, y, leading = _as_operands("a", a, "v", v)
    _check_width(x, left, right)
    num_queries, num_keys = x.shape[-2], y.shape[-2]
    plain.check_heads(dilation, "a", _Broadcast((*leading, *x.shape[-2:])))
    shift = num_keys - num_queries if query_offset is None else plain.as_offset(query_offset)
    o, to = empty((*leading, num_queries, y.shape[-1]), x.dtype)
    library.call("band_in", library.window(left, right, taps, shift), x.tensor(), y.tensor(), to.tensor())
    return o


def window_softmax(
    a: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, num_keys: int | None = None, query_offset: int | None = None
) -> NDArray[Any]:
    """Softmax of each query's scores over the slots whose key exists; 0 in the others, whatever they hold.

    As `window_matmul.window_softmax`: a (..., Lq, W) gives the same shape; `num_keys` is Lk, by default Lq.
    """
    left, right, taps = plain.as_band(window_size, dilation)
    x = _as_operand("a", a)
    _check_width(x, left, right)
    plain.check_heads(dilation, "a", x)
    num_queries = x.shape[-2]
    keys = num_queries if num_keys is None else plain.as_count("num_keys", num_keys)
    shift = keys - num_queries if query_offset is None else plain.as_offset(query_offset)
    p, to = empty(x.shape, x.dtype)
    library.call("window_softmax", library.window(left, right, taps, shift), keys, x.tensor(), to.tensor())
    return p


def _check_width(a: Array, left: int, right: int) -> None:
    if a.shape[-1] != left + 1 + right:
        raise ValueError(f"a is {a.shape}; its dim -1 needs to be left + 1 + right = {left + 1 + right}")


# ---- fused attention -----------------------------------------------------------------------------------------------------------------
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


def _sums_of(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def _as_out_dtype(q: Array, out_dtype: object) -> str:
    if out_dtype is None:
        return q.dtype
    try:
        name = np.dtype(out_dtype).name  # type: ignore[call-overload]
    except TypeError:
        name = ""
    if name not in (q.dtype, _sums_of(q.dtype)):
        need = "None or float64" if q.dtype == "float64" else f"None, float32 or the dtype of q, {q.dtype}"
        raise TypeError(f"out_dtype is {out_dtype!r} beside q of {q.dtype}; it needs to be {need}")
    return str(name)


def _as_seed(dropout_p: float, dropout_seed: object) -> int:
    need = "an int from 0 to 2**64 - 1"
    if dropout_seed is None:
        if dropout_p:
            raise ValueError(f"dropout_seed is None beside a dropout_p of {dropout_p}; it needs to be {need}")
        return 0
    seed = as_int("dropout_seed", dropout_seed, need)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"dropout_seed is {seed}; it needs to be {need}")
    return seed


class _Options(TypedDict, total=False):
    dilation: Dilation
    scale: float | None
    key_mask: ArrayLike | None
    key_lengths: ArrayLike | None
    bias: ArrayLike | None
    softcap: float
    sinks: ArrayLike | None
    global_tokens: int | ArrayLike | None
    dropout_p: float
    dropout_seed: int | None
    query_offset: int | ArrayLike | None
    out_dtype: Any


@overload
def window_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, window_size: AnyWindow, *, return_lse: Literal[False] = False, **options: "Unpack[_Options]"
) -> NDArray[Any]: ...


@overload
def window_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, window_size: AnyWindow, *, return_lse: Literal[True], **options: "Unpack[_Options]"
) -> tuple[NDArray[Any], NDArray[Any]]: ...


@overload
def window_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, window_size: AnyWindow, *, return_lse: bool, **options: "Unpack[_Options]"
) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]: ...


def window_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    window_size: AnyWindow,
    *,
    dilation: Dilation = 1,
    scale: float | None = None,
    key_mask: ArrayLike | None = None,
    key_lengths: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    softcap: float = 0.0,
    sinks: ArrayLike | None = None,
    global_tokens: int | ArrayLike | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    query_offset: int | ArrayLike | None = None,
    return_lse: bool = False,
    out_dtype: Any = None,
) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
    """Attention of each query to the keys of its window: ``softmax(scale * q @ k.mT + bias) @ v`` over these.

    As `window_matmul.window_attention`, which says what each option is: q (B, H, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv) give
    (B, H, Lq, Dv), and with `return_lse` also (B, H, Lq). There is no random generator to draw from: `dropout_p` needs a `dropout_seed`.
    """
    left, right, taps = plain.as_window(window_size, dilation)
    x, y, z = as_floats("q", q), as_floats("k", k), as_floats("v", v)
    check_beside("k", y, "q", x)
    check_beside("v", z, "q", x)
    plain.check_operands(x.shape, y.shape, z.shape, 4)
    plain.check_heads_of(dilation, x)
    cap, p, *factor = plain.as_reals(scale, softcap, dropout_p, x.shape[3])
    seed = _as_seed(p, dropout_seed)
    options = library.AttentionOptions(size=sizeof(library.AttentionOptions), softcap=cap, dropout_p=p, dropout_seed=seed)
    if factor:
        options.scale = pointer(c_double(factor[0]))
    kept = _set_options(options, x, y, (left, right), bias, sinks, key_mask, global_tokens)
    offset = _set_entries(options, kept, x, y, key_lengths, query_offset)
    with_lse = as_flag("return_lse", return_lse)
    shape = x.shape[:3]
    out, to = empty((*shape, z.shape[3]), _as_out_dtype(x, out_dtype), x.strides[1] < x.strides[2])
    lse, lse_to = empty(shape, _sums_of(x.dtype)) if with_lse else (None, None)
    window = library.window(left, right, taps, offset)
    library.call("window_attention", window, x.tensor(), y.tensor(), z.tensor(), options, to.tensor(), lse_to and lse_to.tensor())
    return out if lse is None else (out, lse)


def _set_options(
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


def _set_entries(
    options: library.AttentionOptions, kept: list[Array], q: Array, k: Array, key_lengths: object, query_offset: object
) -> int | None:
    """What each entry of the batch has of its own; returns the offset of all, None for the library's."""
    if key_lengths is not None:
        kept.append(_as_numbers("key_lengths", key_lengths, q))
        options.key_lengths = pointer(kept[-1].tensor())
    if _is_array(query_offset):
        kept.append(_as_numbers("query_offset", query_offset, q))
        options.query_offsets = pointer(kept[-1].tensor())
        return None
    return None if query_offset is None else plain.as_offset(query_offset, "an int, an array (B,) of ints, or None")

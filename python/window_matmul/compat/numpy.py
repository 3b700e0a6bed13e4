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
from .._integers import as_flag
from ..window import Window
from ._array_options import as_out_dtype, as_seed, set_entries, set_options, sums_of
from ._arrays import Array, as_floats, check_beside, empty

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
    seed = as_seed(p, dropout_seed)
    options = library.AttentionOptions(size=sizeof(library.AttentionOptions), softcap=cap, dropout_p=p, dropout_seed=seed)
    if factor:
        options.scale = pointer(c_double(factor[0]))
    kept = set_options(options, x, y, (left, right), bias, sinks, key_mask, global_tokens)
    offset = set_entries(options, kept, x, key_lengths, query_offset)
    with_lse = as_flag("return_lse", return_lse)
    shape = x.shape[:3]
    out, to = empty((*shape, z.shape[3]), as_out_dtype(x, out_dtype), x.strides[1] < x.strides[2])
    lse, lse_to = empty(shape, sums_of(x.dtype)) if with_lse else (None, None)
    window = library.window(left, right, taps, offset)
    library.call("window_attention", window, x.tensor(), y.tensor(), z.tensor(), options, to.tensor(), lse_to and lse_to.tensor())
    return out if lse is None else (out, lse)

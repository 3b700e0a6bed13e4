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
    from numpy.typing import NDArray
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    raise ImportError("window_matmul.compat.numpy needs NumPy: pip install numpy") from None

from .. import _arguments as plain
from .. import _c_library as library
from .._arguments import AnyWindow, Dilation, WindowSize
from .._integers import as_flag
from . import _array_checks as checks
from ._arrays import as_array, empty

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["unwindow_matmul", "window_attention", "window_matmul", "window_softmax"]


class HasDLPack(Protocol):
    def __dlpack__(self, *, stream: Any = ...) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, Any]: ...


ArrayLike: TypeAlias = NDArray[Any] | HasDLPack


def _is_array(x: object) -> bool:
    """No number: those that are arrays have no dims."""
    return hasattr(x, "__dlpack__") and getattr(x, "ndim", 1) > 0


# ---- bands ---------------------------------------------------------------------------------------------------------------------------
def _window(band: checks.Band) -> library.Window:
    return library.window(band.left, band.right, band.dilation, band.shift)


def window_matmul(
    q: ArrayLike, k: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, fill: float = 0.0, query_offset: int | None = None
) -> NDArray[Any]:
    """Scores of each query with the keys of its window: ``a[i, c] = sum_n q[i, n] * k[n, j(i, c)]``.

    As `window_matmul.window_matmul`: q (..., Lq, N), k (..., N, Lk), as a rule ``keys.swapaxes(-1, -2)``, give (..., Lq, W).
    """
    x, y = as_array("q", q), as_array("k", k)
    band, leading = checks.band_of_matmul(x, y, window_size, dilation, query_offset)
    number = plain.as_fill(fill)
    a, to = empty((*leading, x.shape[-2], band.width), x.dtype)
    library.call("band_out", _window(band), x.tensor(), y.tensor(), number[0] if number else 0.0, to.tensor())
    return a


def unwindow_matmul(
    a: ArrayLike, v: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, query_offset: int | None = None
) -> NDArray[Any]:
    """Sums of the values of each query's window, weighted by its slots: ``o[i, n] = sum_c a[i, c] * v[j(i, c), n]``.

    As `window_matmul.unwindow_matmul`: a (..., Lq, W), v (..., Lk, N) give (..., Lq, N).
    """
    x, y = as_array("a", a), as_array("v", v)
    band, leading = checks.band_of_unmatmul(x, y, window_size, dilation, query_offset)
    o, to = empty((*leading, x.shape[-2], y.shape[-1]), x.dtype)
    library.call("band_in", _window(band), x.tensor(), y.tensor(), to.tensor())
    return o


def window_softmax(
    a: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, num_keys: int | None = None, query_offset: int | None = None
) -> NDArray[Any]:
    """Softmax of each query's scores over the slots whose key exists; 0 in the others, whatever they hold.

    As `window_matmul.window_softmax`: a (..., Lq, W) gives the same shape; `num_keys` is Lk, by default Lq.
    """
    x = as_array("a", a)
    band = checks.band_of_softmax(x, window_size, dilation, num_keys, query_offset)
    p, to = empty(x.shape, x.dtype)
    library.call("window_softmax", _window(band), band.num_keys, x.tensor(), to.tensor())
    return p


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
    x, y, z = as_array("q", q), as_array("k", k), as_array("v", v)
    checks.check_attention(x, y, z, dilation)
    cap, p, *factor = plain.as_reals(scale, softcap, dropout_p, x.shape[3])
    seed = checks.as_seed(p, dropout_seed)
    options = library.AttentionOptions(size=sizeof(library.AttentionOptions), softcap=cap, dropout_p=p, dropout_seed=seed)
    if factor:
        options.scale = pointer(c_double(factor[0]))
    given = checks.as_options(
        *(as_array, _is_array, x, y, (left, right)),
        bias=bias,
        sinks=sinks,
        key_mask=key_mask,
        global_tokens=global_tokens,
        key_lengths=key_lengths,
        query_offset=query_offset,
    )
    options.global_tokens = given.global_tokens
    for field, array in given.arrays.items():
        setattr(options, field, pointer(array.tensor()))
    with_lse = as_flag("return_lse", return_lse)
    shape = x.shape[:3]
    out, to = empty((*shape, z.shape[3]), checks.as_out_dtype(x.dtype, out_dtype), x.strides[1] < x.strides[2])
    lse, lse_to = empty(shape, checks.sums_of(x.dtype)) if with_lse else (None, None)
    window = library.window(left, right, taps, given.query_offset)
    library.call("window_attention", window, x.tensor(), y.tensor(), z.tensor(), options, to.tensor(), lse_to and lse_to.tensor())
    return out if lse is None else (out, lse)

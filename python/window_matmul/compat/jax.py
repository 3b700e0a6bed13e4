# python/window_matmul/compat/jax.py: the operators on JAX arrays, by XLA's foreign function interface; torch is not imported.
"""`window_matmul`, `window_softmax`, `unwindow_matmul` and `window_attention` with the arguments, numbers and errors of the functions of
these names on torch tensors, on a CPU, under `jax.jit`, `jax.grad` and `jax.vmap`.

Arrays are JAX's or NumPy's: float32, float16, bfloat16, and float64 where jax_enable_x64 is set. Windows and other numbers are static:
`jax.jit` compiles anew for each. The derivatives are in reverse mode; those of `window_attention` of the first order, the others' of any.

>>> import jax.numpy as jnp
>>> x = jnp.arange(1.0, 9.0).reshape(4, 2)
>>> window_matmul(x, x.T, 1)
Array([[  0.,   5.,  11.],
       [ 11.,  25.,  39.],
       [ 39.,  61.,  83.],
       [ 83., 113.,   0.]], dtype=float32)
"""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, overload

from ._jax_packages import NDArray, jax, jnp, np

# isort: split
from .. import _arguments as plain
from .._arguments import AnyWindow, Dilation, WindowSize
from .._integers import as_flag
from . import _array_checks as checks
from . import _jax_calls as calls

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["unwindow_matmul", "window_attention", "window_matmul", "window_softmax"]

ArrayLike: TypeAlias = jax.Array | NDArray[Any]


# ---- arrays --------------------------------------------------------------------------------------------------------------------------
def _as_array(name: str, x: object) -> jax.Array:
    if isinstance(x, jax.Array):
        _check_place(name, x)
        return x
    if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is of type {type(x).__name__}; it needs to be an array: JAX's or NumPy's")
    array = jnp.asarray(x)
    if array.dtype != x.dtype and not (x.dtype.kind in "iu" and np.array_equal(array, x)):
        need = f"it needs to be {array.dtype}, or that to be set"
        raise TypeError(f"{name} is {x.dtype}, which JAX has only where jax_enable_x64 is set; {need}")
    return array


def _check_place(name: str, x: jax.Array) -> None:
    """Where nothing is known yet, in a function that is traced, XLA says what it has no kernel for."""
    place = None if isinstance(x, jax.core.Tracer) else min(x.devices(), key=lambda device: device.platform == "cpu")
    if place is not None and place.platform != "cpu":
        raise ValueError(
            f"{name} is on the device {place.platform}:{place.id}; it needs to be on the CPU, where "
            "jax.device_put(x, jax.devices('cpu')[0]) brings it: this door has no kernels for GPUs"
        )


def _is_array(x: object) -> bool:
    """No number: those that are arrays have no dims."""
    return isinstance(x, jax.Array | np.ndarray) and x.ndim > 0


def _of_equal_rank(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """So that dims which vmap puts in front stand at the same place in both."""
    ndim = max(x.ndim, y.ndim)
    return x.reshape((1,) * (ndim - x.ndim) + x.shape), y.reshape((1,) * (ndim - y.ndim) + y.shape)


# ---- bands ---------------------------------------------------------------------------------------------------------------------------
def window_matmul(
    q: ArrayLike, k: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, fill: float = 0.0, query_offset: int | None = None
) -> jax.Array:
    """Scores of each query with the keys of its window: ``a[i, c] = sum_n q[i, n] * k[n, j(i, c)]``.

    As `window_matmul.window_matmul`: q (..., Lq, N), k (..., N, Lk), as a rule ``keys.swapaxes(-1, -2)``, give (..., Lq, W).
    """
    x, y = _as_array("q", q), _as_array("k", k)
    band, _ = checks.band_of_matmul(x, y, window_size, dilation, query_offset)
    number = plain.as_fill(fill)
    return calls.band_out(band, number[0] if number else 0.0, *_of_equal_rank(x, y.swapaxes(-1, -2)))


def unwindow_matmul(
    a: ArrayLike, v: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, query_offset: int | None = None
) -> jax.Array:
    """Sums of the values of each query's window, weighted by its slots: ``o[i, n] = sum_c a[i, c] * v[j(i, c), n]``.

    As `window_matmul.unwindow_matmul`: a (..., Lq, W), v (..., Lk, N) give (..., Lq, N).
    """
    x, y = _as_array("a", a), _as_array("v", v)
    band, _ = checks.band_of_unmatmul(x, y, window_size, dilation, query_offset)
    return calls.band_in(band, *_of_equal_rank(x, y))


def window_softmax(
    a: ArrayLike, window_size: WindowSize, *, dilation: Dilation = 1, num_keys: int | None = None, query_offset: int | None = None
) -> jax.Array:
    """Softmax of each query's scores over the slots whose key exists; 0 in the others, whatever they hold.

    As `window_matmul.window_softmax`: a (..., Lq, W) gives the same shape; `num_keys` is Lk, by default Lq.
    """
    x = _as_array("a", a)
    return calls.softmax(checks.band_of_softmax(x, window_size, dilation, num_keys, query_offset), x)


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
    dropout_seed: int | jax.Array | None
    query_offset: int | ArrayLike | None
    out_dtype: Any


def _as_seed(dropout_p: float, dropout_seed: object) -> jax.Array:
    """As two int32: JAX has no 64 bits by default."""
    if isinstance(dropout_seed, jax.Array) and dropout_seed.ndim == 0 and str(dropout_seed.dtype) in ("uint32", "uint64"):
        high = dropout_seed >> 32 if dropout_seed.dtype == "uint64" else 0 * dropout_seed
        words = jnp.stack([dropout_seed.astype("uint32"), high.astype("uint32")])
        return jax.lax.bitcast_convert_type(words, "int32")
    seed = checks.as_seed(dropout_p, dropout_seed)
    return jnp.asarray(np.array([seed], "<u8").view("<i4"))


@overload
def window_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, window_size: AnyWindow, *, return_lse: Literal[False] = False, **options: "Unpack[_Options]"
) -> jax.Array: ...


@overload
def window_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, window_size: AnyWindow, *, return_lse: Literal[True], **options: "Unpack[_Options]"
) -> tuple[jax.Array, jax.Array]: ...


@overload
def window_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, window_size: AnyWindow, *, return_lse: bool, **options: "Unpack[_Options]"
) -> jax.Array | tuple[jax.Array, jax.Array]: ...


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
    dropout_seed: int | jax.Array | None = None,
    query_offset: int | ArrayLike | None = None,
    return_lse: bool = False,
    out_dtype: Any = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Attention of each query to the keys of its window: ``softmax(scale * q @ k.mT + bias) @ v`` over these.

    As `window_matmul.window_attention`, which says what each option is: q (B, H, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv) give
    (B, H, Lq, Dv), and with `return_lse` also (B, H, Lq). Differentiable in q, k, v, bias and sinks, once. `dropout_p` needs a
    `dropout_seed`: an int, or for another one at each call of a compiled function an array () of uint32 or uint64, `jax.random.bits(key)`.

    What `key_lengths` and `query_offset` hold is checked when the call runs: what is wrong is then an error of JAX's runtime.
    """
    left, right, taps = plain.as_window(window_size, dilation)
    floats = {"q": _as_array("q", q), "k": _as_array("k", k), "v": _as_array("v", v)}
    x, y, z = floats.values()
    checks.check_attention(x, y, z, dilation)
    cap, p, *factor = plain.as_reals(scale, softcap, dropout_p, x.shape[3])
    others = {"dropout_seed": _as_seed(p, dropout_seed)} if p or dropout_seed is not None else {}
    given = checks.as_options(
        *(_as_array, _is_array, x, y, (left, right)),
        bias=bias,
        sinks=sinks,
        key_mask=key_mask,
        global_tokens=global_tokens,
        key_lengths=key_lengths,
        query_offset=query_offset,
    )
    for field, array in given.arrays.items():
        (floats if field in ("bias", "sinks") else others)[field] = array
    window = (left, right, int(given.query_offset is not None), given.query_offset or 0, *taps)
    call = calls.Attention(window, factor[0] if factor else None, cap, p, given.global_tokens, checks.as_out_dtype(x.dtype, out_dtype))
    out, lse = calls.attention(call, floats, others)
    return (out, lse) if as_flag("return_lse", return_lse) else out

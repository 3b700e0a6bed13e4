# python/window_matmul/compat/_jax_calls.py: the operators as JAX sees them: calls of the C library by XLA, and their derivatives.
"""Arguments are checked by `jax.py`, and by the library once more. A `Band` or `Attention` is static; its offset is resolved.

src/c_api/xla.hpp says what the functions of libwindow_matmul.so expect. What vmap maps becomes a dim in front of all others, of 1 in an
array that is not mapped: the operators on bands broadcast it, attention is called once for each of its entries.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

from ._jax_packages import SymbolicZero, ffi, jax, jnp, np

# isort: split
from .. import _c_library as library
from ._array_checks import Band, check_size, sums_of

Array: TypeAlias = Any  # jax.Array
Arrays: TypeAlias = dict[str, Array]

for _name in (
    "band_out",
    "band_in",
    "band_in_transposed",
    "window_softmax",
    "window_softmax_backward",
    "window_attention",
    "window_attention_backward",
):
    ffi.register_ffi_target(f"window_matmul.{_name}", ffi.pycapsule(library.address(f"xla_{_name}")), platform="cpu")


def _like(x: Array) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _call(operator: str, operands: Arrays, results: Arrays, window: Sequence[int], **numbers: Any) -> list[Array]:
    """`results` are what they will be like."""
    for like in results.values():
        check_size(like.shape, like.dtype)  # which XLA leaves to us
    call = ffi.ffi_call(f"window_matmul.{operator}", list(results.values()), vmap_method="expand_dims")
    names = {"operands": " ".join(operands), "results": " ".join(results)}
    return call(*operands.values(), window=np.array(window, np.int64), **names, **numbers)  # type: ignore[no-any-return]


# ---- bands: each one's gradients are calls of the others, to any order -------------------------------------------------------------------
def _of_band(operator: str, band: Band, result: str, last: tuple[int, int], operands: Arrays, **numbers: Any) -> Array:
    """Operands have as many dims each; `last` are the result's last two."""
    shapes = [x.shape for x in operands.values()]
    like = jax.ShapeDtypeStruct((*np.broadcast_shapes(*(shape[:-2] for shape in shapes)), *last), next(iter(operands.values())).dtype)
    return _call(operator, operands, {result: like}, (band.left, band.right, 1, band.shift, *band.dilation), **numbers)[0]


def _summed(gradient: Array, like: Array) -> Array:
    """Over the dims that were broadcast."""
    dims = tuple(dim for dim, size in enumerate(like.shape) if size != gradient.shape[dim])
    return gradient.sum(dims, keepdims=True) if dims else gradient


def _band_out(band: Band, fill: float, q: Array, keys: Array) -> Array:
    return _of_band("band_out", band, "a", (q.shape[-2], band.width), {"q": q, "k": keys}, fill=np.float64(fill))


def _band_in(band: Band, a: Array, v: Array) -> Array:
    return _of_band("band_in", band, "o", (a.shape[-2], v.shape[-1]), {"a": a, "v": v})


def _band_in_transposed(band: Band, a: Array, x: Array) -> Array:
    return _of_band("band_in_transposed", band, "o", (band.num_keys, x.shape[-1]), {"a": a, "x": x})


def _softmax(band: Band, a: Array) -> Array:
    return _of_band("window_softmax", band, "p", a.shape[-2:], {"a": a}, num_keys=np.int64(band.num_keys))


def _softmax_backward(band: Band, g: Array, p: Array) -> Array:
    return _of_band("window_softmax_backward", band, "d", p.shape[-2:], {"g": g, "p": p}, num_keys=np.int64(band.num_keys))


band_out = jax.custom_vjp(_band_out, nondiff_argnums=(0, 1))
band_in = jax.custom_vjp(_band_in, nondiff_argnums=(0,))
band_in_transposed = jax.custom_vjp(_band_in_transposed, nondiff_argnums=(0,))
softmax = jax.custom_vjp(_softmax, nondiff_argnums=(0,))
softmax_backward = jax.custom_vjp(_softmax_backward, nondiff_argnums=(0,))


def _has_key(band: Band, num_queries: int) -> Array:
    """(Lq, W), or (H, Lq, W) with a dilation for each head: whether the key of slot c of query i exists. Offsets may need 64 bits, which
    JAX has only where it is told to: NumPy counts the slots that rows begin and end with."""
    aligned = np.arange(num_queries, dtype=np.int64) + band.shift
    step = np.array(band.dilation or (1,), np.int64)[:, None]
    first = np.clip(band.left - aligned // step, 0, band.width).astype(np.int32)
    last = np.clip(band.left + (band.num_keys - 1 - aligned) // step, -1, band.width).astype(np.int32)
    slots = jnp.arange(band.width, dtype=jnp.int32)
    mask = (slots >= first[..., None]) & (slots <= last[..., None])
    return mask if len(band.dilation) > 1 else mask[0]


def _gradients_of_softmax_backward(band: Band, saved: tuple[Array, Array], h: Array) -> tuple[Array, Array]:
    """d = p (g - sum_c p g) is linear in g, with a symmetric Jacobian, and quadratic in p."""
    g, p = saved
    mask, sums = _has_key(band, p.shape[-2]), sums_of(p.dtype)
    wide_h, wide_g, wide_p = (jnp.where(mask, x, 0).astype(sums) for x in (h, g, p))
    d_p = wide_h * (wide_g - (wide_g * wide_p).sum(-1, keepdims=True)) - wide_g * (wide_h * wide_p).sum(-1, keepdims=True)
    return softmax_backward(band, h, p), d_p.astype(p.dtype)


def _kept(operator: Any) -> Any:
    """The forward pass of what keeps its two operands."""
    return lambda *args: (operator(*args), args[-2:])


def _and_kept(p: Array) -> tuple[Array, Array]:
    return p, p


band_out.defvjp(
    _kept(band_out),
    lambda band, fill, kept, g: (_summed(band_in(band, g, kept[1]), kept[0]), _summed(band_in_transposed(band, g, kept[0]), kept[1])),
)
band_in.defvjp(
    _kept(band_in),
    lambda band, kept, g: (_summed(band_out(band, 0.0, g, kept[1]), kept[0]), _summed(band_in_transposed(band, kept[0], g), kept[1])),
)
band_in_transposed.defvjp(
    _kept(band_in_transposed),
    lambda band, kept, g: (_summed(band_out(band, 0.0, kept[1], g), kept[0]), _summed(band_in(band, kept[0], g), kept[1])),
)
softmax.defvjp(lambda band, a: _and_kept(softmax(band, a)), lambda band, p, g: (softmax_backward(band, g, p),))
softmax_backward.defvjp(_kept(softmax_backward), _gradients_of_softmax_backward)


# ---- fused attention: first order ------------------------------------------------------------------------------------------------------
class Attention(NamedTuple):
    window: tuple[int, ...]  # left, right, whether there is an offset, that, the dilation
    scale: float | None
    softcap: float
    dropout_p: float
    global_tokens: int
    out_dtype: str

    def numbers(self) -> dict[str, Any]:
        scale = {} if self.scale is None else {"scale": np.float64(self.scale)}
        reals = {"softcap": np.float64(self.softcap), "dropout_p": np.float64(self.dropout_p)}
        return {"window": self.window, "global_tokens": np.int64(self.global_tokens), **scale, **reals}


def _attention(call: Attention, floats: Arrays, others: Arrays) -> tuple[Array, Array]:
    """floats: q, k, v, and where given bias, sinks; others: key_mask, global_mask, key_lengths, query_offsets, dropout_seed."""
    q, v = floats["q"], floats["v"]
    out = jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), call.out_dtype)
    lse = jax.ShapeDtypeStruct(q.shape[:3], sums_of(q.dtype))
    return tuple(_call("window_attention", floats | others, {"out": out, "lse": lse}, **call.numbers()))


def _attention_backward(call: Attention, wanted: tuple[str, ...], floats: Arrays, others: Arrays, results: Arrays) -> Arrays:
    """results: out, lse, d_out, and where it is not 0 d_lse."""
    gradients = {f"d_{name}": _like(floats[name]) for name in wanted}
    found = _call("window_attention_backward", floats | others | results, gradients, **call.numbers())
    return dict(zip(wanted, found, strict=True))


def _refuse_second(*_: Any) -> NoReturn:
    raise NotImplementedError(
        "the gradients of window_attention have no derivatives of their own; for those of higher order use window_matmul + "
        "window_softmax + unwindow_matmul, which compute the same with the scores as an array"
    )


attention = jax.custom_vjp(_attention, nondiff_argnums=(0,))
_once = jax.custom_jvp(_attention_backward, nondiff_argnums=(0, 1))
_once.defjvp(_refuse_second)


def _keep(call: Attention, floats: dict[str, Any], others: dict[str, Any]) -> Any:
    """What is to be differentiated is kept as the keys of a dict without arrays: JAX keeps structures as they are."""
    wanted = {name: None for name, x in floats.items() if x.perturbed}
    of_floats, of_others = ({name: x.value for name, x in given.items()} for given in (floats, others))
    out, lse = attention(call, of_floats, of_others)
    return (out, lse), (of_floats, of_others, out, lse, wanted)


def _gradients(call: Attention, kept: Any, cotangents: tuple[Any, Any]) -> tuple[dict[str, Array | None], None]:
    floats, others, out, lse, wanted = kept
    d_out, d_lse = cotangents
    results = {"out": out, "lse": lse, "d_out": jnp.zeros(d_out.shape, d_out.dtype) if isinstance(d_out, SymbolicZero) else d_out}
    if not isinstance(d_lse, SymbolicZero):
        results["d_lse"] = d_lse
    found = _once(call, tuple(wanted), floats, others, results)
    return {name: found.get(name) for name in floats}, None


attention.defvjp(_keep, _gradients, symbolic_zeros=True)

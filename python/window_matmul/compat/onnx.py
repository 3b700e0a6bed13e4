# python/window_matmul/compat/onnx.py: the operators in ONNX, as a table for torch.onnx.export.
"""Models that call `window_attention`, `window_attention_varlen`, `window_matmul`, `window_softmax` or `unwindow_matmul`, themselves or
through `nn.WindowAttention` and `window_matmul.hf`, as ONNX models:

    from window_matmul.compat.onnx import translation_table

    torch.onnx.export(model, args, "model.onnx", dynamo=True, custom_translation_table=translation_table())

They become standard operators of opset 18 and newer, with the numbers of the kernels up to rounding, in onnx's reference evaluator and in
ONNX Runtime. With a bounded window scores take some Lq * (2 W + 64) numbers; with an unbounded side, global tokens, packed sequences, or
lengths or offsets of each entry it is the dense matrix, Lq * Lk of them. With `opset_version=25`, attention without other options becomes
ONNX's own Attention, which has windows since; ONNX Runtime 1.32 has no kernel for it and computes it densely.

Unlike the kernels a graph does not keep infinities and NaN to those who see them: 0 * NaN is NaN. Keys that nothing may see, by `key_mask`
or lengths, are all right, whatever they hold. Values of `key_lengths`, `cu_seqlens` and offsets are not checked in a graph.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from .._attention.ops import SPLIT_LSE, WIDE_OUT
from . import _onnx_tiles as graph
from ._onnx_attention import Call, attend, attend_by_one_node
from ._onnx_packages import evaluator, ir, op
from ._onnx_tiles import Number, Tiles, Value, as_band, constant, size

__all__ = ["translation_table"]

_ATTENTION_WITH_WINDOWS = 25  # opset_version; later ones torch 2.13 makes from opset 18, where that node is not


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `custom_translation_table` of `torch.onnx.export(..., dynamo=True)`: what each operator of this package is in ONNX.

    What a graph cannot say is an error at export that names it: `dropout_p` above 0, `RollingCache`, gradients within a model, no queries
    or no keys.

    >>> sorted(str(op) for op in translation_table())[0]
    'window_matmul.attention.default'
    """
    namespace = torch.ops.window_matmul
    table: dict[Callable[..., Any], Callable[..., Any]] = {
        namespace.attention.default: _attention,
        namespace.band_out.default: _band_out,
        namespace.band_in.default: _band_in,
        namespace.window_softmax.default: _window_softmax,
    }
    for name in ("attention_backward", "band_in_transposed", "window_softmax_backward"):
        table[getattr(namespace, name).default] = _refuse_gradients
    return table


def _refuse_gradients(*_: Any) -> NoReturn:
    raise ValueError("the model computes gradients of window_matmul's operators; what is exported needs to be inference alone")


def _has_attention() -> bool:
    """Whether the model is to have opset 25, as far as the exporter says."""
    return getattr(getattr(evaluator.default(), "opset", None), "version", 0) == _ATTENTION_WITH_WINDOWS


def _sums(x: Value) -> ir.DataType:
    return ir.DataType.DOUBLE if x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT


def _as_int64(x: Value | None) -> Value | None:
    return None if x is None else op.Cast(x, to=ir.DataType.INT64)


def _heads(name: str, x: Value) -> int:
    known = x.shape[1]
    if not isinstance(known, int):
        raise ValueError(f"{name} has a number of heads that is known only when the model runs; it needs to be fixed at export")
    return known


# ---- fused attention -----------------------------------------------------------------------------------------------------------------
def _attention(*operands: Any) -> tuple[Value, Value]:
    """The operands of _attention/ops.py."""
    q, k, v, bias, sinks, key_mask, global_mask, cu_q, cu_k, seed, key_lengths, offsets, band, shift, global_tokens, reals = operands
    left, right, form, *dilation = band
    softcap, _, *scale = reals
    if seed is not None:
        raise ValueError("dropout_p is not 0; an ONNX model needs it to be: export the model in eval()")
    if form & SPLIT_LSE:
        raise ValueError("the model calls RollingCache.attend, which writes into its cache; an ONNX model needs to call window_attention")
    sums, dim = _sums(q), q.shape[3]
    if not scale and not isinstance(dim, int):
        raise ValueError("scale is None beside q with a head dim that is known only when the model runs; it needs to be given")
    call = Call(
        *(op.Cast(q, to=sums), op.Cast(k, to=sums), op.Cast(v, to=sums)),
        *(bias, sinks, key_mask, global_mask),
        *(_as_int64(cu_q), _as_int64(cu_k), _as_int64(key_lengths), _as_int64(offsets)),
        *(as_band(left, right, dilation), shift, global_tokens, softcap, scale[0] if scale else dim**-0.5),
        sums,
        (size(q, 2), size(k, 2), size(v, 3)),
        (_heads("q", q), _heads("k", k)),
    )
    out, lse = attend(call)
    if _has_attention() and call.is_plain:
        out = attend_by_one_node(call)
    return (out if form & WIDE_OUT else op.Cast(out, to=q.dtype)), lse


# ---- the operators on bands ----------------------------------------------------------------------------------------------------------
def _with_heads(x: Value, rank: int) -> Value:
    """(..., L, n) -> (B, H, L, n)."""
    if rank <= 4:
        return op.Unsqueeze(x, constant(list(range(4 - rank)))) if rank < 4 else x
    return op.Reshape(x, op.Concat(constant([-1]), op.Shape(x, start=-3), axis=0))


def _without_heads(x: Value, like: Value, last: Number) -> Value:
    """(B, H, L, last) -> (..., L, last), with the leading dims of `like`."""
    return op.Reshape(x, op.Concat(op.Shape(like, end=-1), graph.as_shape(last), axis=0))


def _band_out(q: Value, k: Value, left: int, right: int, dilation: Sequence[int], shift: Number, fill: float, _precision: int = 0) -> Value:
    sums, band, rank = _sums(q), as_band(left, right, dilation), len(q.shape)
    tiles = Tiles(size(q, -2), size(k, -1), shift, band)
    keys = op.Transpose(k, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = tiles.scores(*(_with_heads(op.Cast(x, to=sums), rank) for x in (q, keys)))
    found, exists = tiles.slots(scores, band)
    width = left + 1 + right
    a = tiles.joined(op.Where(exists, found, constant(fill, sums.numpy())), width)
    return op.Cast(_without_heads(a, q, width), to=q.dtype)


def _band_in(a: Value, v: Value, left: int, right: int, dilation: Sequence[int], shift: Number, _precision: int = 0) -> Value:
    sums, band, rank = _sums(a), as_band(left, right, dilation), len(a.shape)
    tiles = Tiles(size(a, -2), size(v, -2), shift, band)
    weights, values = (_with_heads(op.Cast(x, to=sums), rank) for x in (a, v))
    offset = op.Sub(tiles.key, tiles.aligned)
    spread = graph.gather(tiles.of_queries(weights), band.slot(offset))
    spread = op.Where(band.inside(offset), spread, constant(0, sums.numpy()))
    last = size(v, -1)
    o = tiles.joined(op.MatMul(spread, tiles.of_keys(values)), last)
    return op.Cast(_without_heads(o, a, last), to=a.dtype)


def _window_softmax(a: Value, left: int, right: int, dilation: Sequence[int], shift: Number, num_keys: Number) -> Value:
    sums, band = _sums(a), as_band(left, right, dilation)
    row = op.Unsqueeze(graph.count(size(a, -2)), constant([1]))
    place = band.places(op.Add(row, graph.as_value(shift)))  # (H, 1, Lq, W)
    exists = op.And(op.GreaterOrEqual(place, constant(0)), op.Less(place, graph.as_value(num_keys)))
    exists = op.Squeeze(exists, constant([1] if len(a.shape) > 2 else [0, 1]))
    weights, _ = graph.softmax(op.Where(exists, op.Cast(a, to=sums), graph.minus_infinity(sums)), sums)
    return op.Cast(weights, to=a.dtype)

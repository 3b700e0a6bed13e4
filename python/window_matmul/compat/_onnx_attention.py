# python/window_matmul/compat/_onnx_attention.py: fused attention as a graph of ONNX operators, from the operands of the operator.
"""Operands are those of _attention/ops.py: values of the graph, None, and numbers. Sums and softmax are in float32 (float64 for float64),
as in the kernels, so that halves are cast in front and behind.
"""

from dataclasses import dataclass
from typing import Any

from .._band.arguments import UNBOUNDED
from . import _onnx_tiles as graph
from ._onnx_packages import Opset, ir, op
from ._onnx_tiles import Band, Number, Tiles, Value, all_of, any_of, constant, equal, size


@dataclass
class Call:
    """One call of the operator; q, k, v in the sums' dtype, k and v with the heads they have."""

    q: Value
    k: Value
    v: Value
    bias: Value | None
    sinks: Value | None
    key_mask: Value | None
    global_mask: Value | None
    cu_q: Value | None  # in int64, as the next three
    cu_k: Value | None
    lengths: Value | None
    offsets: Value | None
    band: Band
    shift: Number
    global_tokens: Number
    softcap: Any
    scale: Any
    sums: ir.DataType
    sizes: tuple[Number, ...]  # Lq, Lk, Dv
    heads: tuple[int, int]  # of queries, of keys

    @property
    def has_globals(self) -> bool:
        return self.global_mask is not None or not graph.is_zero(self.global_tokens)

    @property
    def is_plain(self) -> bool:
        """Whether ONNX's Attention says the same. Its scale is a float32 above 0."""
        others = (self.bias, self.sinks, self.cu_q, self.lengths, self.offsets)
        queries, keys, _ = self.sizes
        return (
            all(x is None for x in others)
            and not self.has_globals
            and max(self.band.taps) == 1
            and isinstance(self.shift, int)
            and (self.shift == 0 or (isinstance(keys, int) and isinstance(queries, int) and self.shift == keys - queries))
            and isinstance(self.softcap, int | float)
            and isinstance(self.scale, int | float)
            and self.scale > 0
            and self.sums is not ir.DataType.DOUBLE
        )

    def number(self, x: Any) -> Value:
        return constant(x, self.sums.numpy()) if isinstance(x, int | float) else op.Cast(x, to=self.sums)


@dataclass
class Places:
    """Of queries, as (B, 1, C, c, 1); None: from the first key, to the last."""

    tiles: Tiles
    aligned: Value  # the key aligned with each
    begin: Value | None = None  # the first key that may be seen, and what is behind the last
    end: Value | None = None
    are_all: Value | bool = False  # whether they are as many as the keys, each aligned with its own: then global queries see all
    own: Value | None = None  # the key of each query's own place, where that is so

    def offset(self) -> Value:
        return op.Sub(self.tiles.key, self.aligned)

    def exists(self) -> Value | None:
        return all_of(
            None if self.begin is None else op.GreaterOrEqual(self.tiles.key, self.begin),
            None if self.end is None else op.Less(self.tiles.key, self.end),
        )


# ---- places --------------------------------------------------------------------------------------------------------------------------
def _of_batch(call: Call) -> Places:
    queries, keys, _ = call.sizes
    of_entries = call.offsets is not None
    is_narrow = call.band.left < UNBOUNDED and call.band.right < UNBOUNDED and not (of_entries or call.has_globals)
    tiles = Tiles(queries, keys, 0 if of_entries else call.shift, call.band if is_narrow else None)
    end = None if call.lengths is None else _of_entries(call.lengths)
    aligned, are_aligned = tiles.aligned, equal(call.shift, 0)
    if of_entries:
        offsets = _of_entries(call.offsets)
        aligned, are_aligned = op.Add(tiles.row, offsets), op.Equal(offsets, constant(0))
    are_all = equal(keys, queries) if end is None else op.Equal(end, graph.as_value(queries))
    return Places(tiles, aligned, None, end, _both(are_all, are_aligned), tiles.row)


def _both(a: Value | bool, b: Value | bool) -> Value | bool:
    if isinstance(a, bool) or isinstance(b, bool):
        a, b = (a, b) if isinstance(a, bool) else (b, a)
        return b if a else False
    return op.And(a, b)


def _of_entries(x: Value) -> Value:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return op.Unsqueeze(x, constant([1, 2, 3, 4]))


def _of_packed(call: Call) -> Places:
    """Each query's sequence is the last that begins at or before it; none where that has ended."""
    queries, keys, _ = call.sizes
    tiles = Tiles(queries, keys, 0)
    begun = op.LessOrEqual(op.Unsqueeze(call.cu_q, constant([0])), op.Unsqueeze(graph.count(queries), constant([1])))
    sequence = op.Sub(op.ReduceSum(op.Cast(begun, to=ir.DataType.INT64), constant([1]), keepdims=0), constant(1))
    number = size(call.cu_q, 0)
    within = op.Clip(sequence, constant(0), graph.as_value(graph.minus(number, 2)))
    ends = op.Add(within, constant(1))

    def of_queries(x: Value, index: Value) -> Value:
        return op.Unsqueeze(op.Gather(x, index), constant([0, 1, 2, 4]))

    begin_q, end_q = of_queries(call.cu_q, within), of_queries(call.cu_q, ends)
    begin, end = of_queries(call.cu_k, within), of_queries(call.cu_k, ends)
    is_one = op.Unsqueeze(op.Equal(sequence, within), constant([0, 1, 2, 4]))
    aligned = op.Add(op.Sub(tiles.row, end_q), end)
    are_all = op.Equal(op.Sub(end_q, begin_q), op.Sub(end, begin))
    return Places(tiles, aligned, begin, op.Where(is_one, end, begin), are_all, aligned)


# ---- who sees whom -------------------------------------------------------------------------------------------------------------------
def _globals(call: Call, places: Places, offset: Value) -> list[Value | None]:
    """The keys that all see, and the queries that see all."""
    key, own = places.tiles.key, places.own
    if call.global_mask is not None:
        columns = places.tiles.of_mask(call.global_mask)
    else:
        first = key if places.begin is None else op.Sub(key, places.begin)
        columns = op.Less(first, graph.as_value(call.global_tokens))
    if call.band.right == 0:
        return [op.And(columns, op.LessOrEqual(offset, constant(0)))]
    if places.are_all is False:
        return [columns]
    if call.global_mask is not None:
        index = op.Clip(op.Squeeze(own, constant([0, 1, 2, 4])), constant(0), graph.as_value(graph.minus(call.sizes[1], 1)))
        rows = op.Unsqueeze(op.Gather(call.global_mask, index, axis=1), constant([1, 2, 4]))
    else:
        rows = op.Less(own if places.begin is None else op.Sub(own, places.begin), graph.as_value(call.global_tokens))
    return [columns, rows if places.are_all is True else op.And(rows, places.are_all)]


def _logits(call: Call, places: Places, scores: Value) -> Value:
    """Scores with the bias, -inf where nothing is seen."""
    tiles, offset = places.tiles, places.offset()
    inside, shown = call.band.inside(offset), None
    if call.bias is not None:
        bias = op.Cast(call.bias, to=call.sums)
        rows = op.Unsqueeze(bias, constant([0, 2, 3])) if len(call.bias.shape) == 2 else tiles.of_queries(bias)
        added = graph.gather(rows, call.band.slot(offset))
        added = op.Where(inside, added, call.number(0.0))
        shown = op.Greater(added, graph.minus_infinity(call.sums))
        scores = op.Add(scores, added)
    seen = inside
    if call.has_globals and inside is not None:
        seen = any_of(inside, *_globals(call, places, offset))
    mask = None if call.key_mask is None else tiles.of_mask(call.key_mask)
    visible = all_of(seen, shown, places.exists(), mask)
    return scores if visible is None else op.Where(visible, scores, graph.minus_infinity(call.sums))


def _cleared(call: Call, x: Value) -> Value:
    """k or v, 0 where nothing may see the key: what it holds is not to count."""
    key = graph.count(call.sizes[1])
    first, last = (constant([n]) for n in (0, -1))
    usable = all_of(
        call.key_mask,
        None if call.lengths is None else op.Less(key, op.Unsqueeze(call.lengths, constant([1]))),
        None if call.cu_k is None else op.GreaterOrEqual(key, op.Gather(call.cu_k, first)),
        None if call.cu_k is None else op.Less(key, op.Gather(call.cu_k, last)),
    )
    if usable is None:
        return x
    return op.Where(op.Reshape(usable, graph.as_shape(-1, 1, call.sizes[1], 1)), x, call.number(0.0))


# ---- attention -----------------------------------------------------------------------------------------------------------------------
def _of_all_heads(call: Call, x: Value, last: Number) -> Value:
    """(B, Hkv, Lk, n) -> (B, H, Lk, n)."""
    heads, kv_heads = call.heads
    if heads == kv_heads:
        return x
    x = op.Expand(op.Unsqueeze(x, constant([2])), constant([1, 1, heads // kv_heads, 1, 1]))
    return op.Reshape(x, graph.as_shape(0, heads, call.sizes[1], last))


def attend_by_one_node(call: Call) -> Value:
    """A call that `is_plain`. The node aligns queries at the first key, or where it is told lengths, at the last."""
    sides = [side if side < UNBOUNDED else -1 for side in (call.band.left, call.band.right)]
    mask = None if call.key_mask is None else op.Unsqueeze(call.key_mask, constant([1, 2]))
    lengths = None if call.shift == 0 else op.Expand(constant(call.sizes[1]), op.Shape(call.q, start=0, end=1))
    k, v = (_cleared(call, x) for x in (call.k, call.v))
    return Opset("", 25).Attention(
        *(call.q, k, v, mask, None, None, lengths),
        scale=float(call.scale),
        softcap=float(call.softcap),
        left_window_size=sides[0],
        right_window_size=sides[1],
    )[0]


def attend(call: Call) -> tuple[Value, Value]:
    """out (B, H, Lq, Dv) and lse (B, H, Lq), in the sums' dtype."""
    places = _of_batch(call) if call.cu_q is None else _of_packed(call)
    tiles, value_dim = places.tiles, call.sizes[2]
    k, v = _of_all_heads(call, call.k, size(call.k, 3)), _of_all_heads(call, _cleared(call, call.v), value_dim)
    scores = tiles.scores(op.Mul(call.q, call.number(call.scale)), k)
    if not graph.is_zero(call.softcap):
        cap = call.number(call.softcap)
        scores = op.Mul(cap, op.Tanh(op.Div(scores, cap)))
    sinks = None if call.sinks is None else op.Unsqueeze(op.Cast(call.sinks, to=call.sums), constant([0, 2, 3, 4]))
    weights, lse = graph.softmax(_logits(call, places, scores), call.sums, sinks)
    out = tiles.joined(op.MatMul(weights, tiles.of_keys(v)), value_dim)
    return out, op.Squeeze(tiles.joined(lse, 1), constant([3]))

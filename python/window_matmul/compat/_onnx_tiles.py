# python/window_matmul/compat/_onnx_tiles.py: windows in standard ONNX operators: numbers, bands, tiles of queries and keys.
"""A tile is c queries beside the S keys that they may see. Where the window is bounded there are as many tiles as the queries fill, so that
scores take Lq * (2 W + 64) numbers at most, else one of all queries and all keys. A tensor of tiles is (B, H, C, c, S) or (B, H, C, c, n),
with 1 where it does not depend on a dim. Lengths may be known when the graph runs only: a `Number` is an int, or a value of the graph.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

from .._band.arguments import UNBOUNDED
from ._onnx_packages import ir, np, op

Value = Any  # onnx_ir.Value: what an operator's call gives, and takes
Number = Any

_LEAST_ROWS = 64  # of a tile: fewer make products that are too small to be quick
_FAR = 1 << 61  # no two places that sizes and offsets allow are so far apart


# ---- numbers -------------------------------------------------------------------------------------------------------------------------
def constant(x: Any, dtype: Any = np.int64) -> Value:
    return op.Constant(value=ir.tensor(np.asarray(x, dtype)))


def as_value(number: Number) -> Value:
    return constant(number) if isinstance(number, int) else number


def size(x: Value, axis: int) -> Number:
    """`axis` may be negative where x has a shape, as operands have."""
    known = None if x.shape is None else x.shape[axis]
    axis = axis if axis >= 0 else axis + len(x.shape)
    return known if isinstance(known, int) else op.Squeeze(op.Shape(x, start=axis, end=axis + 1))


def _folded(of_ints: Any, of_values: Any) -> Any:
    """The operation on two numbers: an int where both are."""

    def apply(a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return of_ints(a, b)
        return of_values(as_value(a), as_value(b))

    return apply


plus = _folded(lambda a, b: a + b, lambda a, b: op.Add(a, b))
minus = _folded(lambda a, b: a - b, lambda a, b: op.Sub(a, b))
times = _folded(lambda a, b: a * b, lambda a, b: op.Mul(a, b))
quotient = _folded(lambda a, b: a // b, lambda a, b: op.Div(a, b))
least = _folded(min, lambda a, b: op.Min(a, b))
greatest = _folded(max, lambda a, b: op.Max(a, b))
equal = _folded(lambda a, b: a == b, lambda a, b: op.Equal(a, b))


def is_zero(number: Any) -> bool:
    """Surely so. A value's own comparison would be a node of the graph."""
    return isinstance(number, int | float) and number == 0


def as_shape(*numbers: Number) -> Value:
    if all(isinstance(number, int) for number in numbers):
        return constant(numbers)
    return op.Concat(*(op.Reshape(as_value(number), constant([1])) for number in numbers), axis=0)


def count(number: Number) -> Value:
    """0, 1, ... number - 1."""
    return op.Range(constant(0), as_value(number), constant(1))


def all_of(*terms: Value | None) -> Value | None:
    """None says nothing, and so does none at all."""
    given = [term for term in terms if term is not None]
    return reduce(lambda a, b: op.And(a, b), given) if given else None


def any_of(*terms: Value | None) -> Value:
    return reduce(lambda a, b: op.Or(a, b), [term for term in terms if term is not None])


def gather(x: Value, index: Value) -> Value:
    """x[..., index], other dims broadcast. Not by GatherElements, which onnx's evaluator (1.23) refuses from 64 entries on."""
    one, others, own = constant([1]), op.Shape(index, end=-1), op.Shape(x, end=-1)
    x, index = op.Expand(x, op.Concat(others, one, axis=0)), op.Expand(index, op.Concat(own, one, axis=0))
    rows = op.ReduceProd(op.Shape(index, end=-1), keepdims=0)
    starts = op.Mul(count(rows), op.Shape(x, start=-1))
    starts = op.Reshape(starts, op.Concat(op.Shape(index, end=-1), one, axis=0))
    return op.Gather(op.Reshape(x, constant([-1])), op.Add(index, starts))


# ---- windows -------------------------------------------------------------------------------------------------------------------------
class Band(NamedTuple):
    left: int
    right: int
    taps: Sequence[int]  # the dilation of all heads, or of each

    @property
    def span(self) -> int:
        """The distance of the outermost keys that one query sees."""
        return min((self.left + self.right) * max(self.taps), _FAR)

    def scaled(self, factor: int) -> Value:
        """factor * dilation, as (H, 1, 1, 1)."""
        return constant(_near([[[[factor * tap]]] for tap in self.taps]))

    def inside(self, offset: Value) -> Value | None:
        """Whether a key is a tap, `offset` behind the aligned one; None: each is."""
        return all_of(
            op.Equal(op.Mod(offset, self.scaled(1)), constant(0)) if max(self.taps) > 1 else None,
            op.GreaterOrEqual(offset, self.scaled(-self.left)) if self.left < UNBOUNDED else None,
            op.LessOrEqual(offset, self.scaled(self.right)) if self.right < UNBOUNDED else None,
        )

    def slot(self, offset: Value) -> Value:
        """Its slot, and of keys that are no taps any."""
        tap = op.Div(offset, self.scaled(1)) if max(self.taps) > 1 else offset
        return op.Clip(op.Add(tap, constant(self.left)), constant(0), constant(self.left + self.right))

    def places(self, aligned: Value) -> Value:
        """The key of each slot, which may not exist."""
        slots = range(-self.left, self.right + 1)
        return op.Add(aligned, constant(_near([[[[tap * slot for slot in slots]]] for tap in self.taps])))


def _near(numbers: Any) -> Any:
    """No further than it takes, so that they fit into 64 bits."""
    return np.clip(np.array(numbers, object), -_FAR, _FAR).astype(np.int64)


def as_band(left: int, right: int, dilation: Sequence[int]) -> Band:
    return Band(left, right, tuple(dilation) or (1,))


# ---- tiles ---------------------------------------------------------------------------------------------------------------------------
class Tiles:
    """One of all queries and keys, or with `around`, a bounded band, those that it takes; `shift` is then a number."""

    def __init__(self, queries: Number, keys: Number, shift: Number, around: Band | None = None) -> None:
        if is_zero(queries) or is_zero(keys):
            raise ValueError(f"there are {queries} queries and {keys} keys; an ONNX model needs at least one of each")
        self.queries, self.keys = self.rows, self.columns = queries, keys
        self.are_many = False
        if around is not None:
            rows = greatest(1, least(queries, max(around.span, _LEAST_ROWS)))
            columns = least(plus(rows, around.span), keys)
            self.are_many = not (isinstance(columns, int) and columns == keys)
        if self.are_many:
            self.rows, self.columns = rows, columns
        self.number = quotient(plus(queries, minus(self.rows, 1)), self.rows) if self.are_many else 1
        row = op.Reshape(count(times(self.number, self.rows)), as_shape(1, 1, self.number, self.rows, 1))
        self.row = row  # places of queries
        self.aligned = op.Add(row, as_value(shift))
        self.first = constant(0)  # key of each tile: those at the ends move inward
        if self.are_many:
            before = minus(shift, min(around.left * max(around.taps), _FAR))  # type: ignore[union-attr]
            starts = op.Add(op.Mul(count(self.number), as_value(self.rows)), as_value(before))
            starts = op.Clip(starts, constant(0), as_value(minus(keys, columns)))
            self.first = op.Reshape(starts, as_shape(1, 1, self.number, 1, 1))
        self.key = op.Add(self.first, op.Reshape(count(self.columns), as_shape(1, 1, 1, 1, self.columns)))

    def of_queries(self, x: Value) -> Value:
        """(B, H, Lq, n) -> (B, H, C, c, n)."""
        if not self.are_many:
            return op.Unsqueeze(x, constant([2]))
        last, more = size(x, 3), minus(times(self.number, self.rows), self.queries)
        if not is_zero(more):
            x = op.Pad(x, as_shape(0, 0, 0, 0, 0, 0, more, 0))
        return op.Reshape(x, as_shape(0, 0, self.number, self.rows, last))

    def of_keys(self, x: Value) -> Value:
        """(B, H, Lk, n) -> (B, H, C, S, n)."""
        return op.Gather(x, self._index(), axis=2) if self.are_many else op.Unsqueeze(x, constant([2]))

    def of_mask(self, mask: Value) -> Value:
        """(B, Lk) -> (B, 1, C, 1, S)."""
        if not self.are_many:
            return op.Unsqueeze(mask, constant([1, 2, 3]))
        return op.Unsqueeze(op.Gather(mask, self._index(), axis=1), constant([1, 3]))

    def _index(self) -> Value:
        return op.Reshape(self.key, as_shape(self.number, self.columns))

    def joined(self, x: Value, last: Number) -> Value:
        """(B, H, C, c, last) -> (B, H, Lq, last)."""
        if not self.are_many:
            return op.Squeeze(x, constant([2]))
        x = op.Reshape(x, as_shape(0, 0, times(self.number, self.rows), last))
        return op.Slice(x, constant([0]), as_shape(self.queries), constant([2]))

    def scores(self, q: Value, k: Value) -> Value:
        """(B, H, Lq, N), (B, H, Lk, N) -> (B, H, C, c, S)."""
        return op.MatMul(self.of_queries(q), op.Transpose(self.of_keys(k), perm=[0, 1, 2, 4, 3]))

    def slots(self, scores: Value, band: Band) -> tuple[Value, Value]:
        """(B, H, C, c, S) -> (B, H, C, c, W), and which of these keys exist."""
        place = band.places(self.aligned)
        exists = op.And(op.GreaterOrEqual(place, constant(0)), op.Less(place, as_value(self.keys)))
        column = op.Clip(op.Sub(place, self.first), constant(0), as_value(minus(self.columns, 1)))
        return gather(scores, column), exists


# ---- softmax -------------------------------------------------------------------------------------------------------------------------
def minus_infinity(dtype: ir.DataType) -> Value:
    return constant(-math.inf, dtype.numpy())


def softmax(scores: Value, dtype: ir.DataType, sinks: Value | None = None) -> tuple[Value, Value]:
    """Weights, and the log-sum-exp (..., 1), of scores that are -inf where nothing is seen; rows of these alone are 0 and -inf. `sinks`
    broadcasts to (..., 1)."""
    axis, low, zero = constant([-1]), minus_infinity(dtype), constant(0, dtype.numpy())
    top = op.ReduceMax(scores, axis)
    empty = op.Equal(top, low)
    logits = scores if sinks is None else op.Concat(scores, op.Expand(sinks, op.Shape(top)), axis=-1)
    weights = op.Softmax(logits, axis=-1)
    if sinks is not None:
        weights = op.Slice(weights, constant([0]), constant([-1]), axis)
    offset = op.Where(empty, zero, top)
    total = op.ReduceSum(op.Exp(op.Sub(scores, offset)), axis)
    return op.Where(empty, zero, weights), op.Where(empty, low, op.Add(op.Log(total), offset))

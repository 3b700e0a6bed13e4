# python/window_matmul/distributed/steps.py: fused attention of a rank's rows in steps, each of which reads and writes where the rows lie.
"""What is computed before others' rows have come and what is computed afterwards are calls of the operator on parts of the same tensors:
results go into parts of one, and so do gradients; nothing is joined afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._attention.autograd import attention_backward_into, attention_into
from .._attention.ops import HEADS_INSIDE, WIDE_OUT, empty_of
from .layout import Range, Ranges, overlap, union, without
from .routes import Part, Rows

MaybeTensors = tuple[Tensor | None, ...]


class Operands(NamedTuple):
    """Of all rows of a rank, those that gradients are of."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    sinks: Tensor | None

    def room(self, form: int) -> tuple[Tensor, Tensor]:
        """For the result and the log-sum-exp."""
        sums = torch.float64 if self.q.dtype is torch.float64 else torch.float32
        shape, dtype = (*self.q.shape[:3], self.v.shape[3]), sums if form & WIDE_OUT else self.q.dtype
        return empty_of(self.q, shape, form & HEADS_INSIDE, dtype), self.q.new_empty(self.q.shape[:3], dtype=sums)


class Step(NamedTuple):
    """A call of the operator: some neighbouring queries, by their local rows, and keys, by their places in the sequence."""

    queries: Range
    keys: Ranges
    others: MaybeTensors  # the operator's tensors behind the operands
    numbers: tuple[Any, ...]
    spare: int = 0  # so many keys behind the others that nobody sees

    def of(self, x: Tensor) -> Tensor:
        """The rows of its queries."""
        return x.narrow(2, self.queries[0], self.queries[1] - self.queries[0])

    def arguments(self, given: Operands, k: Rows, v: Rows) -> tuple[Any, ...]:
        bias = given.bias if given.bias is None or given.bias.ndim == 2 else self.of(given.bias)
        keys, values = (x.take(self.keys) for x in (k, v))
        if self.spare:
            keys, values = (pad(x, (0, 0, 0, self.spare)) for x in (keys, values))
        return self.of(given.q), keys, values, bias, given.sinks, *self.others, *self.numbers

    def run(self, given: Operands, k: Rows, v: Rows, out: Tensor, lse: Tensor) -> None:
        attention_into(self.of(out), self.of(lse), *self.arguments(given, k, v))


class Sum:
    """A gradient in the making: the first step that has some of a row writes it, the next ones add."""

    def __init__(self, total: Tensor, dim: int) -> None:
        self._total, self._dim = total, dim
        self._written: Ranges = ()

    def _rows(self, rows: Range) -> Tensor:
        return self._total.narrow(self._dim, rows[0], rows[1] - rows[0])

    @contextmanager
    def room(self, rows: Range | None = None) -> Iterator[Tensor]:
        """Of some rows or all, to write to. What was there is added afterwards, which is the same sum bit for bit."""
        rows = rows or (0, self._total.shape[self._dim])
        before = [(x, self._rows(x).clone()) for x in overlap(self._written, (rows,))]
        yield self._rows(rows)
        for x, earlier in before:
            self._rows(x).add_(earlier)
        self._written = union((*self._written, rows))

    def add(self, x: Tensor) -> None:
        """To all rows."""
        with self.room() as room:
            room.copy_(x)

    def done(self) -> Tensor:
        size = self._total.shape[self._dim]
        for rows in without(((0, size),), self._written, size):
            self._rows(rows).zero_()
        return self._total


@contextmanager
def _room_of(sums: Sequence[Any], parts: Sequence[Part], keys: Tensor, spare: int) -> Iterator[Tensor]:
    """For the gradient of keys that lie in these parts: there, if that is one, else beside."""
    if len(parts) == 1 and not spare:
        with sums[parts[0].source].room(parts[0].rows) as room:
            yield room
        return
    beside, at = torch.empty_like(keys), 0
    yield beside
    for source, (begin, end) in parts:
        with sums[source].room((begin, end)) as room:
            room.copy_(beside.narrow(2, at, end - begin))
        at += end - begin


class Gradients:
    """Of operands; those of keys and values are lists in a step: of the rank's own, and of what came from each other rank."""

    def __init__(self, given: Operands, needs: Sequence[bool], form: int) -> None:
        layouts, dims = (form & HEADS_INSIDE,) * 3 + (0, 0), (2, 2, 2, 2 if given.bias is None or given.bias.ndim == 4 else 0, 0)
        self.sums = [
            Sum(empty_of(x, x.shape, layout, x.dtype), dim) if x is not None and is_needed else None
            for x, is_needed, layout, dim in zip(given, needs, layouts, dims, strict=True)
        ]
        self._slots = given.bias is not None and given.bias.ndim == 2

    def start(self, of_lent: Sequence[Tensor | None]) -> None:
        """With gradients that keys and values have from elsewhere, of those that have any."""
        for total, x in zip((x for x in self.sums[1:3] if x is not None), of_lent, strict=False):
            if x is not None:
                total.add(x)

    def add(
        self, step: Step, given: Operands, k: Rows, v: Rows, of_k: Sequence[Sum | None], of_v: Sequence[Sum | None], results: MaybeTensors
    ) -> None:
        """Those of a step; results: d_out, d_lse, out, lse of all rows."""
        arguments, parts = step.arguments(given, k, v), k.where(step.keys)

        def room(n: int) -> AbstractContextManager[Tensor | None]:
            total = self.sums[n]
            if total is None:
                return nullcontext()
            if n in (1, 2):
                return _room_of((of_k, of_v)[n - 1], parts, arguments[n], step.spare)
            return total.room(None if n == 4 or (n == 3 and self._slots) else step.queries)

        with ExitStack() as rooms:
            to = [rooms.enter_context(room(n)) for n in range(len(self.sums))]
            attention_backward_into(to, *(None if x is None else step.of(x) for x in results), *arguments)

    def done(self) -> MaybeTensors:
        return tuple(None if x is None else x.done() for x in self.sums)

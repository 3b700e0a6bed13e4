# python/window_matmul/distributed/local.py: this rank's part of one call: what it needs from others, and attention of its rows.
"""Forward, rows leave; what needs no others' is computed; these are waited for; the rest is computed. Backward it is the other way round:
what saw others' rows comes first, their gradients leave, the rest is computed, and what has come is added, in the order of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from .exchange import Way, apply
from .faults import Link
from .global_tokens import GlobalTokens, seed_at, visible, with_global_rows
from .layout import Plan, Ranges, Shards, overlap, plan_of, size_of, union
from .options import Arguments
from .places import Piece, Reach, needs_of, pieces_of
from .routes import Rows, index_of, route_of
from .steps import Gradients, MaybeTensors, Operands, Step, Sum

Tensors = tuple[Tensor, ...]


class Share(NamedTuple):
    """What backward needs to know of a sequence."""

    runs: Ranges  # this rank's keys
    at: int  # its local row of their first
    early: list[Step]
    late: list[Step]
    plan: Plan = Plan((), ())
    way: Way | None = None

    def rows(self, given: Operands, pieces: Sequence[Tensor]) -> tuple[Rows, Rows]:
        """Keys and values; `pieces` are those that came from each other rank."""
        k, v = (Rows(2, own, self.runs, self.at) for own in (given.k, given.v))
        for n, x in enumerate((k, v)):
            x.add(self.plan, pieces[n::2])
        return k, v

    def run(self, steps: Sequence[Step], given: Operands, pieces: Sequence[Tensor], out: Tensor, lse: Tensor) -> None:
        if steps:
            k, v = self.rows(given, pieces)
            for step in steps:
                step.run(given, k, v, out, lse)


class Back:
    """The way back of a share."""

    def __init__(self, share: Share, given: Operands, gradients: Gradients, pieces: Sequence[Tensor]) -> None:
        self.share, self._given, self._gradients = share, given, gradients
        self._k, self._v = share.rows(given, pieces)
        self._borrowed = [Sum(torch.empty_like(x), 2) for x in pieces]

    def add(self, steps: Sequence[Step], results: MaybeTensors) -> None:
        """Gradients of steps."""
        of_k, of_v = ([self._gradients.sums[1 + n], *self._borrowed[n::2]] for n in range(2))
        for step in reversed(steps):
            self._gradients.add(step, self._given, self._k, self._v, of_k, of_v, results)

    def send(self) -> None:
        """Those of others' rows."""
        way = self.share.way
        if way is not None and way.moving:
            way.send_back([[self._borrowed[at + n].done() for n in way.moving] for at in range(0, len(self._borrowed), 2)])

    def receive(self, own: Sequence[Any]) -> None:
        """Those that others have for this rank's rows are added."""
        way = self.share.way
        if way is not None and way.moving:
            way.add_back([own[1 + n].narrow(2, self.share.at, size_of(self.share.runs)) for n in way.moving])


class Call:
    """A sequence that is cut over ranks, on which they agree; `at`: where its rows begin among the local queries, and keys."""

    def __init__(
        self, link: Link, a: Arguments, of_queries: Shards, of_keys: Shards, of_all: GlobalTokens | None, at: tuple[int, int] = (0, 0)
    ) -> None:
        self.link, self.a, self.of_queries, self.of_keys, self.globals, self.at = link, a, of_queries, of_keys, of_all, at
        if a.offsets is not None:
            self.shifts = a.shifts
        elif a.shift is not None or a.key_lengths is None:
            self.shifts = [of_keys.length - of_queries.length if a.shift is None else a.shift]
        else:
            self.shifts = [length - of_queries.length for length in a.lengths]
        keys = of_keys.length if a.key_lengths is None else max(a.lengths, default=0)
        before, behind = a.sides
        self.reach = Reach(min(self.shifts, default=0) - before, max(self.shifts, default=0) + behind, keys)

    def depart(self, k: Tensor, v: Tensor, moving: tuple[int, ...]) -> None:
        """Rows leave."""
        a, rank = self.a, self.link.rank
        plan = plan_of(self.of_keys, needs_of(self.reach, self.of_queries, () if self.globals is None else self.globals.places), rank)
        runs, tensors, dims = self.of_keys.runs(rank), [x.narrow(2, self.at[1], a.k.shape[2]) for x in (k, v)], [2, 2]
        self._masks: list[Rows] = []
        if a.key_mask is not None:
            tensors, dims = [*tensors, a.key_mask], [2, 2, 1]
            self._masks.append(Rows(1, a.key_mask, runs))
        way = Way(route_of(self.link, plan, tensors, dims), moving)
        self.pieces = way.depart(tensors)
        self.share = Share(runs, self.at[1], [], [], plan, way)
        self._late: list[Piece] = []
        for run in self.of_queries.runs(rank):
            now, then = pieces_of(self.reach, run, runs, not plan.receives, self.globals is not None)
            self.share.early.extend(map(self._step, now))
            self._late += then

    def arrive(self) -> None:
        """Others' rows are there."""
        share = self.share
        assert share.way is not None
        share.way.wait()
        for rows in self._masks:
            rows.add(share.plan, self.pieces[2::3])
            self.pieces = [x for n, x in enumerate(self.pieces) if n % 3 < 2]
        share.late.extend(map(self._step, self._late))

    def _step(self, piece: Piece) -> Step:
        a, (begin, end), start = self.a, piece.queries, piece.keys[0]
        device, batch = a.q.device, a.q.shape[0]
        first = self.at[0] + self.of_queries.local(self.link.rank, begin)
        keys = places = (piece.keys,) if self.globals is None else union((piece.keys, *self.globals.places))
        start -= size_of(overlap(keys, ((0, start),)))  # the place of the first key, were there no gaps before the window
        key_mask = self._masks[0].take(keys) if self._masks else None
        global_mask, lengths, spare = None, None, 0
        if self.globals is not None:
            key_mask, global_mask = visible(a, index_of(keys, device), key_mask), self.globals.mask(batch, keys)
            if (
                size_of(keys) == end - begin and a.right > 0
            ):  # or the library might take this part for a whole, with global queries of its own
                spare, places = 1, (*keys, (self.of_keys.length, self.of_keys.length + 1))
                key_mask = torch.ones_like(global_mask) if key_mask is None else key_mask
                key_mask, global_mask = pad(key_mask, (0, 1)), pad(global_mask, (0, 1))
        elif a.key_lengths is not None:
            lengths = (a.key_lengths - start).clamp(0, size_of(keys))
        offsets = [shift + begin - start for shift in self.shifts]
        of_entries = None if len(offsets) == 1 else torch.tensor(offsets, device=device)
        seed = seed_at(a, index_of((piece.queries,), device), index_of(places, device)) if a.seed is not None else None
        others = (key_mask, global_mask, None, None, seed, lengths, of_entries)
        numbers = (a.band(a.q), 0 if of_entries is not None else offsets[0], 0, a.reals)
        return Step((first, first + end - begin), keys, others, numbers, spare)


class Here:
    """Sequences of which this rank has everything."""

    pieces: Sequence[Tensor] = ()

    def __init__(self, steps: list[Step], keys: int) -> None:
        self.share = Share(((0, keys),), 0, steps, [])

    def depart(self, k: Tensor, v: Tensor, moving: tuple[int, ...]) -> None: ...

    def arrive(self) -> None: ...


class _Work(NamedTuple):
    calls: Sequence[Call | Here]
    form: int
    moving: tuple[int, ...]  # which of keys and values have gradients
    with_lse: bool
    lends: bool  # whether global rows are to use keys and values


class _Attend(Function):
    """(work, *operands) -> out, lse, and keys and values as global rows are to use them, where they have gradients."""

    @staticmethod
    def forward(ctx: Any, work: _Work, *operands: Any) -> Tensors:
        given = Operands(*operands)
        out, lse = given.room(work.form)
        for call in work.calls:
            call.depart(given.k, given.v, work.moving)
        for call in work.calls:
            call.share.run(call.share.early, given, (), out, lse)
        for call in work.calls:
            call.arrive()
            call.share.run(call.share.late, given, call.pieces, out, lse)
        ctx.shares, ctx.of_shares, ctx.form = [x.share for x in work.calls], [len(x.pieces) for x in work.calls], work.form
        ctx.save_for_backward(out, lse, *given, *(x for call in work.calls for x in call.pieces))
        ctx.set_materialize_grads(False)
        if not work.with_lse:
            ctx.mark_non_differentiable(lse)
        return out, lse, *(operands[1 + n] for n in work.moving if work.lends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None, *of_lent: Tensor | None) -> MaybeTensors:
        out, lse, *saved = ctx.saved_tensors
        given = Operands(*saved[:5])
        results = (torch.zeros_like(out) if d_out is None else d_out, d_lse, out, lse)
        gradients = Gradients(given, ctx.needs_input_grad[1:], ctx.form)
        gradients.start(of_lent)
        pieces = iter(saved[5:])
        backs = [Back(share, given, gradients, [*islice(pieces, count)]) for share, count in zip(ctx.shares, ctx.of_shares, strict=True)]
        for back in reversed(backs):
            back.add(back.share.late, results)
            back.send()
        for back in reversed(backs):
            back.add(back.share.early, results)
        own = gradients.done()
        for back in reversed(backs):
            back.receive(own)
        return None, *own


def attended(a: Arguments, calls: Sequence[Call | Here]) -> tuple[Tensor, Tensor]:
    """The result of this rank's rows, and their log-sum-exp."""
    recorded = torch.is_grad_enabled()
    moving = tuple(n for n, x in enumerate((a.k, a.v)) if recorded and x.requires_grad)
    with_globals = [call for call in calls if isinstance(call, Call) and call.globals is not None]
    work = _Work(calls, a.band(a.q)[2], moving, a.with_lse, bool(with_globals))
    out, lse, *lent = apply(_Attend, work, a.q, a.k, a.v, a.bias, a.sinks)
    own = [a.k, a.v]
    for n, x in zip(moving, lent, strict=False):
        own[n] = x
    for call in with_globals:
        out, lse = with_global_rows(call, out, lse, own)
    return out, lse

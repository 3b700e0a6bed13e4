# python/window_matmul/distributed/local.py: this rank's part of one call: what it needs from others, and attention of its rows.
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._attention.autograd import attention
from .exchange import Trip
from .faults import Link
from .global_tokens import GlobalTokens, seed_at, visible, with_global_rows
from .halo import rows_after
from .layout import Shards, overlap, plan_of, size_of, union
from .options import Arguments
from .places import Piece, Reach, needs_of, pieces_of
from .routes import Rows, index_of

Tensors = tuple[Tensor, Tensor]


class Call:
    """A call that all ranks agree on: `depart`, then whatever there is to do in the meantime, then `arrive`."""

    def __init__(self, link: Link, a: Arguments, of_queries: Shards, of_keys: Shards, of_all: GlobalTokens | None) -> None:
        self.link, self.a, self.of_queries, self.of_keys, self.globals = link, a, of_queries, of_keys, of_all
        if a.offsets is not None:
            self.shifts = a.shifts
        elif a.shift is not None or a.key_lengths is None:
            self.shifts = [of_keys.length - of_queries.length if a.shift is None else a.shift]
        else:
            self.shifts = [length - of_queries.length for length in a.lengths]
        keys = of_keys.length if a.key_lengths is None else max(a.lengths, default=0)
        before, behind = a.sides
        self.reach = Reach(min(self.shifts, default=0) - before, max(self.shifts, default=0) + behind, keys)

    def depart(self) -> None:
        """Rows leave, and what does not need those of others is computed."""
        a, rank = self.a, self.link.rank
        places = () if self.globals is None else self.globals.places
        self.plan = plan_of(self.of_keys, needs_of(self.reach, self.of_queries, places), rank)
        masks = [] if a.key_mask is None else [a.key_mask]
        self.dims, self.runs = [2, 2, *[1] * len(masks)], self.of_keys.runs(rank)
        self.trip = Trip(self.link, self.plan, [a.k, a.v, *masks], self.dims)
        own = [Rows(dim, x, self.runs) for dim, x in zip(self.dims, self.trip.own, strict=True)]
        self.results: list[tuple[Piece, Tensors]] = []
        self.late: list[Piece] = []
        for run in self.of_queries.runs(rank) or ((0, 0),):  # no queries: their results are empty
            now, then = pieces_of(self.reach, run, self.runs, not self.plan.receives, self.globals is not None)
            self.results += [(piece, self.attend(piece, own)) for piece in now]
            self.late += then

    def arrive(self) -> Tensors:
        """This rank's rows of the result, and of the log-sum-exp."""
        rows = rows_after(self.trip, self.plan, self.dims, self.runs)
        self.results += [(piece, self.attend(piece, rows)) for piece in self.late]
        self.results.sort(key=lambda result: result[0].queries)
        out = joined([out for _, (out, _) in self.results], self.a.q)
        lse = torch.cat([lse for _, (_, lse) in self.results], 2) if len(self.results) > 1 else self.results[0][1][1]
        if self.globals is not None:
            out, lse = with_global_rows(self, out, lse, self.trip.own)
        return self.trip.tie(out), self.trip.tie(lse) if self.a.with_lse else lse

    def attend(self, piece: Piece, rows: Sequence[Rows]) -> Tensors:
        """Of some neighbouring queries of this rank."""
        a, (begin, end), start = self.a, piece.queries, piece.keys[0]
        first = self.of_queries.local(self.link.rank, begin)
        q = a.q.narrow(2, first, end - begin)
        bias = a.bias if a.bias is None or a.bias.ndim == 2 else a.bias.narrow(2, first, end - begin)
        ranges = (piece.keys,) if self.globals is None else union((piece.keys, *self.globals.places))
        start -= size_of(overlap(ranges, ((0, start),)))  # the place of the first key, were there no gaps before the window
        k, v, *masks = (x.take(ranges) for x in rows)
        key_mask, global_mask, lengths = masks[0] if masks else None, None, None
        if self.globals is not None:
            key_mask, global_mask = visible(a, index_of(ranges, q.device), key_mask), self.globals.mask(q.shape[0], ranges)
            if k.shape[2] == q.shape[2] and a.right > 0:  # or the library might take this part for a whole, with global queries of its own
                key_mask = torch.ones_like(global_mask) if key_mask is None else key_mask
                k, v, key_mask, global_mask = pad(k, (0, 0, 0, 1)), pad(v, (0, 0, 0, 1)), pad(key_mask, (0, 1)), pad(global_mask, (0, 1))
                ranges = (*ranges, (self.of_keys.length, self.of_keys.length + 1))
        elif a.key_lengths is not None:
            lengths = (a.key_lengths - start).clamp(0, k.shape[2])
        offsets = [shift + begin - start for shift in self.shifts]
        of_entries = None if len(offsets) == 1 else torch.tensor(offsets, device=q.device)
        seed = seed_at(a, index_of((piece.queries,), q.device), index_of(ranges, q.device)) if a.seed is not None else None
        tensors = (q, k, v, bias, a.sinks, key_mask, global_mask, None, None, seed, lengths, of_entries)
        out, lse = attention(*tensors, a.band(q), 0 if of_entries is not None else offsets[0], 0, a.reals)
        return out, lse


def joined(parts: Sequence[Tensor], q: Tensor) -> Tensor:
    """(B, H, n, Dv) each, laid out as q is."""
    if len(parts) == 1:
        return parts[0]
    if q.stride(1) < q.stride(2):
        return torch.cat([x.transpose(1, 2) for x in parts], 1).transpose(1, 2)
    return torch.cat(list(parts), 2)

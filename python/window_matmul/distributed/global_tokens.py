# python/window_matmul/distributed/global_tokens.py: keys that every query sees, and queries that see every key, over ranks.
"""Global keys travel with the halos, and stand beside the window's keys in every call. Queries of global tokens, where they see every key,
go to all ranks; each computes their attention to its own keys; and their owners join these by `merge_states`, in the order of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .._attention.autograd import attention
from .._band.arguments import UNBOUNDED
from ..states import merge_states
from .exchange import Trip
from .faults import Link, all_gather
from .halo import rows_after
from .layout import Plan, Range, Ranges, Shards, overlap, plan_of, size_of, union
from .options import Arguments
from .routes import Rows, index_of

if TYPE_CHECKING:
    from .local import Call

Tensors = tuple[Tensor, Tensor]


class GlobalTokens(NamedTuple):
    """Places of tokens that are global in some batch entry, as ranges; and in which, (B, number of places), None for all."""

    places: Ranges
    entries: Tensor | None
    rows: Tensor  # the places one by one

    def mask(self, batch: int, ranges: Ranges) -> Tensor:
        """(B, rows of these ranges)."""
        rows = index_of(ranges, self.rows.device)
        if not len(self.rows):
            return torch.zeros(batch, len(rows), dtype=torch.bool, device=rows.device)
        at = torch.searchsorted(self.rows, rows).clamp(max=len(self.rows) - 1)
        found = self.rows[at] == rows
        return (found if self.entries is None else found & self.entries[:, at]).expand(batch, -1)

    def restricted(self, begin: int, end: int) -> GlobalTokens:
        """Of one of several packed sequences."""
        inside = (self.rows >= begin) & (self.rows < end)
        places = tuple((first - begin, last - begin) for first, last in overlap(self.places, ((begin, end),)))
        return GlobalTokens(places, None if self.entries is None else self.entries[:, inside], self.rows[inside] - begin)


def first_tokens(count: int, length: int, device: torch.device) -> GlobalTokens:
    places: Ranges = union(((0, min(count, length)),))
    return GlobalTokens(places, None, index_of(places, device))


def gathered(link: Link, a: Arguments, of_keys: Shards, of_ranks: Sequence[int]) -> GlobalTokens:
    """Of a mask, places and entries go to all ranks; `of_ranks` says how many each has."""
    device, batch = a.q.device, a.q.shape[0]
    if a.global_mask is None:
        return first_tokens(a.global_tokens, of_keys.length, device)
    most, own = max(of_ranks), a.global_mask.any(0)
    local = own.nonzero()[:, 0]
    table = torch.zeros(most, 1 + batch, dtype=torch.int64, device=device)
    table[: len(local), 0] = index_of(of_keys.chunks(link.rank), device)[local]
    table[: len(local), 1:] = a.global_mask[:, local].T
    of_all = all_gather(link, table.to(link.device()).flatten()).to(device).view(link.size, most, 1 + batch)
    rows = torch.cat([of_all[rank, :count] for rank, count in enumerate(of_ranks)])
    rows = rows[rows[:, 0].argsort()]
    places = union((place, place + 1) for place in rows[:, 0].tolist())
    return GlobalTokens(places, rows[:, 1:].T.bool().contiguous(), rows[:, 0].contiguous())


def visible(a: Arguments, places: Tensor, key_mask: Tensor | None) -> Tensor | None:
    """(B, keys): those within the lengths of the entries, and of the mask. None for all."""
    if a.key_lengths is None:
        return key_mask
    within = places < a.key_lengths[:, None]
    return within if key_mask is None else within & key_mask


def seed_at(a: Arguments, queries: Tensor, keys: Tensor) -> Tensor | None:
    """The seed with the places of batch entries, queries and keys, by which dropout draws."""
    if a.seed is None:
        return None
    batch, first = a.q.shape[0], a.sequence or 0
    return torch.cat([a.seed, torch.arange(first, first + batch, device=keys.device), queries.repeat(batch), keys])


# ---- queries that see every key --------------------------------------------------------------------------------------------------------
def with_global_rows(call: Call, out: Tensor, lse: Tensor, own: Sequence[Tensor]) -> Tensors:
    """The results of this rank, in which rows of global tokens are those of all keys. `own` are its keys and values."""
    a, link, found = call.a, call.link, call.globals
    own = [*(x.narrow(2, call.at[1], a.k.shape[2]) for x in own), *([] if a.key_mask is None else [a.key_mask])]
    assert found is not None
    symmetric = _symmetric_entries(call)
    rows = overlap(found.places, ((0, call.of_queries.length),))
    if not rows or not any(symmetric):
        return out, lse
    owned = [overlap(rows, call.of_queries.runs(rank)) for rank in range(link.size)]
    q, bias, trip = _to_all(call, rows)
    parts = _attend_own(call, q, bias, rows, own)
    here = owned[link.rank]
    back = Plan(
        tuple((rank, _positions(rows, ranges)) for rank, ranges in enumerate(owned) if rank != link.rank and ranges),
        tuple((rank, here) for rank in range(link.size) if rank != link.rank and here),
    )
    trip_back = Trip(link, back, parts, [2, 2])
    pieces: list[Sequence[Tensor]] = list(trip_back.arrive())
    out, lse = trip.tie(trip_back.tie(out)), trip.tie(trip_back.tie(lse)) if a.with_lse else lse
    if not here:
        return out, lse
    mine = _positions(rows, here)
    pieces.insert(link.rank, [Rows(2, x, ((0, size_of(rows)),)).take(mine) for x in trip_back.own])
    merged, of_rows = merge_states([x[0] for x in pieces], [x[1] for x in pieces])
    if a.sinks is not None:
        merged = merged * torch.sigmoid(of_rows - a.sinks.to(of_rows.dtype)[:, None])[..., None]
    return _replaced(call, out, lse, merged, of_rows, here, symmetric)


def _symmetric_entries(call: Call) -> list[bool]:
    """Of which batch entries global queries see every key."""
    a, batch = call.a, call.a.q.shape[0]
    lengths = a.lengths if a.key_lengths is not None else [call.of_keys.length] * batch
    shifts = call.shifts * batch if len(call.shifts) == 1 else call.shifts
    return [a.right > 0 and length == call.of_queries.length and shift == 0 for length, shift in zip(lengths, shifts, strict=False)]


def _to_all(call: Call, rows: Ranges) -> tuple[Tensor, Tensor | None, Trip]:
    """Queries and, where each has its own, biases of these rows, on all ranks."""
    a, link = call.a, call.link
    tensors = [a.q] if a.bias is None or a.bias.ndim == 2 else [a.q, a.bias]
    plan, dims = plan_of(call.of_queries, (rows,) * link.size, link.rank), [2] * len(tensors)
    trip = Trip(link, plan, tensors, dims)
    q, *bias = (x.take(rows) for x in rows_after(trip, plan, dims, call.of_queries.runs(link.rank)))
    return q, bias[0] if bias else a.bias, trip


def _attend_own(call: Call, q: Tensor, bias: Tensor | None, rows: Ranges, own: Sequence[Tensor]) -> Tensors:
    """Attention of these rows to this rank's keys: the sums as they are, without sinks."""
    k, v, *masks = own
    runs = call.of_keys.runs(call.link.rank)
    if bias is None or not runs:  # then windows do not matter
        return _attend_all(call, q, None, rows, (k, v, *masks), runs, None)
    by_rows = []
    for at, (begin, end) in _places_of(rows):
        some = q.narrow(2, at, end - begin)
        slots = bias if bias.ndim == 2 else bias.narrow(2, at, end - begin)
        parts = []
        for first, (start, stop) in _places_of(runs):
            keys = [x.narrow(2 if x.ndim == 4 else 1, first, stop - start) for x in own]
            parts.append(_attend_all(call, some, slots, ((begin, end),), keys, ((start, stop),), begin - start))
        by_rows.append(merge_states([x[0] for x in parts], [x[1] for x in parts]) if len(parts) > 1 else parts[0])
    return torch.cat([x[0] for x in by_rows], 2), torch.cat([x[1] for x in by_rows], 2)


def _attend_all(
    call: Call, q: Tensor, bias: Tensor | None, rows: Ranges, own: Sequence[Tensor], keys: Ranges, shift: int | None
) -> Tensors:
    """Every key is seen; with a shift, those of the window with their bias."""
    a, (k, v, *masks) = call.a, own
    places = index_of(keys, q.device)
    key_mask = visible(a, places, masks[0] if masks else None)
    seed = seed_at(a, index_of(rows, q.device), places)
    left, right, form, *taps = a.band(q, wide=True)
    band = (UNBOUNDED, UNBOUNDED, form) if shift is None else (left, right, form, *taps)
    tensors: tuple[Any, ...] = (q, k, v, bias, None, key_mask, None, None, None, seed, None, None)
    out, lse = attention(*tensors, band, shift or 0, 0 if shift is None else k.shape[2], a.reals)
    return out, lse


def _places_of(ranges: Ranges) -> list[tuple[int, Range]]:
    """Each with the position of its first row, where the rows of all follow one another."""
    at, found = 0, []
    for begin, end in ranges:
        found.append((at, (begin, end)))
        at += end - begin
    return found


def _positions(rows: Ranges, some: Ranges) -> Ranges:
    """Of some of these rows, where the rows of all follow one another."""
    return union((at + begin - of[0], at + end - of[0]) for at, of in _places_of(rows) for begin, end in overlap((of,), some))


def _replaced(call: Call, out: Tensor, lse: Tensor, merged: Tensor, of_rows: Tensor, here: Ranges, symmetric: list[bool]) -> Tensors:
    found, device = call.globals, out.device
    assert found is not None
    local = torch.tensor(
        [call.at[0] + call.of_queries.local(call.link.rank, place) for begin, end in here for place in range(begin, end)], device=device
    )
    chosen = found.mask(len(symmetric), here) & torch.tensor(symmetric, device=device)[:, None]
    chosen = chosen[:, None].expand(-1, out.shape[1], -1)
    new_out = torch.where(chosen[..., None], merged.to(out.dtype), out.index_select(2, local))
    new_lse = torch.where(chosen, of_rows, lse.index_select(2, local))
    return out.index_copy(2, local, new_out), lse.index_copy(2, local, new_lse)

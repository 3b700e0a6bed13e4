# python/window_matmul/distributed/layout.py: which rank has which rows of a sequence, and which rows travel. Pure functions of lengths.
"""A range is (first row, row behind the last), in places of the whole sequence unless it is called local."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from .._integers import as_int

Range = tuple[int, int]
Ranges = tuple[Range, ...]


class Layout(Enum):
    """How a sequence is cut into chunks of neighbouring rows for P ranks."""

    contiguous = "contiguous"
    """Rank r has chunk r of P."""
    zigzag = "zigzag"
    """Rank r has chunks r and 2P - 1 - r of 2P, one after the other: with causal full attention all ranks have the same work."""

    @property
    def chunks_of_rank(self) -> int:
        return 1 if self is Layout.contiguous else 2


class Shards(NamedTuple):
    """Chunk c is the rows starts[c] to starts[c + 1]."""

    starts: tuple[int, ...]
    layout: Layout

    @property
    def length(self) -> int:
        return self.starts[-1]

    @property
    def ranks(self) -> int:
        return (len(self.starts) - 1) // self.layout.chunks_of_rank

    def owner(self, place: int) -> int:
        """The rank that has this row."""
        chunk = bisect(self.starts, place) - 1
        return chunk if self.layout is Layout.contiguous else min(chunk, 2 * self.ranks - 1 - chunk)

    def chunks(self, rank: int) -> Ranges:
        """In the order of the sequence, which is that of the rank's local rows."""
        numbers = (rank,) if self.layout is Layout.contiguous else (rank, 2 * self.ranks - 1 - rank)
        return tuple((self.starts[c], self.starts[c + 1]) for c in numbers)

    def runs(self, rank: int) -> Ranges:
        """The same, neighbours joined and empty ones left out."""
        return union(self.chunks(rank))

    def restricted(self, begin: int, end: int) -> Shards:
        """Of a part of the sequence, which counts from 0."""
        return Shards(tuple(min(max(start, begin), end) - begin for start in self.starts), self.layout)

    def local(self, rank: int, place: int) -> int:
        """The local row of a place that this rank has, or of the first behind it."""
        return size_of(overlap(self.runs(rank), ((0, place),)))


@lru_cache(maxsize=256)
def shards_of(layout: Layout, lengths: tuple[int, ...]) -> Shards:
    """`lengths` of all chunks, in the order of the sequence."""
    return Shards((0, *accumulate(lengths)), layout)


def as_layout(layout: object) -> Layout:
    if not isinstance(layout, Layout):
        raise TypeError(f"layout is {layout!r} ({type(layout).__name__}); it needs to be Layout.contiguous or Layout.zigzag")
    return layout


def as_lengths(lengths: object, layout: Layout, ranks: int) -> tuple[int, ...] | None:
    """Of all chunks, or None where each rank is to say its own."""
    if lengths is None:
        return None
    if hasattr(lengths, "tolist"):  # tensors and arrays
        lengths = lengths.tolist()
    if isinstance(lengths, str) or not isinstance(lengths, Sequence):
        raise TypeError(f"lengths is of type {type(lengths).__name__}; it needs to be a list or tuple of ints, or None")
    numbers = tuple(as_int(f"lengths[{n}]", length) for n, length in enumerate(lengths))
    if len(numbers) != ranks * layout.chunks_of_rank:
        raise ValueError(f"lengths holds {len(numbers)} numbers; it needs {ranks * layout.chunks_of_rank}, one for each chunk of {layout}")
    if min(numbers) < 0:
        raise ValueError(f"lengths is {numbers}; each needs to be at least 0")
    return numbers


def check_rows(name: str, rows: int, rank: int, layout: Layout, lengths: tuple[int, ...] | None) -> None:
    """Whether a rank may have so many."""
    if lengths is None:
        if rows % layout.chunks_of_rank:
            raise ValueError(f"{name} has {rows} rows in {layout} without lengths; it needs an even number, two chunks of one length")
        return
    chunks = shards_of(layout, lengths).chunks(rank)
    if rows != size_of(chunks):
        sizes = " + ".join(str(end - begin) for begin, end in chunks)
        raise ValueError(f"{name} has {rows} rows on rank {rank}; lengths says that it needs {sizes}")


def shards_from(rows: Sequence[int], layout: Layout) -> Shards:
    """From the number of rows that each rank has, in chunks of one length."""
    halves = [n // layout.chunks_of_rank for n in rows]
    return shards_of(layout, tuple(halves if layout is Layout.contiguous else halves + halves[::-1]))


# ---- sets of rows ----------------------------------------------------------------------------------------------------------------------
def union(ranges: Iterable[Range]) -> Ranges:
    """Ascending and disjoint, none empty, none that touch."""
    joined: list[Range] = []
    for begin, end in sorted(x for x in ranges if x[0] < x[1]):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


def overlap(some: Sequence[Range], others: Sequence[Range]) -> Ranges:
    """Rows in both; each ascending and disjoint."""
    found: list[Range] = []
    i = j = 0
    while i < len(some) and j < len(others):
        begin, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if begin < end:
            found.append((begin, end))
        if some[i][1] <= others[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def without(some: Sequence[Range], others: Sequence[Range], length: int) -> Ranges:
    """Rows of a sequence that are in `some` and not in `others`."""
    ends = [0, *(place for x in others for place in x), length]
    return overlap(some, union(zip(ends[::2], ends[1::2], strict=True)))


def size_of(ranges: Iterable[Range]) -> int:
    return sum(end - begin for begin, end in ranges)


# ---- what travels ----------------------------------------------------------------------------------------------------------------------
class Plan(NamedTuple):
    """Of one rank, in the order of the other ranks."""

    sends: tuple[tuple[int, Ranges], ...]  # to whom, which local rows
    receives: tuple[tuple[int, Ranges], ...]  # from whom, which places


@lru_cache(maxsize=256)
def plan_of(shards: Shards, needs: tuple[Ranges, ...], rank: int) -> Plan:
    """needs[r]: the rows that rank r is to have, those that are its own included."""
    own = [shards.runs(r) for r in range(len(needs))]
    missing = [without(need, runs, shards.length) for need, runs in zip(needs, own, strict=True)]
    others = [r for r in range(len(needs)) if r != rank]
    wanted = ((r, overlap(missing[r], own[rank])) for r in others)
    given = ((r, overlap(missing[rank], own[r])) for r in others)
    return Plan(
        tuple((r, _as_local(shards, rank, ranges)) for r, ranges in wanted if ranges),
        tuple((r, ranges) for r, ranges in given if ranges),
    )


def _as_local(shards: Shards, rank: int, ranges: Ranges) -> Ranges:
    """Local rows of places that this rank has; a range may lie in two neighbouring chunks."""
    return tuple((shards.local(rank, begin), shards.local(rank, end - 1) + 1) for begin, end in ranges)


@lru_cache(maxsize=256)
def halos_of(shards: Shards, left: int | None, right: int | None) -> tuple[tuple[Ranges, ...], ...]:
    """For each rank, for each of its chunks in turn: the range with its halo; () where the chunk is empty."""
    length = shards.length

    def wide(chunk: Range) -> Ranges:
        begin = 0 if left is None else max(chunk[0] - left, 0)
        end = length if right is None else min(chunk[1] + right, length)
        return ((begin, end),) if chunk[0] < chunk[1] else ()

    return tuple(tuple(wide(chunk) for chunk in shards.chunks(rank)) for rank in range(shards.ranks))

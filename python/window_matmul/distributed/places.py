# python/window_matmul/distributed/places.py: who sees whom: which keys a rank's queries need, and which of them have what they need here.
from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from .layout import Range, Ranges, Shards, union


class Reach(NamedTuple):
    """Query i sees keys from i + first to i + last, as far as they exist."""

    first: int
    last: int
    keys: int  # so many exist

    def of(self, queries: Range) -> Range:
        """The keys that these see, from the first to behind the last."""
        if queries[0] >= queries[1]:
            return 0, 0
        begin = min(max(queries[0] + self.first, 0), self.keys)
        return begin, max(min(queries[1] + self.last, self.keys), begin)

    def inside(self, queries: Range, keys: Range) -> Range:
        """The queries among these that see nothing beyond these keys; empty where that would be none."""
        begin = queries[0] if keys[0] <= 0 else max(queries[0], keys[0] - self.first)
        end = queries[1] if keys[1] >= self.keys else min(queries[1], keys[1] - self.last)
        return (begin, end) if begin < end else (queries[0], queries[0])


@lru_cache(maxsize=256)
def needs_of(reach: Reach, queries: Shards, of_all: Ranges = ()) -> tuple[Ranges, ...]:
    """The keys that each rank needs; `of_all`: those that everybody needs."""
    return tuple(union((*(reach.of(run) for run in queries.runs(rank)), *of_all)) for rank in range(queries.ranks))


class Piece(NamedTuple):
    """Some queries and the keys that they are computed with."""

    queries: Range
    keys: Range


def pieces_of(reach: Reach, queries: Range, own: Ranges, is_complete: bool, is_whole: bool) -> tuple[list[Piece], list[Piece]]:
    """A run of queries in pieces: those to compute while rows travel, and those to compute afterwards.

    `own` are the runs of keys that are here, `is_complete` says that nothing else is needed, `is_whole` that the run stays whole.
    """
    if is_complete:
        return [Piece(queries, reach.of(queries))], []
    if is_whole:
        return [], [Piece(queries, reach.of(queries))]
    inner = max((reach.inside(queries, keys) for keys in own), key=lambda x: x[1] - x[0], default=(queries[0], queries[0]))
    if inner[0] >= inner[1]:
        return [], [Piece(queries, reach.of(queries))]
    outer = [(queries[0], inner[0]), (inner[1], queries[1])]
    return [Piece(inner, reach.of(inner))], [Piece(x, reach.of(x)) for x in outer if x[0] < x[1]]

"""tests/python/distributed/test_layout.py: who has which rows and what travels, without any processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from window_matmul.distributed import Layout
from window_matmul.distributed.layout import Shards, halos_of, overlap, plan_of, shards_of, union, without
from window_matmul.distributed.places import Reach, needs_of, pieces_of

pytestmark = pytest.mark.best_backend


@st.composite
def cuts(draw: st.DrawFn) -> Shards:
    layout = draw(st.sampled_from(Layout))
    chunks = draw(st.integers(1, 6)) * layout.chunks_of_rank
    return shards_of(layout, tuple(draw(st.lists(st.integers(0, 7), min_size=chunks, max_size=chunks))))


ranges = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=5)


def rows(some: object) -> list[int]:
    return [row for begin, end in some for row in range(begin, end)]  # type: ignore[attr-defined]


@given(ranges, ranges)
def test_sets_of_rows(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    a, b = union(some), union(others)
    assert rows(a) == sorted(set(rows(some)))
    assert rows(overlap(a, b)) == sorted(set(rows(a)) & set(rows(b)))
    assert rows(without(a, b, 25)) == sorted(set(rows(a)) - set(rows(b)))


@given(cuts())
def test_each_row_has_one_owner_and_one_place_there(shards: Shards) -> None:
    for rank in range(shards.ranks):
        own = rows(shards.chunks(rank))
        assert rows(shards.runs(rank)) == own
        assert [shards.local(rank, place) for place in own] == list(range(len(own)))
        assert all(shards.owner(place) == rank for place in own)
    assert sum(len(rows(shards.chunks(rank))) for rank in range(shards.ranks)) == shards.length


def test_zigzag_is_head_and_tail() -> None:
    shards = shards_of(Layout.zigzag, (1, 2, 3, 4, 5, 6))
    assert [shards.chunks(rank) for rank in range(3)] == [((0, 1), (15, 21)), ((1, 3), (10, 15)), ((3, 6), (6, 10))]
    assert shards.runs(2) == ((3, 10),)


@given(cuts(), cuts(), st.integers(-9, 9), st.integers(0, 9), ranges)
def test_what_is_needed_comes_once_from_who_has_it(
    keys: Shards, queries: Shards, first: int, width: int, of_all: list[tuple[int, int]]
) -> None:
    if keys.ranks != queries.ranks:
        return
    everybody = overlap(union(of_all), ((0, keys.length),))
    needs = needs_of(Reach(first, first + width, keys.length), queries, everybody)
    plans = [plan_of(keys, needs, rank) for rank in range(keys.ranks)]
    for rank, plan in enumerate(plans):
        wanted = set(rows(everybody))
        for place in rows(queries.chunks(rank)):
            wanted |= set(range(max(place + first, 0), min(place + first + width + 1, keys.length)))
        came = [place for _, ranges in plan.receives for place in rows(ranges)]
        assert sorted(came) == sorted(wanted - set(rows(keys.chunks(rank)))) and len(came) == len(set(came))
        for other, ranges in plan.receives:
            sent = dict(plans[other].sends)[rank]
            assert rows(sent) == [keys.local(other, place) for place in rows(ranges)]
        assert {other for other, _ in plan.sends} == {other for other, p in enumerate(plans) if rank in dict(p.receives)}


@given(cuts(), st.integers(-9, 5), st.integers(1, 9))
def test_pieces_are_all_queries_and_early_ones_need_nothing(shards: Shards, first: int, width: int) -> None:
    reach = Reach(first, first + width, shards.length)
    for rank in range(shards.ranks):
        own = shards.runs(rank)
        for run in own:
            early, late = pieces_of(reach, run, own, is_complete=False, is_whole=False)
            assert rows(sorted(piece.queries for piece in (*early, *late))) == rows((run,))
            for piece in early:
                assert set(rows((reach.of(piece.queries),))) <= set(rows(own))


@given(cuts(), st.none() | st.integers(0, 30), st.none() | st.integers(0, 30))
def test_halos(shards: Shards, left: int | None, right: int | None) -> None:
    for rank, of_rank in enumerate(halos_of(shards, left, right)):
        for (begin, end), wide in zip(shards.chunks(rank), of_rank, strict=True):
            first = 0 if left is None else max(begin - left, 0)
            last = shards.length if right is None else min(end + right, shards.length)
            assert wide == (((first, last),) if begin < end else ())

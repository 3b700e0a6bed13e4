"""tests/python/distributed/test_ranks.py: halos, the trio, packed sequences, modules and refusals over 1 to 8 processes."""

from __future__ import annotations

import math
from typing import Any

import pool
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.best_backend, pytest.mark.long]

SPLITS = [
    ((7,), "contiguous"),
    ((8, 5, 1, 9), "contiguous"),
    ((0, 4, 0, 0, 3, 1), "contiguous"),
    ((8, 5, 1, 9, 4, 3), "zigzag"),
    ((0, 3, 0, 0, 2, 0, 1, 1), "zigzag"),
]


def ranks_of(lengths: tuple[int, ...], layout: str) -> int:
    return len(lengths) // (1 if layout == "contiguous" else 2)


# ---- bytes -----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("window", [(5, 3), (5, 0), (0, 2), (0, 0)], ids=str)
def test_bytes_are_those_of_the_formula(window: tuple[int, int]) -> None:
    left, right = window
    row = 2 * 2 * 2 * 4 * 4  # keys and values, B, Hkv, D, bytes
    for rank, (forward, backward) in enumerate(pool.run("others:traffic", 4, 9, window)):
        forth = (rank < 3) * left + (rank > 0) * right  # the next one needs our last rows, the one before our first
        back = (rank > 0) * left + (rank < 3) * right
        assert (forward.nbytes, backward.nbytes) == (row * forth, row * back)
        assert forward.batches <= 1 and backward.batches <= 1
        assert (forward.gathered, forward.told) == (8 * 8, 4 * 8 * 8)  # the agreement: eight numbers of each of four ranks
        assert (backward.gathered, backward.told) == (0, 0)


def test_bytes_over_several_hops() -> None:
    """Chunks of 2 rows, 5 to the left: each rank needs all rows of the two ranks before it and one of the third."""
    for rank, (forward, _) in enumerate(pool.run("others:traffic", 6, 2, (5, 0))):
        needed = [min(2, max(0, 5 - 2 * (hops - 1))) for hops in range(1, 6 - rank)]
        assert forward.nbytes == 2 * 2 * 2 * 4 * 4 * sum(needed)
        assert forward.peers == [rank + hops for hops, rows in enumerate(needed, 1) if rows] and forward.batches <= 1


# ---- halos -----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sides", [(2, 1), (0, 0), (0, 12), (30, 30), (None, 1)], ids=str)
@pytest.mark.parametrize(("lengths", "layout"), SPLITS, ids=str)
def test_halos(lengths: tuple[int, ...], layout: str, sides: tuple[int | None, int | None]) -> None:
    assert set(pool.run("others:halos", ranks_of(lengths, layout), lengths, layout, *sides)) <= {0, 1}


# ---- the trio --------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("window", "options"),
    [((3, 2), {}), ((2, 0), {"fill": -math.inf}), ((12, 12), {}), ((1, 2), {"dilation": (1, 3)}), ((2, 2), {"query_offset": 3})],
    ids=str,
)
@pytest.mark.parametrize(("lengths", "layout"), SPLITS, ids=str)
def test_trio(lengths: tuple[int, ...], layout: str, window: tuple[int, int], options: dict[str, Any]) -> None:
    pool.run("others:trio", ranks_of(lengths, layout), lengths, layout, window, options)


# ---- packed sequences ------------------------------------------------------------------------------------------------------------------
PACKED = [
    ((), {}),
    (("slots", "sinks"), {"softcap": 2.0, "dilation": 2}),
    (("bias", "key_mask"), {}),
    ((), {"global_tokens": 2}),
    (("global_mask", "slots"), {}),
    (("global_mask", "bias", "sinks", "key_mask"), {"dilation": (1, 2, 1, 1), "dropout_p": 0.3}),
    ((), {"dropout_p": 0.3}),
]


@pytest.mark.parametrize(("names", "options"), PACKED, ids=str)
@pytest.mark.parametrize("window", [(3, 2), (2, 0)], ids=str)
@pytest.mark.parametrize(("lengths", "layout"), [SPLITS[1], SPLITS[3]], ids=str)
def test_packed(lengths: tuple[int, ...], layout: str, window: tuple[int, int], names: tuple[str, ...], options: dict[str, Any]) -> None:
    """Sequences within ranks, over two and over four, empty ones, and rows of none in front and behind."""
    total = sum(lengths)
    cu = [1, 4, 4, 7, 20, total - 1]
    pool.run("others:packed", ranks_of(lengths, layout), lengths, layout, (cu, cu), window, names, options)


def test_packed_queries_beside_other_keys() -> None:
    lengths = (8, 5, 1, 9)
    pool.run("others:packed", 4, lengths, "contiguous", ([0, 4, 9, 23], [2, 12, 12, 20]), (3, 2), ("key_mask",), {"global_tokens": 2})


@st.composite
def packings(draw: st.DrawFn) -> tuple[Any, ...]:
    layout = draw(st.sampled_from(["contiguous", "zigzag"]))
    chunks = draw(st.integers(1, 6)) if layout == "contiguous" else 2 * draw(st.integers(1, 4))
    lengths = tuple(draw(st.lists(st.integers(0, 8), min_size=chunks, max_size=chunks)))
    places = st.lists(st.integers(0, sum(lengths)), min_size=1, max_size=7)
    cu = sorted(draw(places))
    of_keys = sorted(draw(st.lists(st.integers(0, sum(lengths)), min_size=len(cu), max_size=len(cu)))) if draw(st.booleans()) else cu
    names, options = draw(st.sampled_from(PACKED))
    return lengths, layout, (cu, of_keys), (draw(st.integers(0, 6)), draw(st.integers(0, 6))), names, options


@settings(max_examples=60)
@given(packings())
def test_any_packing(packing: tuple[Any, ...]) -> None:
    lengths, layout, cu, window, names, options = packing
    pool.run("others:packed", ranks_of(lengths, layout), lengths, layout, cu, window, names, options)


# ---- modules ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {"rotary": 10000.0},
        {"num_kv_heads": 2, "sinks": True, "relative_bias": True, "global_tokens": 2},
        {"rotary": 100.0, "dropout": 0.3, "dilation": (1, 2, 1, 1)},
    ],
    ids=lambda options: ",".join(options),
)
@pytest.mark.parametrize(("lengths", "layout"), [((9,), "contiguous"), SPLITS[1], SPLITS[3]], ids=str)
def test_module(lengths: tuple[int, ...], layout: str, options: dict[str, Any]) -> None:
    pool.run("others:module", ranks_of(lengths, layout), lengths, layout, options, "sinks" in options)


# ---- ranks that do not mean the same ---------------------------------------------------------------------------------------------------
DIFFERENT = {  # what differs, how the argument is called, and its two values
    "window": ("window_size", "(2, 3)", "(2, 1)"),
    "shape": ("q", "(1, 4, n, 4)", "(1, 2, n, 4)"),
    "dtype": ("q", "torch.float64", "torch.float32"),
    "scale": ("scale", "0.3", "None"),
    "layout": ("layout", "Layout.zigzag", "Layout.contiguous"),
    "lengths": ("lengths", "(6, 6, 6)", "None"),
    "gradient": ("q", "with a gradient", "without a gradient"),
    "key_lengths": ("key_lengths", "[5]", "None"),
    "another": ("call", "halo_exchange", "window_attention"),
}


@pytest.mark.parametrize("what", DIFFERENT)
@pytest.mark.parametrize("one", [0, 2])
def test_a_difference_is_named_on_every_rank(what: str, one: int) -> None:
    answers = pool.run("others:differ", 3, one, what, "right")
    assert len(set(answers)) == 1
    kind, text = answers[0]
    name, *values = DIFFERENT[what]
    assert kind == "ValueError" and text.startswith(f"{name} is ")
    assert all(part in text for part in (*values, "on rank 0", f"on rank {one or 1}"))


@pytest.mark.parametrize(("its", "others"), [("wide trio", "trio"), ("wide halo", "halo")])
def test_other_functions_check_likewise(its: str, others: str) -> None:
    for kind, text in pool.run("others:differ", 2, 1, its, others):
        assert kind == "ValueError" and "on rank 1" in text and "on rank 0" in text


def test_a_number_of_calls_that_differs() -> None:
    for kind, text in pool.run("others:another_number_of_calls", 3):
        assert kind == "ValueError" and "number of calls" in text and "rank 0" in text


@pytest.mark.parametrize("what", ["negative", "type", "unknown", "mask", "rows", "odd", "check"])
def test_a_wrong_argument_of_one_rank(what: str) -> None:
    answers = pool.run("others:differ", 3, 1, what, "lengths" if what == "rows" else "right")
    assert answers[1][0] == ("TypeError" if what in ("type", "unknown", "check") else "ValueError")
    for rank in (0, 2):
        assert answers[rank][0] == "RuntimeError" and "rank 1" in answers[rank][1] and answers[1][1] in answers[rank][1]

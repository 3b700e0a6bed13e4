"""tests/python/distributed/test_attention_over_ranks.py: window_attention of a sequence that is cut over ranks is that of one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pool
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import Scene

pytestmark = [pytest.mark.best_backend, pytest.mark.long]

UNEVEN, ZIGZAG = Scene((8, 5, 1, 9), (3, 2)), Scene((8, 5, 1, 9, 4, 3), (3, 2), "zigzag")
LENGTH = {UNEVEN: 23, ZIGZAG: 30}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "key_mask": {"key_mask": True},
    "sinks": {"sinks": True},
    "slots": {"bias": "slots"},
    "bias": {"bias": "full"},
    "dilation": {"dilation": 2},
    "dilations": {"dilation": (1, 2, 1, 3)},
    "offset": {"query_offset": 2},
    "offsets": {"query_offset": (0, -3)},
    "lengths": {"key_lengths": (23, 7)},
    "lengths, offsets": {"key_lengths": (23, 7), "query_offset": (1, 4)},
    "softcap": {"softcap": 2.0, "scale": 0.3},
    "globals": {"global_tokens": 3},
    "many globals": {"global_tokens": 2**40},
    "global mask": {"global_tokens": True},
    "global mask, slots": {"global_tokens": True, "bias": "slots", "sinks": True},
    "globals, bias": {"global_tokens": 3, "bias": "full", "sinks": True},
    "globals aside": {"global_tokens": 2, "query_offset": 1},
    "globals, lengths": {"global_tokens": 2, "key_lengths": (23, 7)},
    "global mask, lengths, offsets": {"global_tokens": True, "key_lengths": (23, 7), "query_offset": (0, 4), "key_mask": True},
    "dropout": {"dropout_p": 0.3},
    "dropout of all": {"dropout_p": 1.0},
    "dropout, global mask": {"dropout_p": 0.3, "global_tokens": True},
    "dropout, globals, slots": {"dropout_p": 0.3, "global_tokens": 4, "bias": "slots"},
    "everything": {
        "key_mask": True,
        "sinks": True,
        "bias": "full",
        "dilation": (1, 2, 1, 3),
        "softcap": 2.0,
        "scale": 0.3,
        "global_tokens": True,
        "dropout_p": 0.2,
    },
}


def compare(scene: Scene) -> list[Any]:
    return pool.run("scenes:compare", scene.ranks, scene)


@pytest.mark.parametrize("window", [(3, 2), (2, 0)], ids=str)
@pytest.mark.parametrize("layout", [UNEVEN, ZIGZAG], ids=lambda scene: scene.layout)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, layout: Scene, window: tuple[int, int]) -> None:
    compare(replace(layout, window=window, options=tuple(OPTIONS[name].items())))


@pytest.mark.parametrize("layout", [UNEVEN, ZIGZAG], ids=lambda scene: scene.layout)
@pytest.mark.parametrize(
    "window", [0, (0, 3), (9, 0), (16, 16), (100, 100), None, (None, 0), (2, None), (2**60, 1)], ids=lambda window: f"window={window}"
)
def test_windows(window: Any, layout: Scene) -> None:
    """Narrower than a shard, wider than one, than two, than the sequence, unbounded."""
    compare(replace(layout, window=window))


SPLITS = [
    ((7,), "contiguous"),
    ((8, 8), "contiguous"),
    ((0, 9), "contiguous"),
    ((9, 0, 0), "contiguous"),
    ((0, 0), "contiguous"),
    ((1, 1, 1, 1, 1, 1, 1, 1), "contiguous"),
    ((40, 0, 3, 40, 1), "contiguous"),
    ((5, 4), "zigzag"),
    ((8, 8, 8, 8), "zigzag"),
    ((0, 3, 0, 0, 2, 0), "zigzag"),
    ((2, 1, 0, 3, 1, 1, 2, 0, 4, 1, 0, 1, 2, 1), "zigzag"),
]


@pytest.mark.parametrize(("lengths", "layout"), SPLITS, ids=str)
def test_splits(lengths: tuple[int, ...], layout: str) -> None:
    compare(Scene(lengths, (4, 3), layout))


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_ranks_say_their_lengths(layout: str) -> None:
    compare(Scene((6, 4, 9, 4) if layout == "contiguous" else (6, 4, 4, 6), (3, 2), layout, gives_lengths=False))


@pytest.mark.parametrize("options", [{}, {"dropout_p": 0.4, "global_tokens": True}], ids=str)
def test_without_the_check(options: dict[str, Any]) -> None:
    compare(Scene((6, 4, 9), (3, 2), check=False, options=tuple(options.items())))


@pytest.mark.parametrize("key_lengths", [(9, 0, 14, 4), (1, 1, 0, 2), (0, 0, 0, 0)], ids=str)
@pytest.mark.parametrize("options", [{}, {"global_tokens": 3, "key_mask": True}, {"query_offset": 0}], ids=str)
def test_other_keys_than_queries(key_lengths: tuple[int, ...], options: dict[str, Any]) -> None:
    compare(Scene((5, 0, 8, 2), (3, 2), key_lengths=key_lengths, options=tuple(options.items())))


def test_a_part_is_not_taken_for_a_whole() -> None:
    """With as many keys as queries on a rank, and none of its own global queries."""
    for lengths, offset in (((4, 4, 4), 4), ((5, 3, 4), 1), ((2, 2, 2), -2)):
        compare(Scene(lengths, (1, 1), options=(("global_tokens", 2), ("query_offset", offset))))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [UNEVEN, ZIGZAG], ids=lambda scene: scene.layout)
@pytest.mark.parametrize("options", [{}, OPTIONS["globals, bias"], {"out_dtype": torch.float32, "key_mask": True}], ids=str)
def test_dtypes_and_layouts(dtype: str, layout: Scene, options: dict[str, Any]) -> None:
    compare(replace(layout, dtype=dtype, heads_inside=True, options=tuple(options.items())))


def test_runs_are_equal_bit_for_bit() -> None:
    scene = replace(ZIGZAG, dtype="float32", options=tuple(OPTIONS["everything"].items()))
    for first, second in zip(compare(scene), compare(scene), strict=True):
        for name, x in first.items():
            assert torch.equal(x, second[name]), name


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    layout = draw(st.sampled_from(["contiguous", "zigzag"]))
    ranks = draw(st.integers(1, 4) | st.integers(5, 8))
    chunks = ranks if layout == "contiguous" else 2 * ranks
    lengths = tuple(draw(st.lists(st.integers(0, 9), min_size=chunks, max_size=chunks)))
    sides = st.integers(0, 5) | st.sampled_from([12, 40])
    window = (draw(sides), draw(st.just(0) | sides))
    chosen: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from([*OPTIONS][:-1]), max_size=3)):
        chosen |= {key: value for key, value in OPTIONS[name].items() if key != "key_lengths"}
    if draw(st.booleans()):
        chosen["key_lengths"] = tuple(draw(st.integers(0, sum(lengths))) for _ in range(2))
    return Scene(lengths, window, layout, kv_heads=draw(st.sampled_from([1, 2, 4])), options=tuple(chosen.items()))


@settings(max_examples=75)
@given(scenes())
def test_any_split(scene: Scene) -> None:
    compare(scene)

"""tests/python/distributed/test_contract.py: what is promised of any call over ranks: forms, differences, gradients, dropout."""

from __future__ import annotations

from typing import Any

import pool
import pytest
import torch
from contract import CALLS, raised

from window_matmul.distributed import Layout
from window_matmul.distributed.layout import shards_of

pytestmark = [pytest.mark.best_backend, pytest.mark.long]

# (call, options of one rank, of the others, what is named, its value on that rank, on the others)
DIFFERENCES: list[tuple[str, dict[str, Any], dict[str, Any], str, str, str]] = [
    ("attention", {"dilation": 2}, {}, "dilation", "2", "1"),
    ("attention", {"scale": 2.0}, {"scale": 0.5}, "scale", "2.0", "0.5"),
    ("attention", {"softcap": 3.0}, {}, "softcap", "3.0", "0.0"),
    ("attention", {"dropout_p": 0.5}, {"dropout_p": 0.25}, "dropout_p", "0.5", "0.25"),
    ("attention", {"bias": "slots"}, {}, "bias", "(2, 4)", "None"),
    ("attention", {"bias": "full bias"}, {"bias": "slots"}, "bias", "(1, 2, n, 4)", "(2, 4)"),
    ("attention", {"sinks": "sinks"}, {}, "sinks", "(2)", "None"),
    ("attention", {"key_mask": "mask"}, {}, "key_mask", "(1, n)", "None"),
    ("attention", {"global_tokens": 2}, {"global_tokens": 1}, "global_tokens", "2", "1"),
    ("attention", {"global_tokens": "mask"}, {"global_tokens": 1}, "global_tokens", "a mask", "1"),
    ("attention", {"key_lengths": "lengths"}, {}, "key_lengths", "[5]", "None"),
    ("attention", {"query_offset": 3}, {}, "query_offset", "3", "None"),
    ("attention", {"query_offset": "offsets"}, {"query_offset": 1}, "query_offset", "[1]", "1"),
    ("attention", {"return_lse": True}, {}, "return_lse", "True", "False"),
    ("attention", {"out_dtype": torch.float32}, {}, "out_dtype", "torch.float32", "None"),
    ("packed", {"cu": [0, 2, 6]}, {}, "cu_seqlens_q", "[0, 2, 6]", "[0, 6]"),
    ("packed", {"key_mask": "packed mask"}, {}, "key_mask", "(1, n)", "None"),
    ("band_out", {"fill": 1.0}, {}, "fill", "1.0", "0.0"),
    ("band_out", {"query_offset": 2}, {}, "query_offset", "2", "None"),
    ("band_in", {"dilation": 3}, {}, "dilation", "3", "1"),
    ("softmax", {"num_keys": 9}, {}, "num_keys", "9", "None"),
    ("halo", {"left": 4}, {}, "left", "4", "2"),
    ("halo", {"layout": Layout.zigzag}, {}, "layout", "Layout.zigzag", "Layout.contiguous"),
]


@pytest.mark.parametrize("one", [0, 1])
def test_each_difference_is_a_value_error_on_every_rank(one: int) -> None:
    found = pool.run("contract:differing", 3, one, [case[:3] for case in DIFFERENCES])
    for number, (_, _, _, name, its, of_others) in enumerate(DIFFERENCES):
        of_ranks = {answers[number] for answers in found}
        assert len(of_ranks) == 1, of_ranks
        kind, text = of_ranks.pop()
        assert kind == "ValueError" and text.startswith(f"{name} is "), text
        assert its in text and of_others in text and "on rank 0" in text and "on rank 1" in text, text


WRONG: list[tuple[str, dict[str, Any], str]] = [  # on one rank alone
    ("attention", {"lengths": [6, 5, 6]}, "q has 6 rows on rank 1; lengths says that it needs 5"),
    ("attention", {"lengths": [6, 6]}, "lengths holds 2 numbers; it needs 3"),
    ("attention", {"lengths": [6, -6, 6]}, "each needs to be at least 0"),
    ("attention", {"dropout_p": 2.0}, "dropout_p is 2.0"),
    ("attention", {"key_lengths": "sinks"}, "key_lengths is torch.float32"),
    ("packed", {"cu": [0, 4, 3]}, "cu_seqlens_q is 3 after 4"),
    ("packed", {"cu": [-1, 4]}, "cu_seqlens_q is a sequence from -1"),
    ("band_out", {"query_offset": 0.5}, "query_offset"),
    ("softmax", {"num_keys": -1}, "num_keys is -1"),
    ("halo", {"left": -2}, "left is -2"),
    ("halo", {"seq_dim": 3}, "seq_dim is 3"),
]


def test_what_is_wrong_on_one_rank_is_said_on_every_rank() -> None:
    found = pool.run("contract:differing", 3, 1, [(name, its, {}) for name, its, _ in WRONG])
    for number, (_, _, text) in enumerate(WRONG):
        kind, said = found[1][number]
        assert kind in ("ValueError", "TypeError") and text in said, said
        for rank in (0, 2):
            kind, of_other = found[rank][number]
            assert kind == "RuntimeError" and "rank 1" in of_other and said in of_other, of_other


def test_what_is_wrong_with_all_sequences_is_said_on_every_rank() -> None:
    """Known only when all have said how many rows they have."""
    options = [("attention", {"key_lengths": "lengths"}), ("packed", {"cu": [0, 19]})]
    found = pool.run("contract:differing", 3, 0, [(name, its, its) for name, its in options])
    for answers in found:
        assert answers[0] == ("", "")  # five keys of eighteen
        assert answers[1][0] == "ValueError" and "at most the number of rows on all ranks, 18" in answers[1][1]


@pytest.mark.parametrize("name", CALLS)
def test_one_process_checks_what_several_check(name: str) -> None:
    cases = [(name, options, {}) for options in ({"lengths": [5]}, {"layout": 0}, {"check": 1}, {"lengths": [6]})]
    (found,) = pool.run("contract:differing", 1, 0, cases)
    assert found[0][0] == "ValueError" and "lengths" in found[0][1]
    assert found[1][0] == "TypeError" and "layout" in found[1][1]
    assert found[2][0] == "TypeError" and "check" in found[2][1]
    assert found[3] == ("", "")


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_forms_of_arguments(ranks: int) -> None:
    pool.run("contract:forms", ranks)


@pytest.mark.parametrize("wanted", ["q", "k", "v", "qk", "bias", "qkv"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_gradients_of_some(wanted: str, ranks: int) -> None:
    pool.run("contract:gradients", ranks, (wanted,) if wanted == "bias" else tuple(wanted), "plain")


@pytest.mark.parametrize("way", ["recomputed", "twice", "autocast", "wide bias", "strided", "half"])
def test_gradients_in_any_way(way: str) -> None:
    pool.run("contract:gradients", 3, ("q", "k", "v", "bias"), way)


def test_without_recording() -> None:
    pool.run("contract:without_recording", 3)


@pytest.mark.parametrize(("layout", "window"), [("contiguous", (3, 0)), ("contiguous", (3, 2)), ("zigzag", (3, 2))], ids=str)
def test_only_rows_near_borders_are_copied(layout: str, window: tuple[int, int]) -> None:
    """Of 2 x 4 numbers each, of chunks of 300 rows: at most the queries at a border with the keys of their windows, on both sides."""
    for most in pool.run("contract:most_copied", 3, 300, layout, window):
        assert 0 < most <= 2 * 4 * 2 * 2 * sum(window)


def test_dropout_does_not_depend_on_the_cut() -> None:
    (want,) = pool.run("contract:dropped", 1, (24,), "contiguous")
    for lengths, layout in [
        ((9, 15), "contiguous"),
        ((3,) * 8, "contiguous"),
        ((20, 0, 1, 3), "contiguous"),
        ((4, 8, 2, 3, 7, 0), "zigzag"),
    ]:
        shards = shards_of(Layout[layout], lengths)
        found = pool.run("contract:dropped", shards.ranks, lengths, layout)
        whole = torch.empty_like(want)
        for rank, rows in enumerate(found):
            begin = 0
            for first, last in shards.chunks(rank):
                whole[:, :, first:last] = rows[:, :, begin : begin + last - first]
                begin += last - first
        torch.testing.assert_close(whole, want, rtol=1e-12, atol=1e-12)  # another order of sums: another mask would be off by far more
        assert ((whole == 0) == (want == 0)).all()


def test_what_is_raised_is_told_apart() -> None:
    """The helper itself."""
    assert raised(lambda: 1) == ("", "") and raised(lambda: int("x"))[0] == "ValueError"

"""tests/python/test_cache_states.py: the rows, states and copies of a `RollingCache`."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from decoding import SHAPE, Shape, filled, same
from window_matmul import RollingCache, Window

pytestmark = pytest.mark.best_backend


# ---- rows ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "rows, left",
    [
        (None, 0), (0, [0, 9, 9]), ([2], [9, 9, 0]), ((), 9), ([0, 0, 1], [0, 0, 9]), (range(3), 0), (torch.tensor([1]), [9, 0, 9]),
        (torch.tensor(1), [9, 0, 9]), (torch.tensor([True, False, True]), [0, 9, 0]), (np.int64(2), [9, 9, 0]),
    ],
    ids=str,
)  # fmt: skip
def test_reset(rows: Any, left: Any) -> None:
    decoder = filled()
    decoder.cache.reset(rows)
    assert decoder.cache.length == left


@pytest.mark.parametrize("indices", [[0, 1, 2], [2, 0, 1], [1, 1, 1], torch.tensor([0, 0, 2]), torch.tensor([2, 1, 0], dtype=torch.int32)])
def test_reorder(indices: Any) -> None:
    decoder = filled()
    decoder.reset([1])
    decoder.feed(1)
    decoder.reorder(indices if isinstance(indices, list) else indices.tolist())
    for n in (1, 4, 20):
        decoder.feed(n)


# ---- states -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokens", [0, 1, 9, 30])
def test_state_goes_through_a_file(tokens: int) -> None:
    decoder = filled(tokens=tokens)
    file = io.BytesIO()
    torch.save(decoder.cache.state_dict(), file)
    file.seek(0)
    other = SHAPE.cache()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert same(other.state_dict(), decoder.cache.state_dict())
    decoder.cache = other
    for n in (1, 3, 20):
        decoder.feed(n)


def test_a_state_is_a_copy() -> None:
    decoder = filled()
    state, q, k, v = decoder.cache.state_dict(), *SHAPE.tokens(2)
    first = decoder.cache.attend(q, k, v)
    decoder.cache.reset([0])
    decoder.cache.load_state_dict(state)
    assert decoder.cache.length == 9 and torch.equal(decoder.cache.attend(q, k, v), first)
    decoder.cache.load_state_dict(state)
    assert torch.equal(decoder.cache.attend(q, k, v), first)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))], ids=["deepcopy", "pickle"])
def test_copies(copied: Callable[[RollingCache], RollingCache]) -> None:
    decoder = filled()
    other, before = copied(decoder.cache), decoder.cache.state_dict()
    other.attend(*SHAPE.tokens(1))
    assert same(before, decoder.cache.state_dict()) and other.length == 10


STATES: list[tuple[type[Exception], Callable[[dict[str, Any]], Any], str]] = [
    (TypeError, lambda s: 3, "state is of type int"),
    (ValueError, lambda s: {}, "entries"),
    (ValueError, lambda s: s | {"more": 1}, "more"),
    (ValueError, lambda s: s | {"left": 5}, "left is 5.*4"),
    (ValueError, lambda s: s | {"dilation": 2}, "dilation is 2.*1"),
    (ValueError, lambda s: s | {"num_pinned": 0}, "num_pinned is 0.*2"),
    (ValueError, lambda s: s | {"spare": 1}, "spare is 1.*0"),
    (TypeError, lambda s: s | {"dilation": True}, "dilation is True"),
    (TypeError, lambda s: s | {"left": torch.ones(2)}, "left is tensor"),
    (ValueError, lambda s: s | {"cropped": [0, 1, 0]}, r"cropped is \[0, 1, 0\].*at most 0"),
    (ValueError, lambda s: s | {"cropped": 0}, "cropped is 0.*3 ints"),
    (TypeError, lambda s: s | {"keys": s["keys"].float()}, "keys is torch.float32.*float64"),
    (TypeError, lambda s: s | {"values": [1]}, "values is list"),
    (ValueError, lambda s: s | {"values": s["values"][:1]}, r"values is \(1, .*\(3, "),
    (ValueError, lambda s: s | {"lengths": [1, 2]}, r"lengths is \[1, 2\].*3 ints"),
    (ValueError, lambda s: s | {"lengths": [1, 2, -3]}, "lengths is -3"),
    (TypeError, lambda s: s | {"lengths": [1, 2, 0.5]}, "lengths is 0.5"),
]


@pytest.mark.parametrize("error, change, says", STATES, ids=lambda x: x if isinstance(x, str) else "")
def test_states_that_do_not_fit(error: type[Exception], change: Callable[[dict[str, Any]], Any], says: str) -> None:
    decoder = filled()
    before = decoder.cache.state_dict()
    with pytest.raises(error, match=says):
        decoder.cache.load_state_dict(change(filled().cache.state_dict()))
    assert same(before, decoder.cache.state_dict())


def test_repr_says_what_it_is() -> None:
    said = repr(filled(Shape(Window(4, 0, 3), batch=3, pinned=2)).cache)
    numbers = dict(re.findall(r"(\w+)=(\d+)", said))
    assert said.startswith("RollingCache(") and numbers == {
        "batch_size": "3", "num_kv_heads": "2", "head_dim": "4", "value_head_dim": "3", "dilation": "3", "num_pinned": "2", "length": "9",
        "nbytes": str(3 * 2 * (12 + 1 + 2) * 7 * 8),
    }  # fmt: skip

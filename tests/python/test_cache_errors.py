"""tests/python/test_cache_errors.py: what a `RollingCache` refuses, and that a refused call changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from decoding import SHAPE, Shape, filled, same
from window_matmul import RollingCache, Window

pytestmark = pytest.mark.best_backend


MADE: list[tuple[type[Exception], dict[str, Any], str]] = [
    (ValueError, {"batch_size": -1}, "batch_size is -1"),
    (TypeError, {"batch_size": 1.0}, "batch_size is 1.0"),
    (TypeError, {"batch_size": True}, "batch_size is True"),
    (ValueError, {"num_kv_heads": 0}, "num_kv_heads is 0"),
    (TypeError, {"num_kv_heads": None}, "num_kv_heads is None"),
    (ValueError, {"head_dim": -4}, "head_dim is -4"),
    (TypeError, {"head_dim": "4"}, "head_dim is '4'"),
    (ValueError, {"value_head_dim": -4}, "value_head_dim is -4"),
    (ValueError, {"num_pinned": -1}, "num_pinned is -1"),
    (TypeError, {"num_pinned": torch.ones(3, dtype=torch.bool)}, "num_pinned is"),
    (ValueError, {"spare": -1}, "spare is -1"),
    (TypeError, {"spare": 1.5}, "spare is 1.5"),
    (ValueError, {"spare": 2**60}, f"spare={2**60}.*bytes"),
    (ValueError, {"window_size": 3}, r"window_size is 3.*right = 0"),
    (ValueError, {"window_size": (3, 1)}, r"window_size is \(3, 1\).*right = 0"),
    (ValueError, {"window_size": (3, None)}, r"window_size is \(3, None\).*right = 0"),
    (ValueError, {"window_size": (None, 0)}, r"window_size is \(None, 0\).*bounded left"),
    (ValueError, {"window_size": (-1, 0)}, r"window_size is \(-1, 0\).*bounded left"),
    (ValueError, {"window_size": None}, "window_size is None.*bounded"),
    (ValueError, {"window_size": (-2, 0)}, r"window_size\[0\] is -2"),
    (ValueError, {"window_size": (1, 2, 3)}, r"window_size is \(1, 2, 3\).*pair"),
    (ValueError, {"window_size": -3}, "window_size is -3"),
    (TypeError, {"window_size": (2.0, 0)}, r"window_size\[0\] is 2.0"),
    (TypeError, {"window_size": "4"}, "window_size is '4'"),
    (ValueError, {"window_size": Window(None, 0)}, "window_size is Window.*bounded left"),
    (ValueError, {"window_size": (2**62, 0)}, f"window=.{2**62}, 0.*bytes"),
    (ValueError, {"window_size": Window(2**40, 0, 2**40)}, "dilation=.*bytes"),
    (TypeError, {"dtype": torch.int32}, "dtype is torch.int32"),
    (TypeError, {"dtype": "float32"}, "dtype is 'float32'"),
    (ValueError, {"device": "cuda"}, "device is cuda.*CPU"),
    (ValueError, {"device": "here"}, "device is 'here'.*name"),
    (TypeError, {"device": 0}, "device is 0"),
]  # fmt: skip


@pytest.mark.parametrize("error, wrong, says", MADE, ids=lambda x: str(x)[:60])
def test_making(error: type[Exception], wrong: dict[str, Any], says: str) -> None:
    right: dict[str, Any] = {"batch_size": 1, "num_kv_heads": 1, "head_dim": 4, "window_size": (3, 0)}
    with pytest.raises(error, match=says) as raised:
        RollingCache(**(right | wrong))
    assert raised.type is error


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError):
        RollingCache(1, 1, 4, (3, 0), 4)  # type: ignore[misc]


CALLS: list[tuple[type[Exception], str, Callable[[Tensor], Any], str]] = [
    (TypeError, "q", lambda x: x.tolist(), "q is of type list"),
    (TypeError, "k", lambda x: None, "k is of type NoneType"),
    (TypeError, "q", lambda x: x.float(), "q is torch.float32.*float64"),
    (TypeError, "v", lambda x: x.long(), "v is torch.int64"),
    (TypeError, "k", lambda x: x.to_sparse(), "k has the layout"),
    (ValueError, "k", lambda x: x.to("meta"), "k is on meta.*cpu"),
    (ValueError, "q", lambda x: x[0], "q is .*4 dims"),
    (ValueError, "q", lambda x: x[:2], r"q is \(2, 4.*\(3, a multiple of 2 heads"),
    (ValueError, "q", lambda x: x[:, :3], r"q is \(3, 3.*multiple of 2"),
    (ValueError, "q", lambda x: x[..., :3], r"q is .*4\)"),
    (ValueError, "q", lambda x: torch.cat([x, x], 2), r"k is .* beside q"),
    (ValueError, "k", lambda x: x[:1], r"k is \(1, 2.*\(3, 2"),
    (ValueError, "k", lambda x: x[:, :1], r"k is \(3, 1.*\(3, 2"),
    (ValueError, "k", lambda x: x[..., :2], r"k is .*4\)"),
    (ValueError, "v", lambda x: x.repeat(1, 2, 1, 1), r"v is \(3, 4.*\(3, 2"),
    (ValueError, "v", lambda x: x[..., :1], r"v is .*3\)"),
    (ValueError, "v", lambda x: torch.cat([x, x], 2), r"v is .* beside q"),
    (ValueError, "q", lambda x: x.requires_grad_(), "q requires grad.*no_grad"),
    (ValueError, "k", lambda x: x.requires_grad_(), "k requires grad"),
    (ValueError, "v", lambda x: x.requires_grad_(), "v requires grad"),
]
OPTIONS: list[tuple[type[Exception], dict[str, Any], str]] = [
    (TypeError, {"scale": "1"}, "scale.*'1'"),
    (TypeError, {"softcap": None}, "softcap.*None"),
    (ValueError, {"softcap": -1.0}, "softcap.*-1"),
    (TypeError, {"sinks": 1.0}, "sinks is of type float"),
    (ValueError, {"sinks": torch.zeros(3, dtype=torch.float64)}, r"sinks is \(3,\).*\(4,\)"),
    (ValueError, {"sinks": torch.zeros(4, dtype=torch.float64, requires_grad=True)}, "sinks requires grad"),
    (TypeError, {"bias": [1.0]}, "bias is of type list"),
    (ValueError, {"bias": torch.zeros(4, 6, dtype=torch.float64)}, r"bias is \(4, 6\).*\(4, 5\) or \(3, 4, \d+, 5\)"),
    (ValueError, {"bias": torch.zeros(1, 4, 1, 5, dtype=torch.float64)}, "bias is"),
    (ValueError, {"bias": torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)}, "bias requires grad"),
    (TypeError, {"bias": torch.zeros(4, 5, dtype=torch.int64)}, "bias.*int64"),
    (TypeError, {"sinks": torch.zeros(4, dtype=torch.int64)}, "sinks.*int64"),
    (TypeError, {"lengths": 1}, r"lengths is 1 \(int\).*each of the 3 rows"),
    (TypeError, {"lengths": torch.ones(3)}, "lengths is torch.float32.*each of the 3 rows"),
    (TypeError, {"lengths": torch.ones(3, dtype=torch.bool)}, "lengths is torch.bool"),
    (TypeError, {"lengths": [1, 1.0, 0]}, r"lengths\[1\] is 1.0"),
    (ValueError, {"lengths": [1, 1]}, "lengths holds 2.*3 rows"),
    (ValueError, {"lengths": torch.ones(3, 1, dtype=torch.int64)}, r"lengths is \(3, 1\).*\(3,\)"),
    (ValueError, {"lengths": [0, -1, 0]}, r"lengths\[1\] is -1"),
    (ValueError, {"lengths": [0, 0, 99]}, r"lengths\[2\] is 99.*at most \d+"),
    (ValueError, {"lengths": torch.ones(3, dtype=torch.int64, device="meta")}, "lengths is on meta.*values"),
]
CROPS: list[tuple[type[Exception], Any, str]] = [
    (ValueError, -1, "n is -1"),
    (ValueError, 4, "n is 4.*at most 3.*spare=3"),
    (ValueError, [0, 1, 4], r"n\[2\] is 4.*at most 3.*spare=3"),
    (ValueError, [0, 1], "n holds 2.*3 rows"),
    (ValueError, torch.zeros(3, 1, dtype=torch.int64), r"n is \(3, 1\)"),
    (ValueError, torch.ones(3, dtype=torch.int64, device="meta"), "n is on meta.*values"),
    (ValueError, torch.ones((), dtype=torch.int64, device="meta"), "n is on meta.*values"),
    (TypeError, 1.0, "n is 1.0"),
    (TypeError, None, "n is None"),
    (TypeError, [0, 1.5, 0], r"n\[1\] is 1.5"),
    (TypeError, torch.ones(3), "n is torch.float32"),
    (TypeError, torch.ones(3, dtype=torch.bool), "n is torch.bool"),
]


@pytest.mark.parametrize("n", [1, 3, 20])
@pytest.mark.parametrize("lengths", ["equal", "different"])
def test_a_refused_call_changes_nothing(n: int, lengths: str) -> None:
    decoder = filled()
    if lengths == "different":
        decoder.reset([1])
        decoder.feed(2)
    before = decoder.cache.state_dict()
    names = ["q", "k", "v"]
    for error, name, break_it, says in CALLS:
        qkv = dict(zip(names, SHAPE.tokens(n), strict=True))
        with pytest.raises(error, match=says) as raised:
            decoder.cache.attend(**(qkv | {name: break_it(qkv[name])}))
        assert raised.type is error and same(before, decoder.cache.state_dict()), says
    for error, options, says in OPTIONS:
        with pytest.raises(error, match=says) as raised:
            decoder.cache.attend(*SHAPE.tokens(n), **options)
        assert raised.type is error and same(before, decoder.cache.state_dict()), says
    decoder.feed(n)


@pytest.mark.parametrize("error, n, says", CROPS, ids=lambda x: str(x)[:40])
def test_a_refused_crop_changes_nothing(error: type[Exception], n: Any, says: str) -> None:
    decoder = filled(Shape(Window(4, 0), batch=3, pinned=2, spare=3))
    before = decoder.cache.state_dict()
    with pytest.raises(error, match=says) as raised:
        decoder.cache.crop(n)
    assert raised.type is error and same(before, decoder.cache.state_dict())
    decoder.crop([3, 0, 1])
    with pytest.raises(ValueError, match=r"n is 1.*at most 0.*3 of which row 0 has forgotten before"):
        decoder.cache.crop(1)
    decoder.crop([0, 3, 2])
    assert decoder.cache.length == 6
    decoder.feed(5)


def test_crops_of_what_is_not_there() -> None:
    decoder = filled(Shape(Window(4, 0), batch=3, spare=3), tokens=2)
    with pytest.raises(ValueError, match=r"n is 3.*at most 2, the tokens that row 0 has"):
        decoder.cache.crop(3)
    decoder.crop([2, 2, 2])
    decoder.reset([1])
    decoder.feed(4)
    decoder.cache.crop(torch.tensor(3))
    assert decoder.cache.length == 1
    with pytest.raises(ValueError, match=r"n is 1.*at most 0.*spare=0"):
        filled().cache.crop(1)
    filled().cache.crop(0)


ROWS: list[tuple[type[Exception], Any, str]] = [
    (ValueError, [3], r"\[0\] is 3"),
    (ValueError, [0, -1], r"\[1\] is -1"),
    (ValueError, torch.tensor([True, False]), r"bool tensor of \(2,\)"),
    (ValueError, torch.zeros(3, 1, dtype=torch.int64), r"\(3, 1\).*one dim"),
    (ValueError, torch.zeros(3, dtype=torch.bool, device="meta"), "on meta.*values"),
    (TypeError, torch.zeros(3), "torch.float32"),
    (TypeError, [1.5], r"\[0\] is 1.5"),
    (TypeError, [True, False, True], r"\[0\] is True"),
    (TypeError, "012", "is '012'"),
]


@pytest.mark.parametrize("error, rows, says", ROWS, ids=lambda x: str(x)[:40])
def test_rows_that_are_not_there(error: type[Exception], rows: Any, says: str) -> None:
    decoder = filled()
    for name, change in (("rows", decoder.cache.reset), ("indices", decoder.cache.reorder)):
        with pytest.raises(error, match=name + ".*" + says):
            change(rows)
    assert decoder.cache.length == 9


@pytest.mark.parametrize("indices", [[], [0], [0, 1, 2, 0], torch.ones(3, dtype=torch.bool), 1], ids=str)
def test_reorder_needs_a_number_for_each_row(indices: Any) -> None:
    with pytest.raises(ValueError, match=r"indices.*each of the 3 rows"):
        filled().cache.reorder(indices)

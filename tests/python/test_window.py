"""tests/python/test_window.py: `Window`: its values, who it contains, and the windows of other projects translated into it."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from window_matmul import Window

pytestmark = pytest.mark.best_backend
BIG = 2**62


def test_values() -> None:
    window = Window(2, 3)
    assert (window.left, window.right, window.dilation, window.width) == (2, 3, 1, 6)
    assert Window(left=2, right=3, dilation=4) == Window(2, 3, 4) != window
    assert Window(0, 0).width == 1
    assert Window(BIG, BIG).width == 2 * BIG + 1
    assert type(Window(np.int32(2), np.int64(3), np.uint8(4)).left) is int
    assert Window(np.int32(2), np.int64(3), np.uint8(4)) == Window(2, 3, 4)


def test_unbounded_sides() -> None:
    assert Window(-1, -1) == Window(None, None)
    assert (Window(-1, 0).left, Window(-1, 0).right) == (None, 0)
    assert (Window(0, -1).left, Window(0, -1).right) == (0, None)
    for window in (Window(None, None), Window(3, None), Window(None, 3)):
        assert window.width is None


def test_it_is_a_frozen_value() -> None:
    window = Window(2, None, 3)
    for name in ("left", "right", "dilation"):
        with pytest.raises(AttributeError):
            setattr(window, name, 1)
    assert len({window, Window(2, -1, 3), Window(2, None)}) == 2
    for other in (copy.copy(window), copy.deepcopy(window), pickle.loads(pickle.dumps(window)), eval(repr(window), {"Window": Window})):
        assert other == window and hash(other) == hash(window)
    assert window != (2, None) and window != Window(2, None, 2)


def test_repr_says_it_all() -> None:
    assert re.findall(r"\w+", repr(Window(2, -1, 3)))[0] == "Window"
    assert re.findall(r"\d+|None", repr(Window(2, -1, 3))) == ["2", "None", "3"]


@pytest.mark.parametrize(
    "value", [True, False, 1.0, 2.5, "2", (1,), [1], {}, 1j, np.float32(2), np.bool_(True), torch.tensor([1, 2])], ids=repr
)
@pytest.mark.parametrize("name", ["left", "right", "dilation"])
def test_wrong_types(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        Window(**{"left": 1, "right": 1, name: value})


@pytest.mark.parametrize(
    "name, value",
    [("left", -2), ("left", -BIG), ("right", -2), ("right", np.int8(-5)), ("dilation", 0), ("dilation", -1), ("dilation", -BIG)],
)
def test_wrong_values(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{int(value)}"):
        Window(**{"left": 1, "right": 1, name: value})


def test_dilation_is_never_unbounded() -> None:
    with pytest.raises(TypeError, match="dilation"):
        Window(1, 1, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Window(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Window(1, 1, 1, 1)  # type: ignore[call-arg]


def test_contains_is_the_definition() -> None:
    for left, right, dilation, shift in itertools.product((0, 1, 3, None), (0, 2, None), (1, 2, 5), (-4, 0, 3)):
        window = Window(left, right, dilation)
        taps = range(-20 if left is None else -left, (20 if right is None else right) + 1)
        for i, j in itertools.product(range(7), range(9)):
            expected = any(j == i + shift + t * dilation for t in taps)
            assert window.contains(i, j, shift) is expected, (window, i, j, shift)
            assert window.contains(i, j, shift=shift) is expected
            if shift == 0:
                assert window.contains(i, j) is expected


side = st.none() | st.integers(0, 5) | st.integers(0, BIG)


@given(side, side, st.integers(1, 4) | st.integers(1, BIG), st.integers(0, 30), st.integers(-9, 9), st.integers(-BIG, BIG))
def test_contains_at_any_size(left: int | None, right: int | None, dilation: int, i: int, t: int, shift: int) -> None:
    inside = (left is None or -t <= left) and (right is None or t <= right)
    j = i + shift + t * dilation
    if j < 0:  # there is no such key
        return
    window = Window(left, right, dilation)
    assert window.contains(i, j, shift) is inside
    assert dilation == 1 or not window.contains(i, j + 1, shift)


CONVERTED: list[tuple[str, tuple[Any, ...], dict[str, Any], Window]] = [
    ("from_hf_causal", (1,), {}, Window(0, 0)),
    ("from_hf_causal", (4096,), {}, Window(4095, 0)),
    ("from_hf_causal", (None,), {}, Window(None, 0)),
    ("from_hf_bidirectional", (65,), {}, Window(64, 64)),
    ("from_hf_bidirectional", (1,), {}, Window(0, 0)),
    ("from_hf_bidirectional", (None,), {}, Window(None, None)),
    ("from_hf_longformer", (512,), {}, Window(256, 256)),
    ("from_hf_longformer", (2,), {}, Window(1, 1)),
    ("from_hf_longformer", (None,), {}, Window(None, None)),
    ("from_allenai_longformer", (256,), {}, Window(256, 256)),
    ("from_allenai_longformer", (256,), {"dilation": 4}, Window(256, 256, 4)),
    ("from_allenai_longformer", (256,), {"autoregressive": True}, Window(256, 0)),
    ("from_allenai_longformer", (7,), {"dilation": 2, "autoregressive": True}, Window(7, 0, 2)),
    ("from_allenai_longformer", (None,), {}, Window(None, None)),
    ("from_allenai_longformer", (None,), {"autoregressive": True}, Window(None, 0)),
    ("from_flash_attn", ((3, 4),), {}, Window(3, 4)),
    ("from_flash_attn", ((-1, -1),), {}, Window(None, None)),
    ("from_flash_attn", ((-1, 4),), {}, Window(None, 4)),
    ("from_flash_attn", ((128, -1),), {}, Window(128, None)),
    ("from_flash_attn", ((None, None),), {}, Window(None, None)),
    ("from_flash_attn", ((128, 0),), {"causal": True}, Window(128, 0)),
    ("from_flash_attn", ((-1, -1),), {"causal": True}, Window(None, 0)),
    ("from_flash_attn", ((0, 0),), {"causal": True}, Window(0, 0)),
    ("from_flash_attn", ((4095, 4095),), {"causal": True}, Window(4095, 0)),
    ("from_transformer_engine", ((3, 4),), {}, Window(3, 4)),
    ("from_transformer_engine", ((-1, -1),), {}, Window(None, None)),
    ("from_transformer_engine", ((-1, 0),), {}, Window(None, 0)),
    ("from_xformers", (3, 4), {}, Window(3, 4)),
    ("from_xformers", (-1, 0), {}, Window(None, 0)),
    ("from_onnx", (3, 4), {}, Window(3, 4)),
    ("from_onnx", (-1, 0), {}, Window(None, 0)),
    ("from_onnx", (), {}, Window(None, None)),
    ("from_onnx", (), {"right_window_size": 0}, Window(None, 0)),
    ("from_onnxruntime", (128,), {}, Window(127, 0)),
    ("from_onnxruntime", (1,), {}, Window(0, 0)),
    ("from_onnxruntime", (-1,), {}, Window(None, 0)),
    ("from_jax", (3,), {}, Window(3, 3)),
    ("from_jax", (3,), {"is_causal": True}, Window(3, 0)),
    ("from_jax", ((3, 4),), {}, Window(3, 4)),
    ("from_jax", ((3, 4),), {"is_causal": True}, Window(3, 0)),
    ("from_jax", (0,), {}, Window(0, 0)),
    ("from_jax", (None,), {}, Window(None, None)),
    ("from_jax", (None,), {"is_causal": True}, Window(None, 0)),
    ("from_keras", (4,), {}, Window(3, 3)),
    ("from_keras", (4,), {"causal": True}, Window(3, 0)),
    ("from_keras", (1,), {}, Window(0, 0)),
    ("from_keras", (None,), {"causal": True}, Window(None, 0)),
    ("from_mlx", (4,), {}, Window(3, 0)),
    ("from_mlx", (1,), {}, Window(0, 0)),
    ("from_mlx", (None,), {}, Window(None, 0)),
    ("from_hf_longt5", (127,), {}, Window(127, 127)),
    ("from_hf_longt5", (0,), {}, Window(0, 0)),
    ("from_cudnn", (128, 0), {}, Window(127, 0)),
    ("from_cudnn", (1, 5), {}, Window(0, 5)),
    ("from_cudnn", (None, 0), {}, Window(None, 0)),
    ("from_cudnn", (None, None), {}, Window(None, None)),
    ("from_flashinfer", (127,), {}, Window(127, 0)),
    ("from_flashinfer", (0,), {}, Window(0, 0)),
    ("from_flashinfer", (-1,), {}, Window(None, 0)),
    ("from_flashinfer", (None,), {}, Window(None, 0)),
    ("from_local_attention", (128,), {}, Window(128, 128)),
    ("from_local_attention", (128,), {"causal": True}, Window(128, 0)),
    ("from_local_attention", (128,), {"look_backward": 2}, Window(256, 128)),
    ("from_local_attention", (128,), {"look_backward": 3, "look_forward": 2}, Window(384, 256)),
    ("from_local_attention", (128,), {"look_forward": 0}, Window(128, 0)),
    ("from_local_attention", (128,), {"causal": True, "look_forward": 0}, Window(128, 0)),
    ("from_local_attention", (128,), {"look_backward": 0, "causal": True}, Window(0, 0)),
]


@pytest.mark.parametrize("name, args, options, expected", CONVERTED, ids=str)
def test_converters(name: str, args: tuple[Any, ...], options: dict[str, Any], expected: Window) -> None:
    assert getattr(Window, name)(*args, **options) == expected


@given(st.integers(1, 10**6))
def test_converters_count_keys_as_the_peer_does(size: int) -> None:
    assert Window.from_hf_causal(size).width == size
    assert Window.from_hf_bidirectional(size).width == 2 * size - 1
    assert Window.from_hf_longformer(2 * size).width == 2 * size + 1
    assert Window.from_flashinfer(size).width == size + 1
    assert Window.from_cudnn(size, 0).width == Window.from_onnxruntime(size).width == Window.from_mlx(size).width == size
    assert Window.from_keras(size).width == 2 * size - 1


WRONG: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any], str]] = [
    (ValueError, "from_hf_causal", (0,), {}, "sliding_window.*0"),  # not -1, which would be unbounded
    (ValueError, "from_hf_causal", (-5,), {}, "sliding_window.*-5"),
    (TypeError, "from_hf_causal", (4.0,), {}, "sliding_window.*4.0"),
    (TypeError, "from_hf_causal", (True,), {}, "sliding_window"),
    (ValueError, "from_hf_bidirectional", (0,), {}, "sliding_window.*0"),
    (ValueError, "from_hf_bidirectional", (-2,), {}, "sliding_window.*-2"),
    (TypeError, "from_hf_bidirectional", ("65",), {}, "sliding_window"),
    (ValueError, "from_hf_longformer", (511,), {}, "attention_window.*511.*even"),
    (ValueError, "from_hf_longformer", (-2,), {}, "attention_window.*-2"),
    (TypeError, "from_hf_longformer", ([512, 512],), {}, "attention_window"),  # the config's list has one for each layer
    (ValueError, "from_allenai_longformer", (-3,), {}, "attention_window.*-3"),
    (ValueError, "from_allenai_longformer", (256,), {"dilation": 0}, "dilation.*0"),
    (TypeError, "from_allenai_longformer", (256,), {"autoregressive": "yes"}, "autoregressive.*yes"),
    (TypeError, "from_allenai_longformer", (2.5,), {}, "attention_window.*2.5"),
    (ValueError, "from_flash_attn", ((3, -2),), {"causal": True}, "window_size.*-2"),
    (ValueError, "from_flash_attn", ((-2, 0),), {}, "window_size.*-2"),
    (ValueError, "from_flash_attn", ((1, 2, 3),), {}, "window_size.*1, 2, 3"),
    (TypeError, "from_flash_attn", (5,), {}, "window_size.*5"),
    (TypeError, "from_flash_attn", ((1.5, 2),), {}, "window_size.*1.5"),
    (TypeError, "from_flash_attn", ((1, 0),), {"causal": 1.0}, "causal"),
    (ValueError, "from_transformer_engine", ((-2, 0),), {}, "window_size.*-2"),
    (TypeError, "from_transformer_engine", (128,), {}, "window_size.*128"),
    (ValueError, "from_xformers", (-2, 0), {}, "window_left.*-2"),
    (TypeError, "from_xformers", (1, 2.0), {}, "window_right.*2.0"),
    (ValueError, "from_onnx", (-2, 0), {}, "left_window_size.*-2"),
    (ValueError, "from_onnx", (3, -2), {}, "right_window_size.*-2"),
    (TypeError, "from_onnx", ((3, 4),), {}, "left_window_size"),
    (ValueError, "from_onnxruntime", (0,), {}, "local_window_size.*0"),
    (ValueError, "from_onnxruntime", (-2,), {}, "local_window_size.*-2"),
    (TypeError, "from_onnxruntime", (128.0,), {}, "local_window_size"),
    (ValueError, "from_jax", (-1,), {}, "local_window_size.*-1"),
    (ValueError, "from_jax", ((2, -1),), {}, "local_window_size.*-1"),
    (ValueError, "from_jax", ((2, -1),), {"is_causal": True}, "local_window_size.*-1"),
    (ValueError, "from_jax", ((1, 2, 3),), {}, "local_window_size.*1, 2, 3"),
    (TypeError, "from_jax", ((2, None),), {}, "local_window_size.*None"),
    (TypeError, "from_jax", (2,), {"is_causal": 1}, "is_causal"),
    (ValueError, "from_keras", (0,), {}, "sliding_window.*0"),
    (ValueError, "from_keras", (-1,), {}, "sliding_window.*-1"),
    (TypeError, "from_keras", (4,), {"causal": None}, "causal"),
    (ValueError, "from_mlx", (0,), {}, "window_size.*0"),
    (ValueError, "from_mlx", (-1,), {}, "window_size.*-1"),
    (ValueError, "from_hf_longt5", (-1,), {}, "local_radius.*-1"),
    (TypeError, "from_hf_longt5", (None,), {}, "local_radius.*None"),
    (ValueError, "from_cudnn", (0, 0), {}, "left_bound.*0"),
    (ValueError, "from_cudnn", (-7, 0), {}, "left_bound.*-7"),
    (ValueError, "from_cudnn", (5, -2), {}, "right_bound.*-2"),
    (TypeError, "from_cudnn", ("5", 0), {}, "left_bound"),
    (ValueError, "from_flashinfer", (-2,), {}, "window_left.*-2"),
    (TypeError, "from_flashinfer", (1.0,), {}, "window_left"),
    (ValueError, "from_local_attention", (128,), {"causal": True, "look_forward": 1}, "look_forward.*1"),
    (ValueError, "from_local_attention", (128,), {"look_backward": -1}, "look_backward.*-1"),
    (ValueError, "from_local_attention", (128,), {"look_forward": -1}, "look_forward.*-1"),
    (ValueError, "from_local_attention", (0,), {}, "window_size.*0"),
    (TypeError, "from_local_attention", (128,), {"look_backward": 1.0}, "look_backward"),
    (TypeError, "from_local_attention", (128,), {"causal": "no"}, "causal"),
    (ValueError, "from_natten", (7,), {}, "(?i)natten.*(edge|end)"),
    (ValueError, "from_natten", (), {"kernel_size": 7, "dilation": 2}, "(?i)natten"),
]


@pytest.mark.parametrize("error, name, args, options, says", WRONG, ids=str)
def test_converters_refuse(error: type[Exception], name: str, args: tuple[Any, ...], options: dict[str, Any], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        getattr(Window, name)(*args, **options)
    assert raised.type is error


def test_options_of_converters_are_keywords() -> None:
    calls = [("from_allenai_longformer", (4, 2)), ("from_flash_attn", ((4, 0), True)), ("from_local_attention", (4, True))]
    for name, args in (*calls, ("from_jax", (4, True)), ("from_keras", (4, True))):
        with pytest.raises(TypeError):
            getattr(Window, name)(*args)


def test_every_converter_is_in_the_tables_here() -> None:
    names = {name for name in dir(Window) if name.startswith("from_")}
    assert names == {name for name, *_ in CONVERTED} | {"from_natten"} == {name for _, name, *_ in WRONG}

"""tests/python/doors/test_compat_numpy_errors.py: what the door for NumPy refuses, with the words of the functions on torch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import window_matmul
from window_matmul import Window
from window_matmul.compat import numpy as door

pytestmark = pytest.mark.best_backend


def arrays(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: x.numpy() if isinstance(x, Tensor) else x for name, x in arguments.items()}


def good() -> dict[str, Any]:
    shapes = {"q": (2, 4, 6, 5), "k": (2, 2, 8, 5), "v": (2, 2, 8, 3), "bias": (2, 4, 6, 4), "sinks": (4,)}
    masks = {name: torch.ones(2, 8, dtype=torch.bool) for name in ("key_mask", "global_tokens")}
    numbers = {"key_lengths": torch.tensor([8, 5]), "query_offset": torch.tensor([2, -1])}
    return {name: torch.randn(shape) for name, shape in shapes.items()} | masks | numbers | {"window_size": (2, 1)}


ONES = torch.ones
REFUSED: list[dict[str, Any]] = [
    *({name: ONES(3)} for name in good() if name != "window_size"),
    *({name: ONES(2, 8).int()} for name in ("q", "k", "bias", "sinks", "key_mask", "global_tokens", "key_lengths")),
    *({name: ONES(2, 4, 6, 5).double()} for name in ("q", "k", "v", "bias", "sinks")),
    {"q": ONES(2, 3, 6, 5)},
    {"k": ONES(1, 2, 8, 5)},
    {"v": ONES(2, 2, 7, 3)},
    {"window_size": -1},
    {"window_size": (1, 2, 3)},
    {"window_size": (None, 0)},
    {"window_size": 2.0},
    {"window_size": (2**62, 1)},
    {"dilation": [1, 2]},
    {"dilation": 0},
    {"window_size": Window(2, 1, 2), "dilation": 3},
    {"scale": float("nan")},
    {"scale": "1"},
    {"softcap": -1.0},
    {"dropout_p": 1.5},
    {"global_tokens": -1},
    {"global_tokens": torch.tensor(True)},
    {"query_offset": 2**61},
    {"query_offset": 0.5},
    {"key_lengths": torch.tensor([8, 9])},
    {"query_offset": torch.tensor([0, 2**61])},
    {"return_lse": 1},
]


@pytest.mark.parametrize("wrong", REFUSED, ids=str)
def test_errors_are_those_of_the_functions_on_torch(wrong: dict[str, Any]) -> None:
    options = good() | wrong
    with pytest.raises((TypeError, ValueError)) as theirs:
        window_matmul.window_attention(**options)
    with pytest.raises(theirs.type) as ours:
        door.window_attention(**arrays(options))
    assert str(ours.value) == str(theirs.value).replace("torch.", "").replace("a tensor (B,)", "an array (B,)")


BAND_REFUSED: list[dict[str, Any]] = [
    {"q": ONES(4)},
    {"q": ONES(6, 5).int()},
    {"k": ONES(5, 8).double()},
    {"k": ONES(4, 8)},
    {"q": ONES(3, 6, 5), "k": ONES(2, 5, 8)},
    {"window_size": None},
    {"window_size": (1, -2)},
    {"window_size": 2**58},
    {"window_size": 2**59},
    {"dilation": (1, 2, 3)},
    {"fill": float("nan")},
    {"fill": "0"},
    {"query_offset": 2**61},
]


@pytest.mark.parametrize("wrong", BAND_REFUSED, ids=str)
def test_errors_of_bands_likewise(wrong: dict[str, Any]) -> None:
    options = {"q": ONES(2, 6, 5), "k": ONES(2, 5, 8), "window_size": 1} | wrong
    with pytest.raises((TypeError, ValueError)) as theirs:
        window_matmul.window_matmul(**options)
    with pytest.raises(theirs.type) as ours:
        door.window_matmul(**arrays(options))
    assert str(ours.value) == str(theirs.value).replace("torch.", "")


class OnAGpu:
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1

    def __dlpack__(self) -> Any:
        raise AssertionError("nobody reads that from here")


X = np.ones((1, 1, 4, 2), np.float32)


@pytest.mark.parametrize(
    "q, error, said",
    [
        ([[1.0]], TypeError, "q is of type list; it needs to be an array"),
        (1.0, TypeError, "q is of type float; it needs to be an array"),
        (np.float32(1), TypeError, "q is of type float32; it needs to be an array"),
        (np.float32(1)[...], ValueError, "q is (); it needs to be (B, H, Lq, D)"),
        (X.astype(">f4"), TypeError, "q is >f4; it needs to be float32"),
        (X.astype(complex), TypeError, "q is complex128; it needs to be float32"),
        (X.astype(object), TypeError, "q is object; it needs to be float32"),
        (np.zeros(X.shape, "U"), TypeError, "q is str32; it needs to be float32"),
        (np.zeros(X.shape, "V0"), TypeError, "q is |V0; it needs to be float32"),
        (np.ma.masked_array(X), TypeError, "q is a masked array; it needs to be a plain one"),
        (np.zeros((1,) * 40, np.float32), ValueError, "it needs to have at most 16 dims"),
        (torch.ones(1, 1, 4, 2, requires_grad=True), ValueError, "q does not give its memory away: "),
        (torch.ones((1,) * 20), ValueError, "q has 20 dims; it needs to have at most 16"),
        (torch.ones(1, 1, 4, 2, device="meta"), ValueError, "q does not give its memory away: "),
        (torch.ones(1, 1, 4, 2, dtype=torch.complex64), TypeError, "q is complex64; it needs to be float32"),
        (OnAGpu(), ValueError, "q is on the device cuda:1; it needs to be on the CPU, where CuPy's cupy.asnumpy brings it"),
    ],
)
def test_what_is_no_array_here(q: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        door.window_attention(q, X, X, 1)
    assert raised.type is error and said in str(raised.value)


def test_out_dtype_and_unknown_options() -> None:
    with pytest.raises(TypeError, match=r"out_dtype is .*float16.* beside q of float32; it needs to be None, float32 or the dtype of q"):
        door.window_attention(X, X, X, 1, out_dtype=np.float16)
    with pytest.raises(TypeError, match="unexpected keyword argument 'deterministic'"):
        door.window_attention(X, X, X, 1, deterministic=True)  # type: ignore[call-overload]

"""tests/python/test_errors.py: every argument of every public function with a wrong type, value, rank, size, dtype or device.

The exception is exactly TypeError or ValueError; its message names the argument, what it got and what it needs.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from window_matmul import Window, unwindow_matmul, window_matmul, window_softmax

pytestmark = pytest.mark.best_backend
FUNCTIONS = {f.__name__: f for f in (window_matmul, unwindow_matmul, window_softmax)}
TENSORS = {"window_matmul": ("q", "k"), "unwindow_matmul": ("a", "v"), "window_softmax": ("a",)}
SHAPES = {"q": (2, 3, 6, 4), "k": (2, 3, 4, 8), "a": (2, 3, 6, 4), "v": (2, 3, 8, 4)}
NEED = r"(?s)(need|must|at least|expected)"


def good(name: str) -> dict[str, Any]:
    tensors = {t: torch.randn(SHAPES[t]) for t in TENSORS[name]}
    return tensors | {"window_size": (2, 1)} | ({"num_keys": 8} if name == "window_softmax" else {})


def refused(error: type[Exception], name: str, argument: str, got: str, **wrong: Any) -> None:
    """The call with some arguments changed raises this error; its message names `argument`, `got` and a need."""
    with pytest.raises(error) as raised:
        FUNCTIONS[name](**(good(name) | wrong))
    message = str(raised.value)
    assert raised.type is error, f"{raised.type}: {message}"
    assert re.search(rf"\b{argument}\b", message), f"does not name {argument}: {message}"
    assert got in message, f"does not say {got}: {message}"
    assert re.search(NEED, message), f"does not say what is needed: {message}"


by_function = pytest.mark.parametrize("name", FUNCTIONS)
by_tensor = pytest.mark.parametrize("name, tensor", [(name, tensor) for name, tensors in TENSORS.items() for tensor in tensors])


@by_function
def test_the_calls_that_are_varied_here_are_right(name: str) -> None:
    FUNCTIONS[name](**good(name))


# ---- window_size ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "window", [True, False, 1.0, 2.5, "3", 1j, {}, {1, 2}, b"12", np.float64(1), np.bool_(True), torch.tensor(1.5), range(2)], ids=repr
)
@by_function
def test_window_of_a_wrong_type(name: str, window: Any) -> None:
    refused(TypeError, name, "window_size", repr(window), window_size=window)


@pytest.mark.parametrize("side", [True, 1.0, "1", (1,), [1], 1j, np.float32(1), np.bool_(False)], ids=repr)
@by_function
def test_side_of_a_wrong_type(name: str, side: Any) -> None:
    for window in ((side, 1), (2, side)):
        refused(TypeError, name, "window_size", repr(side), window_size=window)


@pytest.mark.parametrize("window", [(), (1,), (1, 2, 3), (1, 1, 1, 1), [], [1, 2, 3], ()], ids=repr)
@by_function
def test_window_that_is_no_pair(name: str, window: Any) -> None:
    refused(ValueError, name, "window_size", repr(window), window_size=window)


@pytest.mark.parametrize(
    "window", [-1, -2, -(2**62), np.int64(-1), (-2, 1), (2, -3), (-(2**62), 1), 2**62, 2**63, 2**100, (2**62, 0), (0, 2**64)], ids=repr
)
@by_function
def test_window_out_of_range(name: str, window: Any) -> None:
    got = min((s for s in window if s not in (0, 1, 2)), key=abs) if isinstance(window, tuple) else int(window)
    refused(ValueError, name, "window_size", str(got), window_size=window)


@pytest.mark.parametrize(
    "window",
    [None, (None, None), (None, 1), (2, None), (-1, 1), (2, -1), Window(None, 1), Window(2, -1), Window.from_flash_attn((-1, -1))],
    ids=repr,
)
@by_function
def test_unbounded_window(name: str, window: Any) -> None:
    """A band has left + 1 + right columns: neither side may be unbounded, and none is silently taken for the whole sequence."""
    refused(ValueError, name, "window_size", repr(window), window_size=window)
    with pytest.raises(ValueError, match="bounded"):
        FUNCTIONS[name](**(good(name) | {"window_size": window}))


@by_function
def test_numbers_of_numpy_are_numbers(name: str) -> None:
    call = FUNCTIONS[name]
    kwargs = good(name)
    expected = call(**kwargs)
    for window in ((np.int64(2), np.int8(1)), (np.uint32(2), 1), Window(np.int16(2), 1)):
        assert torch.equal(call(**(kwargs | {"window_size": window, "dilation": np.int32(1), "query_offset": np.int64(2)})), expected)


# ---- dilation, query_offset, num_keys, fill --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dilation", [True, 1.0, "2", None, 1j, {}, {1: 2}, np.float64(1), torch.tensor([1, 2, 3])], ids=repr)
@by_function
def test_dilation_of_a_wrong_type(name: str, dilation: Any) -> None:
    refused(TypeError, name, "dilation", type(dilation).__name__, dilation=dilation)


@pytest.mark.parametrize("dilation", [(1, 2.0, 3), (1, True, 3), ("1", 1, 1), (1, None, 1), [[1], 1, 1]], ids=repr)
@by_function
def test_dilation_of_a_head_of_a_wrong_type(name: str, dilation: Any) -> None:
    with pytest.raises(TypeError, match=r"dilation"):
        FUNCTIONS[name](**(good(name) | {"dilation": dilation}))


@pytest.mark.parametrize("dilation", [0, -1, -(2**62), np.int64(0), 2**63, 2**200], ids=repr)
@by_function
def test_dilation_out_of_range(name: str, dilation: Any) -> None:
    refused(ValueError, name, "dilation", str(int(dilation)), dilation=dilation)
    refused(ValueError, name, "dilation", str(int(dilation)), dilation=(1, dilation, 1))


@pytest.mark.parametrize("dilation", [(), [], (1,), [1], (2,), (1, 1), (1, 2, 3, 4), (1,) * 6], ids=repr)
@by_function
def test_dilation_for_another_number_of_heads(name: str, dilation: Any) -> None:
    refused(ValueError, name, "dilation", repr(dilation), dilation=dilation)


@by_function
def test_dilation_for_heads_that_are_not_there(name: str) -> None:
    flat = {t: torch.randn(SHAPES[t][2:]) for t in TENSORS[name]}
    for dilation in ((1,), (2,), [1, 2, 3]):
        refused(ValueError, name, "dilation", repr(dilation), dilation=dilation, **flat)


@by_function
def test_a_window_with_a_dilation_beside_another(name: str) -> None:
    for dilation in (2, (2, 2, 2), (3, 3, 1)):
        refused(ValueError, name, "dilation", repr(dilation), window_size=Window(2, 1, 3), dilation=dilation)
    refused(ValueError, name, "dilation", "2", window_size=Window(2, 1), dilation=2)
    one_head = {t: torch.randn(1, *SHAPES[t][2:]) for t in TENSORS[name]}
    refused(ValueError, name, "dilation", "[1]", window_size=Window(2, 1, 3), dilation=[1], **one_head)


@pytest.mark.parametrize("offset", [True, 1.0, "2", (1,), [1], 1j, np.float64(1)], ids=repr)
@by_function
def test_query_offset_of_a_wrong_type(name: str, offset: Any) -> None:
    refused(TypeError, name, "query_offset", repr(offset), query_offset=offset)


@pytest.mark.parametrize("offset", [2**63, -(2**63) - 1, 2**100, -(2**100)], ids=repr)
@by_function
def test_query_offset_that_no_length_has(name: str, offset: int) -> None:
    refused(ValueError, name, "query_offset", str(offset), query_offset=offset)


@pytest.mark.parametrize("number", [True, 1.0, "2", (1,), [1], 1j, np.float64(1)], ids=repr)
def test_num_keys_of_a_wrong_type(number: Any) -> None:
    refused(TypeError, "window_softmax", "num_keys", repr(number), num_keys=number)


@pytest.mark.parametrize("number", [-1, -(2**62), np.int64(-5), 2**63, 2**100], ids=repr)
def test_num_keys_out_of_range(number: Any) -> None:
    refused(ValueError, "window_softmax", "num_keys", str(int(number)), num_keys=number)


@pytest.mark.parametrize("fill", [None, "0", 1j, (0.0,), [0.0], True, torch.tensor([0.0]), np.complex64(0)], ids=repr)
def test_fill_of_a_wrong_type(fill: Any) -> None:
    refused(TypeError, "window_matmul", "fill", type(fill).__name__, fill=fill)


@pytest.mark.parametrize("fill", [float("nan"), -float("nan"), np.float32("nan"), 10**400], ids=lambda f: repr(f)[:12])
def test_fill_that_is_no_number(fill: Any) -> None:
    refused(ValueError, "window_matmul", "fill", repr(fill)[:12], fill=fill)


# ---- tensors ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "wrong", [None, 1.0, "q", [[1.0]], np.zeros((2, 3, 6, 4), np.float32), torch.float32], ids=lambda x: type(x).__name__
)
@by_tensor
def test_no_tensor(name: str, tensor: str, wrong: Any) -> None:
    refused(TypeError, name, tensor, type(wrong).__name__, **{tensor: wrong})


OTHER_DTYPES = [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.complex32, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@by_tensor
def test_dtype_without_kernels(name: str, tensor: str, dtype: torch.dtype) -> None:
    for tensors in ((tensor,), TENSORS[name]):
        refused(
            TypeError,
            name,
            tensor if len(tensors) == 1 else tensors[0],
            str(dtype),
            **{t: torch.zeros(SHAPES[t]).to(dtype) for t in tensors},
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@by_tensor
def test_dtypes_that_differ(name: str, tensor: str, dtype: torch.dtype) -> None:
    if len(TENSORS[name]) == 2:
        refused(TypeError, name, tensor, str(dtype), **{tensor: torch.zeros(SHAPES[tensor], dtype=dtype)})


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:.*quantize", "ignore:.*nested tensors")
@by_tensor
def test_layouts_without_strides(name: str, tensor: str) -> None:
    dense = torch.zeros(6, 4) if tensor in "qa" else torch.zeros(SHAPES[tensor][2:])
    others: dict[str, Tensor] = {t: torch.zeros(SHAPES[t][2:]) for t in TENSORS[name]}
    for wrong in (dense.to_sparse(), dense.to_sparse_csr(), dense.to_mkldnn()):
        refused(TypeError, name, tensor, str(wrong.layout), **(others | {tensor: wrong}))
    nested = torch.nested.nested_tensor([torch.zeros(6, 4), torch.zeros(5, 4)], layout=torch.jagged)
    refused(TypeError, name, tensor, "nested", **(others | {tensor: nested}))
    quantized = torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)
    refused(TypeError, name, tensor, "qint8", **(others | {tensor: quantized}))


@by_tensor
def test_devices_that_differ(name: str, tensor: str) -> None:
    if len(TENSORS[name]) == 2:
        refused(ValueError, name, tensor, "meta", **{tensor: torch.zeros(SHAPES[tensor], device="meta")})


@by_tensor
def test_too_few_dims(name: str, tensor: str) -> None:
    for shape in ((), (4,)):
        refused(ValueError, name, tensor, str(tuple(shape)), **{tensor: torch.zeros(shape)})


@by_tensor
def test_too_many_dims(name: str, tensor: str) -> None:
    """Either the result, or an error that says how many there may be."""
    many = torch.zeros((1,) * 30 + SHAPES[tensor])
    try:
        result = FUNCTIONS[name](**(good(name) | {tensor: many}))
    except ValueError as error:
        assert tensor in str(error) and "dims" in str(error)
    else:
        assert result.ndim == many.ndim


@pytest.mark.parametrize(
    "name, tensor, shape",
    [
        ("window_matmul", "q", (2, 3, 6, 5)),
        ("window_matmul", "k", (2, 3, 5, 8)),
        ("window_matmul", "k", (2, 3, 8, 4)),  # not transposed
        ("window_matmul", "q", (2, 3, 6, 0)),
        ("window_matmul", "q", (2, 2, 6, 4)),
        ("window_matmul", "k", (3, 3, 4, 8)),
        ("window_matmul", "k", (0, 3, 4, 8)),
        ("unwindow_matmul", "a", (2, 3, 6, 3)),
        ("unwindow_matmul", "a", (2, 3, 6, 5)),
        ("unwindow_matmul", "a", (2, 3, 6, 0)),
        ("unwindow_matmul", "a", (2, 4, 6, 4)),
        ("unwindow_matmul", "v", (2, 4, 8, 4)),
        ("unwindow_matmul", "v", (5, 1, 2, 8, 4)),
        ("window_softmax", "a", (2, 3, 6, 5)),
        ("window_softmax", "a", (2, 3, 6, 1)),
        ("window_softmax", "a", (6, 0)),
    ],
)
def test_shapes_that_do_not_fit(name: str, tensor: str, shape: tuple[int, ...]) -> None:
    refused(ValueError, name, tensor, str(shape), **{tensor: torch.zeros(shape)})


@by_function
def test_arguments_that_are_not_there(name: str) -> None:
    kwargs = good(name)
    for missing in kwargs:
        if missing != "num_keys":
            with pytest.raises(TypeError, match=missing):
                FUNCTIONS[name](**{key: value for key, value in kwargs.items() if key != missing})
    with pytest.raises(TypeError, match="scale"):
        FUNCTIONS[name](**kwargs, scale=1.0)
    with pytest.raises(TypeError, match="positional"):
        FUNCTIONS[name](*kwargs.values(), *(() if name == "window_softmax" else (1,)))  # options are keywords


def test_errors_under_autocast_are_the_same() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name in FUNCTIONS:
            refused(
                TypeError, name, TENSORS[name][0], "int64", **{TENSORS[name][0]: torch.zeros(SHAPES[TENSORS[name][0]], dtype=torch.int64)}
            )
            refused(ValueError, name, "window_size", "-3", window_size=-3)

"""tests/python/test_attention_errors.py: numbers, windows and flags of fused attention of a wrong type or value.

The exception is exactly TypeError or ValueError; its message names the argument, what it got and what it needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention_refusals import FUNCTIONS, by_function, good, refused
from window_matmul import Window, window_attention, window_attention_varlen

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend


@by_function
def test_the_calls_that_are_varied_here_are_right(name: str) -> None:
    FUNCTIONS[name](**good(name))


# ---- window_size, dilation, query_offset ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("window", [True, 1.0, "3", 1j, {}, {1, 2}, np.float64(1), np.bool_(True), torch.tensor(1.5), range(2)], ids=repr)
@by_function
def test_window_of_a_wrong_type(name: str, window: Any) -> None:
    refused(TypeError, name, "window_size", repr(window), window_size=window)
    for pair in ((window, 1), (2, window)):
        refused(TypeError, name, "window_size", repr(window), window_size=pair)


@pytest.mark.parametrize("window", [-1, -2, -(2**62), np.int64(-1), (-2, 1), (2, -3), (), (1,), (1, 2, 3), []], ids=repr)
@by_function
def test_window_of_a_wrong_value(name: str, window: Any) -> None:
    got = str(min(window)) if isinstance(window, tuple) and len(window) == 2 else str(window)
    refused(ValueError, name, "window_size", got, window_size=window)


@pytest.mark.parametrize("window", [None, (None, 1), (2, -1), Window(None, 0), (2, 2**62)], ids=repr)
@by_function
def test_bias_with_an_unbounded_window(name: str, window: Any) -> None:
    refused(ValueError, name, "bias", "bounded", window_size=window)
    FUNCTIONS[name](**(good(name) | {"window_size": window, "bias": None}))


@pytest.mark.parametrize(
    "dilation", [True, 1.0, "2", None, {}, np.float64(1), torch.tensor([1, 2]), (1, 2.0, 3, 1), ("1", 1, 1, 1)], ids=repr
)
@by_function
def test_dilation_of_a_wrong_type(name: str, dilation: Any) -> None:
    refused(TypeError, name, "dilation", "", dilation=dilation)


@pytest.mark.parametrize("dilation", [0, -1, 2**63, (1, 0, 1, 1), (1, 1, -3, 1), (), (1,), (2, 2), (1,) * 5, [1] * 6], ids=repr)
@by_function
def test_dilation_of_a_wrong_value(name: str, dilation: Any) -> None:
    got = "" if isinstance(dilation, tuple) and len(dilation) == 4 else str(dilation)
    refused(ValueError, name, "dilation", got, dilation=dilation)


@by_function
def test_a_window_with_a_dilation_beside_another(name: str) -> None:
    refused(ValueError, name, "dilation", "2", window_size=Window(2, 1, 3), dilation=2)
    refused(ValueError, name, "dilation", "(3, 3, 3, 1)", window_size=Window(2, 1, 3), dilation=(3, 3, 3, 1))


@pytest.mark.parametrize("offset", [True, 1.0, "2", (1,), np.float64(1)], ids=repr)
def test_query_offset_of_a_wrong_type(offset: Any) -> None:
    refused(TypeError, "window_attention", "query_offset", repr(offset), query_offset=offset)
    with pytest.raises(TypeError, match=r"a tensor \(B,\)"):
        window_attention(**(good("window_attention") | {"query_offset": offset}))


def test_ints_without_a_value() -> None:
    nothing = torch.empty((), dtype=torch.int64, device="meta")
    for argument in ("window_size", "query_offset", "global_tokens"):
        refused(TypeError, "window_attention", argument, "meta", **{argument: nothing})


def test_an_offset_that_is_one_number_in_a_tensor_is_an_int() -> None:
    arguments = good("window_attention")
    plain, tensor = (window_attention(**(arguments | {"query_offset": offset})) for offset in (1, torch.tensor(1)))
    assert torch.equal(plain, tensor)


@pytest.mark.parametrize("offset", [2**63, -(2**61)], ids=repr)
def test_query_offset_that_no_length_has(offset: int) -> None:
    refused(ValueError, "window_attention", "query_offset", str(offset), query_offset=offset)


# ---- numbers -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("argument", ["scale", "softcap", "dropout_p"])
@pytest.mark.parametrize(
    "wrong", ["1", True, 1j, (1.0,), torch.tensor(1.0), torch.ones(2), torch.ones(1, device="meta"), np.complex64(0)], ids=repr
)
@by_function
def test_number_of_a_wrong_type(name: str, wrong: Any, argument: str) -> None:
    refused(TypeError, name, argument, type(wrong).__name__, **{argument: wrong})


@pytest.mark.parametrize(
    "argument, wrong",
    [("scale", x) for x in (float("nan"), float("inf"), -float("inf"), 10**400)]
    + [("softcap", x) for x in (-1.0, -1e-9, float("nan"), float("inf"), 10**400)]
    + [("dropout_p", x) for x in (-0.1, 1.5, -1, 2, float("nan"), float("inf"))],
    ids=lambda x: repr(x)[:12],
)
@by_function
def test_number_out_of_range(name: str, argument: str, wrong: Any) -> None:
    refused(ValueError, name, argument, repr(wrong)[:12], **{argument: wrong})


@pytest.mark.parametrize("argument", ["softcap", "dropout_p"])
@by_function
def test_numbers_that_may_not_be_left_out(name: str, argument: str) -> None:
    refused(TypeError, name, argument, "None", **{argument: None})


@by_function
def test_numbers_of_numpy_are_numbers(name: str) -> None:
    plain = good(name) | {"global_tokens": 2}
    expected = FUNCTIONS[name](**plain, scale=0.5, softcap=2.0)
    got = FUNCTIONS[name](
        **(plain | {"window_size": (np.int64(2), np.int8(1)), "global_tokens": np.int32(2)}), scale=np.float32(0.5), softcap=2
    )
    assert torch.equal(got, expected)


@by_function
def test_scale_without_a_head_dim(name: str) -> None:
    empty = {t: good(name)[t][..., :0] for t in "qk"}
    refused(ValueError, name, "scale", "None", **empty)
    FUNCTIONS[name](**(good(name) | empty), scale=1.0)


@pytest.mark.parametrize("wrong", [None, 0, 1, "yes", torch.tensor(True)], ids=repr)
@by_function
def test_return_lse_is_a_flag(name: str, wrong: Any) -> None:
    refused(TypeError, name, "return_lse", type(wrong).__name__, return_lse=wrong)


@pytest.mark.parametrize("wrong", [True, 1.5, "2", (1,), [True]], ids=repr)
@by_function
def test_global_tokens_of_a_wrong_type(name: str, wrong: Any) -> None:
    refused(TypeError, name, "global_tokens", repr(wrong), global_tokens=wrong)


@by_function
def test_global_tokens_below_zero(name: str) -> None:
    for wrong in (-1, -(2**62)):
        refused(ValueError, name, "global_tokens", str(wrong), global_tokens=wrong)
    FUNCTIONS[name](**(good(name) | {"global_tokens": 2**200}))


@by_function
def test_arguments_that_are_not_there(name: str) -> None:
    arguments = good(name)
    for missing in ("q", "k", "v", "window_size"):
        with pytest.raises(TypeError, match=missing):
            FUNCTIONS[name](**{key: value for key, value in arguments.items() if key != missing})
    with pytest.raises(TypeError, match="causal"):
        FUNCTIONS[name](**arguments, causal=True)
    positional = [arguments[key] for key in ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "window_size") if key in arguments]
    with pytest.raises(TypeError, match="positional"):
        FUNCTIONS[name](*positional, 1)  # options are keywords
    for option in ("query_offset", "key_lengths"):
        with pytest.raises(TypeError, match=option):
            window_attention_varlen(**good("window_attention_varlen"), **{option: None})


@by_function
def test_errors_under_autocast_are_the_same(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refused(TypeError, name, "q", "int64", q=good(name)["q"].long())
        refused(TypeError, name, "bias", "int64", bias=good(name)["bias"].long())
        refused(ValueError, name, "window_size", "-3", window_size=-3)

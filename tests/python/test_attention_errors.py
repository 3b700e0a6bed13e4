"""tests/python/test_attention_errors.py: every argument of fused attention with a wrong type, value, shape, dtype or device.

The exception is exactly TypeError or ValueError; its message names the argument, what it got and what it needs.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from window_matmul import Window, window_attention, window_attention_varlen

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend
FUNCTIONS = {f.__name__: f for f in (window_attention, window_attention_varlen)}
TENSORS = ("q", "k", "v", "bias", "sinks", "key_mask", "global_tokens")
ALL = (*TENSORS, "cu_seqlens_q", "cu_seqlens_k")
NEED = r"(?s)(need|must)"
by_function = pytest.mark.parametrize("name", FUNCTIONS)


def good(name: str) -> dict[str, Any]:
    """H = 4, Hkv = 2, Lq = 6, Lk = 8, W = 4, and packed the same twice, as two sequences."""
    shapes = {"q": (2, 4, 6, 5), "k": (2, 2, 8, 5), "v": (2, 2, 8, 3), "bias": (2, 4, 6, 4), "sinks": (4,)}
    masks: tuple[int, ...] = (2, 8)
    if name == "window_attention_varlen":
        shapes = {"q": (12, 4, 5), "k": (16, 2, 5), "v": (16, 2, 3), "bias": (4, 12, 4), "sinks": (4,)}
        masks = (16,)
    arguments: dict[str, Any] = {key: torch.randn(shape) for key, shape in shapes.items()}
    arguments |= {"key_mask": torch.ones(masks, dtype=torch.bool), "global_tokens": torch.zeros(masks, dtype=torch.bool)}
    if name == "window_attention_varlen":
        arguments |= {"cu_seqlens_q": torch.tensor([0, 6, 12]), "cu_seqlens_k": torch.tensor([0, 8, 16])}
    return arguments | {"window_size": (2, 1)}


def refused(error: type[Exception], name: str, argument: str, got: str, **wrong: Any) -> None:
    """The call with some arguments changed raises this error; its message names `argument`, `got` and a need."""
    with pytest.raises(error) as raised:
        FUNCTIONS[name](**(good(name) | wrong))
    message = str(raised.value)
    assert raised.type is error, f"{raised.type}: {message}"
    assert re.search(rf"\b{argument}\b", message), f"does not name {argument}: {message}"
    assert got in message, f"does not say {got}: {message}"
    assert re.search(NEED, message), f"does not say what is needed: {message}"


def tensors_of(name: str) -> list[str]:
    return [t for t in ALL if t in good(name)]


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


@pytest.mark.parametrize("offset", [2**63, -(2**61)], ids=repr)
def test_query_offset_that_no_length_has(offset: int) -> None:
    refused(ValueError, "window_attention", "query_offset", str(offset), query_offset=offset)


# ---- numbers -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("argument", ["scale", "softcap", "dropout_p"])
@pytest.mark.parametrize("wrong", ["1", True, 1j, (1.0,), torch.tensor(1.0), np.complex64(0)], ids=repr)
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


# ---- tensors -------------------------------------------------------------------------------------------------------------------------
@by_function
def test_no_tensor(name: str) -> None:
    for tensor in tensors_of(name):
        for wrong in ("q", [[1.0]], np.zeros((2, 8), np.float32), torch.float32):
            refused(TypeError, name, tensor, type(wrong).__name__, **{tensor: wrong})
        if tensor in ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k"):
            refused(TypeError, name, tensor, "NoneType", **{tensor: None})


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@by_function
def test_dtypes_that_are_not_taken(name: str) -> None:
    for tensor in tensors_of(name):
        right: set[torch.dtype] = {torch.float32, torch.float64, torch.bfloat16, torch.float16}
        if "mask" in tensor or "global" in tensor:
            right = {torch.bool}
        if "cu_" in tensor:
            right = {torch.int32, torch.int64}
        every = {
            torch.float32,
            torch.int64,
            torch.int32,
            torch.int8,
            torch.uint8,
            torch.bool,
            torch.complex64,
            torch.float8_e4m3fn,
            torch.float16,
        }
        for dtype in every - right:
            refused(TypeError, name, tensor, str(dtype), **{tensor: torch.zeros(good(name)[tensor].shape).to(dtype)})


@by_function
def test_dtypes_that_differ(name: str) -> None:
    for tensor in ("k", "v", "bias", "sinks"):
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            refused(TypeError, name, tensor, str(dtype), **{tensor: good(name)[tensor].to(dtype)})
    halves = {t: x.bfloat16() for t, x in good(name).items() if t in "qkv"}
    FUNCTIONS[name](**(good(name) | halves))  # bias and sinks may be wider
    refused(TypeError, name, "bias", "float64", **halves, bias=good(name)["bias"].double())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:.*nested tensors")
@by_function
def test_layouts_without_strides(name: str) -> None:
    for tensor in tensors_of(name):
        refused(TypeError, name, tensor, "sparse", **{tensor: good(name)[tensor].to_sparse()})
    nested = torch.nested.nested_tensor([torch.zeros(6, 4), torch.zeros(5, 4)], layout=torch.jagged)
    refused(TypeError, name, "q", "nested", q=nested)


@by_function
def test_devices(name: str) -> None:
    for tensor in tensors_of(name):
        culprit = "k" if tensor == "q" else tensor
        refused(ValueError, name, culprit, "meta", **{tensor: good(name)[tensor].to("meta")})


def shapes_that_do_not_fit() -> list[tuple[str, str, tuple[int, ...]]]:
    plain = {
        "q": [(4, 6, 5), (1, 2, 4, 6, 5), (2, 3, 6, 5), (2, 4, 6, 4), (1, 4, 6, 5), (5,), ()],
        "k": [(2, 8, 5), (2, 2, 8, 4), (2, 2, 7, 5), (1, 2, 8, 5), (2, 3, 8, 5), (2, 0, 8, 5), (2, 8, 8, 5)],
        "v": [(2, 2, 8), (2, 2, 7, 3), (2, 1, 8, 3), (1, 2, 8, 3)],
        "bias": [(4, 3), (3, 4), (2, 4), (1, 4, 6, 4), (2, 1, 6, 4), (2, 4, 6, 5), (2, 4, 1, 4), (4,), (4, 6, 4), (1, 1, 1, 1)],
        "sinks": [(), (1,), (3,), (4, 1), (2, 4), (0,)],
        "key_mask": [(8,), (2, 7), (1, 8), (2, 1), (2, 6), (2, 8, 1), ()],
        "global_tokens": [(8,), (2, 7), (1, 8), (2, 8, 1), ()],
    }
    packed = {
        "q": [(2, 4, 6, 5), (12, 3, 5), (12, 4, 4), (11, 4, 5), (13, 4, 5), (5,)],
        "k": [(16, 2, 4), (15, 2, 5), (16, 3, 5), (16, 0, 5), (2, 2, 8, 5)],
        "v": [(16, 2), (15, 2, 3), (16, 1, 3)],
        "bias": [(4, 3), (12, 4, 4), (4, 11, 4), (4, 12, 5), (1, 4, 12, 4)],
        "sinks": [(), (1,), (4, 1)],
        "key_mask": [(15,), (1, 16), (2, 8), ()],
        "global_tokens": [(15,), (1, 16), (2, 8)],
        "cu_seqlens_q": [(), (0,), (1, 3), (3, 1)],
        "cu_seqlens_k": [(), (0,), (1, 3)],
    }
    tables = zip(FUNCTIONS, (plain, packed), strict=True)
    return [(name, tensor, shape) for name, table in tables for tensor, shapes in table.items() for shape in shapes]


@pytest.mark.parametrize("name, tensor, shape", shapes_that_do_not_fit())
def test_shapes_that_do_not_fit(name: str, tensor: str, shape: tuple[int, ...]) -> None:
    """q and k may be at odds with each other: either is named."""
    right = good(name)[tensor]
    wrong = right.new_zeros(shape)
    if tensor == "q" and shape in ((11, 4, 5), (13, 4, 5)):  # all right by itself, but not with the sequences
        refused(ValueError, name, "cu_seqlens_q", str(shape[0]), q=wrong, bias=None)
        return
    argument = {"q": "[qk]", "k": "[kv]"}.get(tensor, tensor)
    refused(ValueError, name, argument, str(shape), **{tensor: wrong})


@pytest.mark.parametrize(
    "ends", [[0, 6, 11], [0, 6, 13], [1, 6, 12], [-1, 6, 12], [0, 7, 6, 12], [0, 13, 12], [0, -1, 12], [12, 6, 0]], ids=str
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_sequences_that_are_none(ends: list[int], dtype: torch.dtype) -> None:
    name = "window_attention_varlen"
    for argument, scale in (("cu_seqlens_q", 1), ("cu_seqlens_k", 16 / 12)):
        scaled = [int(end * scale) for end in ends]
        refused(
            ValueError, name, argument, str(scaled[-1]) if ends[-1] in (11, 13) else "", **{argument: torch.tensor(scaled, dtype=dtype)}
        )


def test_numbers_of_sequences_that_differ() -> None:
    refused(ValueError, "window_attention_varlen", "cu_seqlens_k", "4", cu_seqlens_k=torch.tensor([0, 8, 9, 16]))


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
    with pytest.raises(TypeError, match="query_offset"):
        window_attention_varlen(**good("window_attention_varlen"), query_offset=0)


@by_function
def test_errors_under_autocast_are_the_same(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refused(TypeError, name, "q", "int64", q=good(name)["q"].long())
        refused(TypeError, name, "bias", "int64", bias=good(name)["bias"].long())
        refused(ValueError, name, "window_size", "-3", window_size=-3)


# ---- the library behind it checks for itself -----------------------------------------------------------------------------------------
def test_the_operators_refuse_what_would_be_read_beyond_its_end() -> None:
    op = torch.ops.window_matmul.attention
    q, mask, ends = torch.randn(1, 2, 6, 4), torch.ones(1, 6, dtype=torch.bool), torch.tensor([0, 6])

    def call(
        q=q, k=q, v=q, bias=None, sinks=None, key_mask=None, global_mask=None, cu_q=None, cu_k=None, seed=None, **numbers: Any
    ) -> None:  # type: ignore[no-untyped-def]
        band, reals = numbers.get("band", [2, 1, 0]), numbers.get("reals", [0.0, 0.0])
        op(q, k, v, bias, sinks, key_mask, global_mask, cu_q, cu_k, seed, band, 0, numbers.get("global_tokens", 0), reals)

    call(key_mask=mask, global_mask=mask, cu_q=None)
    call(key_mask=mask, cu_q=ends, cu_k=ends)
    for name, wrong in {
        "q": {"q": q[0]},
        "k": {"k": q[:, :, :, :3]},
        "v": {"v": q[:, :, :5]},
        "bias": {"bias": torch.randn(2, 3)},
        "sinks": {"sinks": torch.randn(3)},
        "key_mask": {"key_mask": mask[:, :5]},
        "global_mask": {"global_mask": mask.float()},
        "cu_seqlens_q": {"cu_q": ends},
        "cu_seqlens_k": {"cu_q": ends, "cu_k": torch.tensor([0, 7])},
        "seed": {"reals": [0.0, 0.5]},
        "band": {"band": [2]},
        "reals": {"reals": [0.0]},
        "global_tokens": {"global_tokens": -1},
        "left": {"band": [-1, 1, 0]},
        "dilation": {"band": [1, 1, 0, 1, 2, 3]},
    }.items():
        with pytest.raises(ValueError, match=rf"(?s)\b{name}\b.*need"):
            call(**wrong)
    back = torch.ops.window_matmul.attention_backward
    with torch.no_grad():
        out, lse = op(q, q, q, *[None] * 7, [2, 1, 0], 0, 0, [0.0, 0.0])
    rest = (q, q, q, *[None] * 7, [2, 1, 0], 0, 0, [0.0, 0.0])
    for name, wrong_args in {
        "d_out": (out[:, :, :5], None, out, lse, *rest, 7),
        "d_lse": (out, lse[:, :, :5], out, lse, *rest, 7),
        "out": (out, None, out[..., :3], lse, *rest, 7),
        "lse": (out, None, out, lse.double(), *rest, 7),
        "wanted": (out, None, out, lse, *rest, 15),
    }.items():
        with pytest.raises(ValueError, match=rf"(?s)\b{name}\b.*need"):
            back(*wrong_args)

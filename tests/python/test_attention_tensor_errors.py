"""tests/python/test_attention_tensor_errors.py: tensors of a wrong dtype, layout, device or shape, and no sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention_refusals import FUNCTIONS, INTEGERS, by_function, good, refused, tensors_of

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend


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
        if tensor in INTEGERS:
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
        "key_lengths": [(), (1,), (3,), (2, 1), (0,)],
        "query_offset": [(1,), (3,), (2, 1), (0,)],  # () is an int
    }
    packed = {
        "q": [(2, 4, 6, 5), (12, 3, 5), (12, 4, 4), (11, 4, 5), (5,)],
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
    if tensor == "q" and shape == (11, 4, 5):  # all right by itself, but not with the sequences
        refused(ValueError, name, "cu_seqlens_q", str(shape[0]), q=wrong, bias=None)
        return
    argument = {"q": "[qk]", "k": "[kv]"}.get(tensor, tensor)
    refused(ValueError, name, argument, str(shape), **{tensor: wrong})


@pytest.mark.parametrize("ends", [[0, 6, 13], [-1, 6, 12], [0, 7, 6, 12], [0, 13, 12], [0, -1, 12], [12, 6, 0], [13, 13]], ids=str)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_sequences_that_are_none(ends: list[int], dtype: torch.dtype) -> None:
    name = "window_attention_varlen"
    for argument, scale in (("cu_seqlens_q", 1), ("cu_seqlens_k", 16 / 12)):
        scaled = [int(end * scale) for end in ends]
        refused(ValueError, name, argument, str(scaled[-1]) if ends[-1] == 13 else "", **{argument: torch.tensor(scaled, dtype=dtype)})


def test_numbers_of_sequences_that_differ() -> None:
    refused(ValueError, "window_attention_varlen", "cu_seqlens_k", "4", cu_seqlens_k=torch.tensor([0, 8, 9, 16]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_lengths_and_offsets_out_of_range(dtype: torch.dtype) -> None:
    """The entry is named, and its value."""
    for lengths, entry in (([8, 9], 1), ([-1, 3], 0), ([8, -(2**31)], 1), ([2**31 - 1, 2**31 - 1], 0)):
        got = f"key_lengths[{entry}] is {lengths[entry]}"
        for offset in (None, 0, torch.tensor([0, 0])):
            wrong = {"key_lengths": torch.tensor(lengths, dtype=dtype), "query_offset": offset}
            refused(ValueError, "window_attention", "key_lengths", got, **wrong)
    if dtype == torch.int64:
        for far in (2**61, -(2**60) - 1, -(2**63)):
            refused(ValueError, "window_attention", "query_offset", f"query_offset[1] is {far}", query_offset=torch.tensor([3, far]))


# ---- the library behind it checks for itself -----------------------------------------------------------------------------------------
def test_the_operators_refuse_what_would_be_read_beyond_its_end() -> None:
    op = torch.ops.window_matmul.attention
    q, mask, ends = torch.randn(1, 2, 6, 4), torch.ones(1, 6, dtype=torch.bool), torch.tensor([0, 6])

    def call(
        q=q,
        k=q,
        v=q,
        bias=None,
        sinks=None,
        key_mask=None,
        global_mask=None,
        cu_q=None,
        cu_k=None,
        seed=None,
        lengths=None,
        offsets=None,
        **numbers: Any,
    ) -> None:  # type: ignore[no-untyped-def]
        band, reals = numbers.get("band", [2, 1, 0]), numbers.get("reals", [0.0, 0.0])
        count = numbers.get("global_tokens", 0)
        op(q, k, v, bias, sinks, key_mask, global_mask, cu_q, cu_k, seed, lengths, offsets, band, 0, count, reals)

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
        "key_lengths": {"lengths": torch.tensor([7])},
        "query_offset": {"offsets": torch.tensor([], dtype=torch.int64)},
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
        out, lse = op(q, q, q, *[None] * 9, [2, 1, 0], 0, 0, [0.0, 0.0])
    rest = (q, q, q, *[None] * 9, [2, 1, 0], 0, 0, [0.0, 0.0])
    for name, wrong_args in {
        "d_out": (out[:, :, :5], None, out, lse, *rest, 7),
        "d_lse": (out, lse[:, :, :5], out, lse, *rest, 7),
        "out": (out, None, out[..., :3], lse, *rest, 7),
        "lse": (out, None, out, lse.double(), *rest, 7),
        "wanted": (out, None, out, lse, *rest, 15),
    }.items():
        with pytest.raises(ValueError, match=rf"(?s)\b{name}\b.*need"):
            back(*wrong_args)

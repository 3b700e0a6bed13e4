"""tests/python/test_attention_parts.py: where results go into parts of larger tensors, they are those of the operator on its own.

Bit for bit, and nothing beside those parts is written; likewise where a mode wants to see the operator itself.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from window_matmul._attention import ops
from window_matmul._attention.autograd import attention_backward_into, attention_into

OPERATOR = "attention"
UNTOUCHED = 7.0
QUERIES, KEYS, MARGIN = 37, 41, 5
FORMS = {"heads outside": 0, "heads inside": ops.HEADS_INSIDE, "wide": ops.WIDE_OUT}


class Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


def arguments(dtype: torch.dtype, form: int, options: bool) -> tuple[Any, ...]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, rows, n).to(dtype) for heads, rows, n in ((4, QUERIES, 16), (2, KEYS, 16), (2, KEYS, 8)))
    bias = torch.randn(2, 4, QUERIES, 12).to(dtype) if options else None
    sinks, key_mask = (torch.randn(4).to(dtype), torch.rand(2, KEYS) < 0.8) if options else (None, None)
    return q, k, v, bias, sinks, key_mask, *(None,) * 6, (8, 3, form, 1), 2, 0, [0.0, 0.0]


def larger(x: Tensor, dim: int, is_inside: bool) -> tuple[Tensor, Tensor]:
    """A tensor with more rows, and the part of it that is as x."""
    shape = list(x.shape)
    shape[dim] += 2 * MARGIN
    whole = torch.full(shape, UNTOUCHED, dtype=x.dtype)
    if is_inside:
        whole = whole.transpose(1, 2).contiguous().transpose(1, 2)
    return whole, whole.narrow(dim, MARGIN, x.shape[dim])


def check(parts: list[tuple[Tensor, Tensor]], dims: tuple[int, ...], expected: tuple[Tensor, ...]) -> None:
    for (whole, part), dim, want in zip(parts, dims, expected, strict=True):
        assert torch.equal(part, want)
        for margin in (whole.narrow(dim, 0, MARGIN), whole.narrow(dim, MARGIN + part.shape[dim], MARGIN)):
            assert (margin == UNTOUCHED).all()


@pytest.mark.parametrize("is_watched", [False, True], ids=["direct", "watched"])
@pytest.mark.parametrize("options", [False, True], ids=["plain", "options"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_results_in_parts_are_those_alone(dtype: torch.dtype, form: str, options: bool, is_watched: bool) -> None:
    given = arguments(dtype, FORMS[form], options)
    results = ops.attention(*given)
    d_out, d_lse = torch.randn_like(results[0]), torch.randn_like(results[1])
    inside = form == "heads inside"
    to = [larger(results[0], 2, inside), larger(results[1], 2, False)]
    wanted = 0b11111 if options else 0b00111
    gradients = ops.attention_backward(d_out, d_lse, *results, *given, wanted)
    count, dims = wanted.bit_count(), (2, 2, 2, 2, 0)
    back = [larger(x, dim, inside and n < 3) for n, (x, dim) in enumerate(zip(gradients[:count], dims, strict=False))]
    room = [*(part for _, part in back), *(None,) * (5 - count)]
    with Watch() as watch:
        if is_watched:
            attention_into(to[0][1], to[1][1], *given)
            attention_backward_into(room, d_out, d_lse, *results, *given)
    if not is_watched:
        attention_into(to[0][1], to[1][1], *given)
        attention_backward_into(room, d_out, d_lse, *results, *given)
    assert ("window_matmul.attention_backward.default" in watch.seen) == is_watched
    check(to, (2, 2), results)
    check(back, dims[:count], gradients[:count])


def test_only_what_is_wanted_is_written() -> None:
    given = arguments(torch.float32, 0, True)
    results = ops.attention(*given)
    d_out = torch.randn_like(results[0])
    d_k = torch.full_like(given[1], UNTOUCHED)
    attention_backward_into([None, d_k, None, None, None], d_out, None, *results, *given)
    assert torch.equal(d_k, ops.attention_backward(d_out, None, *results, *given, 0b00010)[1])


@pytest.mark.parametrize("heads_inside", [0, ops.HEADS_INSIDE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_room(heads_inside: int, dtype: torch.dtype) -> None:
    x = ops.empty_of(torch.zeros(1), (2, 3, 5, 4), heads_inside, dtype)
    assert x.shape == (2, 3, 5, 4) and x.dtype is dtype
    assert x.stride() == ((60, 4, 12, 1) if heads_inside else (60, 20, 4, 1))


def test_a_part_of_another_shape_is_refused() -> None:
    given = arguments(torch.float32, 0, False)
    out, lse = ops.attention(*given)
    with pytest.raises(ValueError, match="out"):
        attention_into(out[:, :, 1:], lse, *given)

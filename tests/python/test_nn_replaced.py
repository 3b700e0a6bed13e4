"""tests/python/test_nn_replaced.py: `nn.WindowAttention` whose projections were quantized, wrapped or replaced, as tools for models do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from window_matmul.nn import WindowAttention

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend


class Wrapped(nn.Module):
    """Another Linear inside, and no weight of its own, as adapters of low rank have it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


class Int8(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.factor = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / self.factor).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.factor.to(x.dtype), self.bias.to(x.dtype))


def quantized(attention: WindowAttention) -> WindowAttention:
    with warnings.catch_warnings(action="ignore"):  # torch announces another package for it
        return torch.ao.quantization.quantize_dynamic(attention, {nn.Linear})  # type: ignore[no-any-return]


def replaced(by: Callable[[Any], nn.Module]) -> Callable[[WindowAttention], WindowAttention]:
    def change(attention: WindowAttention) -> WindowAttention:
        attention.out_proj = by(attention.out_proj)  # type: ignore[assignment]
        return attention

    return change


CHANGES = {
    "quantize_dynamic": quantized,
    "wrapped": replaced(Wrapped),
    "int8": replaced(Int8),
    "no module": replaced(lambda _: nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_through_a_cache_are_the_whole(
    backend: str, change: Callable[[WindowAttention], WindowAttention], num_kv_heads: int, dtype: torch.dtype
) -> None:
    if change is quantized and dtype is torch.bfloat16:
        change = replaced(Wrapped)  # torch's quantized modules take float32 alone
    attention = change(WindowAttention(16, 4, (3, 0), num_kv_heads=num_kv_heads, dtype=dtype).eval())
    x = torch.randn(2, 9, 16, dtype=dtype)
    with torch.inference_mode():
        cache = attention.new_cache(2)
        assert cache._keys.dtype is dtype
        pieces = torch.cat([attention(piece, cache=cache) for piece in x.split([4, 1, 4], 1)], 1)
        # A quantized input is off by half of 1/255 of the range of its piece (about 2), and a sum has 16 of them, with weights up to 1/4.
        torch.testing.assert_close(pieces, attention(x), rtol=2**-6, atol=16 / 4 * 2 / 255)


def test_dtype_and_device_of_a_cache_are_arguments() -> None:
    attention = WindowAttention(16, 4, (3, 0))
    cache = attention.new_cache(2, dtype=torch.float16, device="meta")
    assert cache._keys.dtype is torch.float16 and cache._keys.is_meta
    assert WindowAttention(16, 4, (3, 0), device="meta").new_cache(2)._keys.is_meta
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.new_cache(2)._keys.dtype is torch.bfloat16
        assert attention.double().new_cache(2)._keys.dtype is torch.float64
    with pytest.raises(TypeError, match="device is 5"):
        attention.new_cache(2, device=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device is 'nowhere'"):
        attention.new_cache(2, device="nowhere")


def test_weights_that_are_integers_leave_it_to_the_other_parameters() -> None:
    attention = WindowAttention(16, 4, (3, 0), sinks=True, dtype=torch.bfloat16)
    attention.in_proj_weight = nn.Parameter(torch.zeros(48, 16, dtype=torch.int8), requires_grad=False)
    assert attention.new_cache(2)._keys.dtype is torch.bfloat16
    attention.in_proj_weight = attention.in_proj_bias = attention.sinks = None
    attention.out_proj = nn.Identity()  # type: ignore[assignment]
    assert attention.new_cache(2)._keys.dtype is torch.get_default_dtype()


def test_a_replaced_projection_is_not_reset() -> None:
    attention = quantized(WindowAttention(16, 4, (3, 0)))
    before = attention.in_proj_weight.clone()  # type: ignore[union-attr]
    with pytest.raises(TypeError, match=r"out_proj is of type Linear of torch\.ao.*torch\.nn\.Linear"):
        attention.reset_parameters()
    assert torch.equal(attention.in_proj_weight, before)  # type: ignore[arg-type]

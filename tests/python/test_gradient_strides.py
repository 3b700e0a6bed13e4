"""tests/python/test_gradient_strides.py: PyTorch promises nothing about the strides of the gradients that it hands to a backward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from window_matmul import unwindow_matmul, window_attention, window_attention_varlen, window_matmul, window_softmax
from window_matmul.testing import backends

OPERATOR = "attention"

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "last dim first": lambda g: g.movedim(-1, 0).contiguous().movedim(0, -1),
    "dims reversed": lambda g: g.permute(*range(g.ndim)[::-1]).contiguous().permute(*range(g.ndim)[::-1]),
    "every second": lambda g: torch.stack([g, torch.full_like(g, torch.nan)], -1).flatten(-2)[..., ::2],
    "behind others": lambda g: torch.cat([torch.full_like(g[..., :1], torch.nan), g], -1)[..., 1:],
    "one row for all": lambda g: g[..., :1, :].expand_as(g),
    "one column for all": lambda g: g[..., :1].expand_as(g),
    "one entry for all": lambda g: g[:1].expand_as(g),
    "one number for all": lambda g: g.flatten()[0].expand_as(g),
}
ENDS = torch.tensor([0, 5, 11])
OPERATIONS: dict[str, tuple[Callable[..., object], list[tuple[int, ...]]]] = {
    "window_matmul": (lambda q, k: window_matmul(q, k, (2, 1)), [(2, 3, 9, 5), (2, 3, 5, 11)]),
    "unwindow_matmul": (lambda a, v: unwindow_matmul(a, v, (2, 1)), [(2, 3, 9, 4), (2, 3, 11, 5)]),
    "window_softmax": (lambda a: window_softmax(a, (2, 1)), [(2, 3, 9, 4)]),
    "window_attention": (lambda q, k, v: window_attention(q, k, v, (2, 1), return_lse=True), [(2, 4, 9, 5), (2, 2, 11, 5), (2, 2, 11, 7)]),
    "window_attention_varlen": (
        lambda q, k, v: window_attention_varlen(q, k, v, ENDS, ENDS, (2, 1), return_lse=True),
        [(11, 4, 5), (11, 2, 5), (11, 2, 7)],
    ),
    "softmax_backward": (  # differentiated: the gradient of the gradient has strides too
        lambda a: torch.autograd.grad(window_softmax(a, (2, 1)), a, torch.ones(2, 3, 9, 4, dtype=a.dtype).cumsum(-1), create_graph=True),
        [(2, 3, 9, 4)],
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_strides_of_a_gradient_change_no_bit(backend: str, name: str, dtype: torch.dtype) -> None:
    if "attention" not in name and backend not in backends("band_out", str(dtype).removeprefix("torch.")):
        return  # it has fused attention alone
    operation, shapes = OPERATIONS[name]
    inputs = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    found = operation(*inputs)
    results = list(found) if isinstance(found, tuple) else [found]
    given = [torch.randn(x.shape).to(x.dtype) for x in results]
    for layout, lay in LAYOUTS.items():
        gradients = [lay(g) for g in given]
        assert any(not g.is_contiguous() for g in gradients)
        got = torch.autograd.grad(results, inputs, gradients, retain_graph=True)
        expected = torch.autograd.grad(results, inputs, [g.contiguous() for g in gradients], retain_graph=True)
        assert all(map(torch.equal, got, expected)), layout
        assert not any(x.isnan().any() for x in got), layout

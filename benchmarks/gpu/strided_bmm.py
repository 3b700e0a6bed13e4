# benchmarks/gpu/strided_bmm.py: the pair by torch's own operators on a GPU: one product over overlapping chunks, the band as a stripe.
"""As competitors/band_bmm.py, where the picture is, but over all heads at once: launches count here, caches of a core do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cases import PAIR, Case
from ..competitors import Fastest, Function, Unsupported

TITLE = "chunked bmm + as_strided"
OUTSIDE = 0.0
EXACT_OUTSIDE = True
BLOCKS = (32, 64, 128, 256, 512, 1024)


def _chunks(keys: Tensor, w: int, b: int) -> Tensor:
    """(X, L, d) -> (X, L / b, b + 2w, d): the keys that each block of b queries sees, zeros beyond the ends."""
    heads, length, dim = keys.shape
    padded = F.pad(keys, (0, 0, w, w))
    return padded.as_strided((heads, length // b, b + 2 * w, dim), (padded.stride(0), b * dim, dim, 1))


def _stripe(rectangles: Tensor, w: int) -> Tensor:
    """The slots (X, n, b, W) in the products (X, n, b, b + 2w) of queries and the keys they see."""
    heads, n, b, span = rectangles.shape
    return rectangles.as_strided((heads, n, b, 2 * w + 1), (n * b * span, b * span, span + 1, 1))


def _laid(band: Tensor, w: int, b: int) -> Tensor:
    rectangles = band.new_zeros(len(band), band.shape[1] // b, b, b + 2 * w)
    _stripe(rectangles, w).copy_(band.view(*rectangles.shape[:3], 2 * w + 1))
    return rectangles


def band_out(q: Tensor, k: Tensor, w: int, b: int) -> Tensor:
    heads, length, dim = q.shape
    return _stripe(q.reshape(heads, length // b, b, dim) @ _chunks(k, w, b).mT, w).reshape(heads, length, 2 * w + 1)


def band_in(a: Tensor, v: Tensor, w: int, b: int) -> Tensor:
    return (_laid(a, w, b) @ _chunks(v, w, b)).view(v.shape)


def band_in_transposed(a: Tensor, x: Tensor, w: int, b: int) -> Tensor:
    """Every (b + 2w) / b-th product tiles the keys without overlap. Added up in float32 (float64): halves would be rounded each time."""
    heads, length, dim = x.shape
    products = _laid(a, w, b).mT @ x.reshape(heads, length // b, b, dim)
    sums = torch.zeros(heads, length + 2 * w, dim, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    span = b + 2 * w
    for phase in range(min(span // b, products.shape[1])):
        mine = products[:, phase :: span // b]
        sums[:, phase * b : phase * b + mine.shape[1] * span].view(mine.shape).add_(mine)
    return sums[:, w : w + length].to(x.dtype)


class Forms:
    """The three products as an autograd function of (..., L, d) tensors: what both formulations of this folder share."""

    def __init__(self, out: Callable[..., Tensor], inward: Callable[..., Tensor], transposed: Callable[..., Tensor]) -> None:
        self.out, self.inward, self.transposed = out, inward, transposed

    def function(self, op: str) -> Function:
        apply: Function = _Window.apply if op == "window" else _Unwindow.apply
        return lambda left, right: apply(left, right, self)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:])


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, forms: Forms) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.forms = forms
        return forms.out(_flat(q), _flat(k.mT)).view(*q.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        q, k = ctx.saved_tensors
        dq, dk = ctx.forms.inward(_flat(g), _flat(k.mT)), ctx.forms.transposed(_flat(g), _flat(q))
        return dq.view(q.shape), dk.view(k.mT.shape).mT, None


class _Unwindow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, v: Tensor, forms: Forms) -> Tensor:
        ctx.save_for_backward(a, v)
        ctx.forms = forms
        return forms.inward(_flat(a), _flat(v)).view(v.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        a, v = ctx.saved_tensors
        da, dv = ctx.forms.out(_flat(g), _flat(v)), ctx.forms.transposed(_flat(a), _flat(g))
        return da.view(a.shape), dv.view(v.shape), None


def _with_block(w: int, b: int) -> Forms:
    return Forms(*(partial(form, w=w, b=b) for form in (band_out, band_in, band_in_transposed)))


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op not in PAIR:
        raise Unsupported("it is the explicit pair")
    blocks = [b for b in BLOCKS if 2 * case.window % b == 0 and case.length % b == 0]
    if not blocks:
        raise Unsupported(f"no block size divides 2w = {2 * case.window} and the length {case.length}")
    (left, right), g = case.tensors(torch.get_default_device())  # type: ignore[attr-defined]
    leaves = left.requires_grad_(), right.requires_grad_()

    def call(b: int) -> object:
        output = _with_block(case.window, b).function(case.op)(*leaves)
        return torch.autograd.grad(output, leaves, g) if backward else output

    name, _ = fastest({str(b): partial(call, b) for b in blocks})
    return _with_block(case.window, int(name)).function(case.op), f"blocks of {name}"

# benchmarks/competitors/band_attention.py: the fastest windowed attention that we could write with PyTorch's own operators.
"""A block of b queries sees b + W - 1 keys. Overlapping blocks of keys are views (as_strided) of k and v, so that nothing is copied on the
way in; blocks whose keys end at an end of the sequence are computed one by one, with fewer keys. Two kernels attend within a block:

    sdpa      torch's fused attention on the CPU with the (b, b + W - 1) mask that all inner blocks share
    softmax   baddbmm (which adds the mask), softmax, bmm; backward with the weights kept, or recomputed from q and k

and three orders walk the inner blocks: all at once, one head after another (as many blocks at a time as fit the scratch memory), one block
of all heads after another. In the backward pass the gradients of overlapping keys are added in turns, every n-th block at a time, which do
not overlap. Kernel, order and block are chosen for each case and direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cases import DTYPES, Case
from . import Fastest, Function, Unsupported

TITLE = "best PyTorch formulation"
OUTSIDE = 0.0
EXACT_OUTSIDE = True
BLOCKS = (32, 64, 128, 256)
SCRATCH = 1 << 22  # bytes of scores at a time: what a core's own caches hold, about
TUNED_LENGTH = 4096  # the best form hardly depends on the length

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Form:
    kernel: str  # sdpa, softmax
    order: str  # all, head, block
    block: int
    keep: bool = False  # softmax: the weights, for the backward pass

    def __str__(self) -> str:
        return f"{self.kernel} by {self.order}, {self.block}{', weights kept' * self.keep}"


class Piece(NamedTuple):
    """Blocks of queries from `first` on, with the keys that the first of them sees."""

    heads: slice
    first: int
    blocks: int
    low: int
    span: int


@lru_cache
def pieces(case: Case, form: Form) -> tuple[Piece, ...]:
    return tuple(_ends(case, form.block)) + tuple(_middle(case, form))


def _inner(case: Case, block: int) -> range:
    """The first queries of the blocks that see a whole window each."""
    low = -(-case.left // block) * block
    return range(low, max(low, (case.length - case.right) // block * block), block)


def _ends(case: Case, block: int) -> Iterator[Piece]:
    inner = _inner(case, block)
    for first in range(0, case.length, block):
        if first not in inner:
            low, high = max(0, first - case.left), min(case.length, first + block + case.right)
            yield Piece(slice(None), first, 1, low, high - low)


def _middle(case: Case, form: Form) -> Iterator[Piece]:
    inner, span = _inner(case, form.block), form.block + case.width - 1
    if not inner:
        return
    if form.order == "all":
        yield Piece(slice(None), inner[0], len(inner), inner[0] - case.left, span)
        return
    if form.order == "block":
        yield from (Piece(slice(None), first, 1, first - case.left, span) for first in inner)
        return
    group = len(inner) if form.kernel == "sdpa" else max(1, SCRATCH // (form.block * span * case.itemsize))
    for head in range(case.batch * case.heads):
        for first in inner[::group]:
            count = min(group, (inner[-1] - first) // form.block + 1)
            yield Piece(slice(head, head + 1), first, count, first - case.left, span)


@lru_cache
def mask_of(case: Case, block: int, offset: int, span: int) -> Tensor:
    """(b, span): 0 where queries from 0 on see keys from `offset` on, -inf elsewhere. Kept between calls."""
    hidden = ~case.sees(0, block, offset, offset + span)
    return torch.zeros(block, span, dtype=DTYPES[case.dtype]).masked_fill_(hidden, -torch.inf)


@dataclass(frozen=True)
class Walk:
    """One case in one form: its pieces of (X, L, d) tensors."""

    case: Case
    form: Form

    def __iter__(self) -> Iterator[tuple[Piece, Tensor]]:
        for piece in pieces(self.case, self.form):
            yield piece, mask_of(self.case, self.form.block, piece.low - piece.first, piece.span)

    def queries(self, x: Tensor, piece: Piece) -> Tensor:
        return self._blocks(x, piece, piece.first, self.form.block)

    def keys(self, x: Tensor, piece: Piece) -> Tensor:
        return self._blocks(x, piece, piece.low, piece.span)

    def _blocks(self, x: Tensor, piece: Piece, first: int, rows: int, step: int = 1) -> Tensor:
        """(heads, count, rows, d): every step-th block, each one block of queries after the other."""
        part, stride = x[piece.heads, first:], self.form.block * x.stride(1)
        shape = (len(part), -(-piece.blocks // step), rows, x.shape[2])
        return part.as_strided(shape, (x.stride(0), step * stride, x.stride(1), 1))

    def add(self, x: Tensor, piece: Piece, gradient: Tensor) -> None:
        """gradient (heads, count, span, d), added to the keys of its blocks."""
        step = min(-(-piece.span // self.form.block), piece.blocks)
        for phase in range(step):
            mine = piece._replace(blocks=piece.blocks - phase)
            self._blocks(x, mine, piece.low + phase * self.form.block, piece.span, step).add_(gradient[:, phase::step])


def _batch(x: Tensor) -> Tensor:
    """(heads, count, ...) as one batch of matrices without a copy: there is one head, or one block."""
    return x[0] if len(x) == 1 else x[:, 0]


def _unbatch(x: Tensor, like: Tensor) -> Tensor:
    return x[None] if len(like) == 1 else x[:, None]


def _weights(walk: Walk, piece: Piece, mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    rows, keys = _batch(walk.queries(q, piece)), _batch(walk.keys(k, piece))
    return torch.baddbmm(mask, rows, keys.mT, alpha=walk.case.dim**-0.5).softmax(-1)


def _softmax_forward(walk: Walk, q: Tensor, k: Tensor, v: Tensor, keep: bool) -> tuple[Tensor, list[Tensor]]:
    out, kept = torch.empty_like(q), []
    for piece, mask in walk:
        weights = _weights(walk, piece, mask, q, k)
        place = walk.queries(out, piece)
        place.copy_(_unbatch(torch.bmm(weights, _batch(walk.keys(v, piece))), place))
        if keep:
            kept.append(weights)
    return out, kept


def _softmax_backward(walk: Walk, g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, kept: list[Tensor]) -> tuple[Tensor, ...]:
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    delta = (g * out).sum(-1, keepdim=True)
    for number, (piece, mask) in enumerate(walk):
        weights = kept[number] if kept else _weights(walk, piece, mask, q, k)
        view = walk.queries(g, piece)
        rows, keys, values, grad = map(_batch, (walk.queries(q, piece), walk.keys(k, piece), walk.keys(v, piece), view))
        scores = torch.bmm(grad, values.mT).sub_(_batch(walk.queries(delta, piece))).mul_(weights).mul_(walk.case.dim**-0.5)
        walk.queries(dq, piece).copy_(_unbatch(torch.bmm(scores, keys), view))
        walk.add(dk, piece, _unbatch(torch.bmm(scores.mT, rows), view))
        walk.add(dv, piece, _unbatch(torch.bmm(weights.mT, grad), view))
    return dq, dk, dv


def _sdpa_operands(walk: Walk, piece: Piece, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return walk.queries(q, piece), walk.keys(k, piece), walk.keys(v, piece)


def _sdpa_forward(walk: Walk, q: Tensor, k: Tensor, v: Tensor, keep: bool) -> tuple[Tensor, list[Tensor]]:
    out, kept = torch.empty_like(q), []
    for piece, mask in walk:
        part, lse = _flash(*_sdpa_operands(walk, piece, q, k, v), attn_mask=mask)
        walk.queries(out, piece).copy_(part)
        kept += [part, lse] if keep else []
    return out, kept


def _sdpa_backward(walk: Walk, g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, kept: list[Tensor]) -> tuple[Tensor, ...]:
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for number, (piece, mask) in enumerate(walk):
        operands = _sdpa_operands(walk, piece, q, k, v)
        results = kept[2 * number : 2 * number + 2]
        rows, keys, values = _flash_backward(walk.queries(g, piece), *operands, *results, 0.0, False, attn_mask=mask)
        walk.queries(dq, piece).copy_(rows)
        walk.add(dk, piece, keys)
        walk.add(dv, piece, values)
    return dq, dk, dv


KERNELS = {"sdpa": (_sdpa_forward, _sdpa_backward), "softmax": (_softmax_forward, _softmax_backward)}


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, walk: Walk) -> Tensor:
        recorded, form = any(ctx.needs_input_grad), walk.form
        rows, keys, values = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
        out, kept = KERNELS[form.kernel][0](walk, rows, keys, values, recorded and (form.keep or form.kernel == "sdpa"))
        if recorded:
            ctx.save_for_backward(rows, keys, values, out, *kept)
            ctx.walk = walk
        return out.view(q.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, *kept = ctx.saved_tensors
        gradients = KERNELS[ctx.walk.form.kernel][1](ctx.walk, g.reshape(q.shape), q, k, v, out, kept)
        return *(x.view(g.shape) for x in gradients), None


def forms(case: Case, backward: bool) -> list[Form]:
    """Blocks from a quarter of the window on: below, overlapping keys are read too often."""
    blocks = [b for b in BLOCKS if case.length % b == 0 and case.width // 8 <= b <= max(128, case.width // 2)][-3:]
    if not blocks:
        raise Unsupported(f"no block size divides the length {case.length}")
    orders = [("sdpa", "all"), ("sdpa", "head"), ("sdpa", "block"), ("softmax", "head"), ("softmax", "block")]
    found = [Form(kernel, order, block) for kernel, order in orders for block in blocks]
    return found + [replace(form, keep=True) for form in found if backward and form.kernel == "softmax"]


def function_of(case: Case, form: Form) -> Function:
    apply: Function = _Attention.apply
    walk = Walk(case, form)
    return lambda q, k, v: apply(q, k, v, walk)


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op != "fused":
        raise Unsupported("it is whole attention, and stands beside fused attention only")
    from ..cell import inference, training

    short = replace(case, length=min(case.length, TUNED_LENGTH))
    inputs, g, found = short.inputs(), short.output_gradient(), {str(form): form for form in forms(short, backward)}
    calls = {
        name: training(function_of(short, form), inputs, g) if backward else inference(function_of(short, form), inputs)
        for name, form in found.items()
    }
    name, _ = fastest(calls)
    return function_of(case, found[name]), name

# benchmarks/competitors/band_bmm.py: the fastest explicit pair that we could write with PyTorch's own operators.
"""A block of b queries sees b + 2w keys. In the b x (b + 2w) rectangle of their products the band is a diagonal stripe, which an
as_strided view shows as (b, W): one row down is one element more than a row of the rectangle.

                 key  0 . . . . . . b+2w
        query 0       x x x x x . . .
              1       . x x x x x . .
              2       . . x x x x x .
              3       . . . x x x x x

Many rectangles are filled by one bmm over overlapping (as_strided) chunks of keys, and copied to or from band storage through the
stripe. What lies outside the stripe is zeroed once: it is never written when a band is laid into the rectangles. The transposed form adds
overlapping results: with 2w a multiple of b, every (b + 2w) / b-th of them tile the output without overlap and go into one baddbmm.
Only the ends of the keys are padded. Block and scratch size are tuned for each form, window and machine.

Tried and left out, because they lost or tied at every window: writing products straight into band storage as matrices of row stride W - 1
and repairing the corners, multiplying out of it in the same way with masked corners, one bmm over all heads for each block, two Python
threads with half of the heads each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cases import DTYPES, PAIR, Case
from . import Fastest, Function, Unsupported

TITLE = "best PyTorch formulation"
OUTSIDE = 0.0
EXACT_OUTSIDE = True
BLOCKS = (16, 32, 64, 128, 256)
SCRATCH = (1 << 22, 1 << 24)
TUNED_LENGTH = 4096  # the best tiling hardly depends on the length


@dataclass(frozen=True)
class Tiling:
    window: int
    block: int
    scratch: int  # bytes of rectangles

    def __str__(self) -> str:
        return f"{self.block}/{self.scratch >> 20}M"

    @property
    def width(self) -> int:
        return 2 * self.window + 1

    @property
    def span(self) -> int:
        return self.block + 2 * self.window

    def rectangles(self, like: Tensor, make: Callable[..., Tensor] = torch.zeros) -> tuple[Tensor, Tensor]:
        """(g, b, b + 2w), and the stripes in them, (g, b, W)."""
        group = max(1, self.scratch // (self.block * self.span * like.element_size()))
        whole = make(min(group, like.shape[1] // self.block), self.block, self.span, dtype=like.dtype)
        return whole, whole.as_strided((len(whole), self.block, self.width), (self.block * self.span, self.span + 1, 1))

    def blocks(self, rows: Tensor, first: int, count: int) -> Tensor:
        """(count, b, ...): rows of one head from `first` on, in blocks."""
        return rows[first : first + count * self.block].view(count, self.block, -1)

    def key_chunks(self, keys: Tensor, group: int) -> Iterator[tuple[int, int, int, Tensor]]:
        """(head, first query, number of blocks m, keys that these blocks see as (m, b + 2w, d)) over (X, L, d)."""
        heads, length, dim = keys.shape
        for start, stop, padded, offset in self._parts(keys, length // self.block):
            for head in range(heads):
                for t in range(start, stop, group):
                    m = min(group, stop - t)
                    at = padded.storage_offset() + head * padded.stride(0) + (offset + (t - start) * self.block) * dim
                    yield head, t * self.block, m, padded.as_strided((m, self.span, dim), (self.block * dim, dim, 1), at)

    def _parts(self, keys: Tensor, blocks: int) -> Iterator[tuple[int, int, Tensor, int]]:
        """Blocks [start, stop), the keys they see with zeros beyond the ends, and where in those the first block's begin."""
        w, b = self.window, self.block
        low = min(-(-w // b), blocks)
        high = min(low, blocks - low)
        seen = keys[:, : low * b + w]
        yield 0, low, F.pad(seen, (0, 0, w, low * b + w - seen.shape[1])), 0
        if low < blocks - high:
            yield low, blocks - high, keys, low * b - w
        if high:
            first = (blocks - high) * b - w
            yield blocks - high, blocks, F.pad(keys[:, max(first, 0) :], (0, 0, max(-first, 0), w)), 0


def band_out(q: Tensor, k: Tensor, tiling: Tiling) -> Tensor:
    """q (X, L, d), k (X, L, d) -> (X, L, W)."""
    out = q.new_empty(*q.shape[:2], tiling.width)
    whole, stripe = tiling.rectangles(q, torch.empty)
    for head, i, m, keys in tiling.key_chunks(k, len(whole)):
        torch.bmm(tiling.blocks(q[head], i, m), keys.mT, out=whole[:m])
        tiling.blocks(out[head], i, m).copy_(stripe[:m])
    return out


def band_in(a: Tensor, v: Tensor, tiling: Tiling) -> Tensor:
    """a (X, L, W), v (X, L, d) -> (X, L, d)."""
    out = torch.empty_like(v)
    whole, stripe = tiling.rectangles(a)
    for head, i, m, values in tiling.key_chunks(v, len(whole)):
        stripe[:m].copy_(tiling.blocks(a[head], i, m))
        torch.bmm(whole[:m], values, out=tiling.blocks(out[head], i, m))
    return out


def band_in_transposed(a: Tensor, x: Tensor, tiling: Tiling) -> Tensor:
    """a (X, L, W), x (X, L, d) -> (X, L, d), sums over the queries of each key."""
    padded = x.new_zeros(x.shape[0], x.shape[1] + 2 * tiling.window, x.shape[2])
    whole, stripe = tiling.rectangles(a)
    for head in range(len(x)):
        for i in range(0, x.shape[1], len(whole) * tiling.block):
            m = min(len(whole), (x.shape[1] - i) // tiling.block)
            stripe[:m].copy_(tiling.blocks(a[head], i, m))
            _scatter(padded[head], i, whole[:m], tiling.blocks(x[head], i, m), tiling)
    return padded[:, tiling.window : tiling.window + x.shape[1]]


def band_in_both(a: Tensor, v: Tensor, x: Tensor, tiling: Tiling) -> tuple[Tensor, Tensor]:
    """band_in(a, v) and band_in_transposed(a, x); the band is laid into the rectangles once."""
    out, padded = torch.empty_like(v), x.new_zeros(x.shape[0], x.shape[1] + 2 * tiling.window, x.shape[2])
    whole, stripe = tiling.rectangles(a)
    for head, i, m, values in tiling.key_chunks(v, len(whole)):
        stripe[:m].copy_(tiling.blocks(a[head], i, m))
        torch.bmm(whole[:m], values, out=tiling.blocks(out[head], i, m))
        _scatter(padded[head], i, whole[:m], tiling.blocks(x[head], i, m), tiling)
    return out, padded[:, tiling.window : tiling.window + x.shape[1]]


def _scatter(padded: Tensor, first: int, whole: Tensor, x: Tensor, tiling: Tiling) -> None:
    """Adds each rectangle's transpose times its block of x to the keys of that block."""
    step = tiling.span // tiling.block
    for phase in range(min(step, len(whole))):
        mine = whole[phase::step]
        at = first + phase * tiling.block
        target = padded[at : at + len(mine) * tiling.span].view(len(mine), tiling.span, -1)
        target.baddbmm_(mine.mT, x[phase::step])


class Plan(NamedTuple):
    """How each form is cut; `both` takes the place of `inward` and `transposed` in a backward pass."""

    out: Tiling
    inward: Tiling
    transposed: Tiling
    both: Tiling | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {tiling}" for name, tiling in self._asdict().items() if tiling)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:])


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.plan = plan
        return band_out(_flat(q), _flat(k.mT), plan.out).view(*q.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        (q, k), plan = ctx.saved_tensors, ctx.plan
        rows, keys, grad = _flat(q), _flat(k.mT), _flat(g)
        if plan.both:
            dq, dk = band_in_both(grad, keys, rows, plan.both)
        else:
            dq, dk = band_in(grad, keys, plan.inward), band_in_transposed(grad, rows, plan.transposed)
        return dq.view(q.shape), dk.view(k.mT.shape).mT, None


class _Unwindow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, v: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(a, v)
        ctx.plan = plan
        return band_in(_flat(a), _flat(v), plan.inward).view(v.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        a, v = ctx.saved_tensors
        da = band_out(_flat(g), _flat(v), ctx.plan.out)
        return da.view(a.shape), band_in_transposed(_flat(a), _flat(g), ctx.plan.transposed).view(v.shape), None


_TUNED: dict[tuple[str, Case], tuple[Tiling, float]] = {}  # forward's choice serves the backward pass too


def _tilings(case: Case) -> list[Tiling]:
    w = case.window
    blocks = [b for b in BLOCKS if w // 8 <= b <= 2 * w and 2 * w % b == 0 and case.length % b == 0]
    if not blocks:
        raise Unsupported(f"no block size divides 2w = {2 * w} and the length {case.length}")
    return [Tiling(w, block, scratch) for block in blocks for scratch in SCRATCH]


def _plan(case: Case, backward: bool, fastest: Fastest) -> Plan:
    tilings, shape = _tilings(case), (case.batch * case.heads, min(case.length, TUNED_LENGTH))
    x, y = torch.randn(2, *shape, case.dim).to(DTYPES[case.dtype])
    band = torch.randn(*shape, case.width).to(DTYPES[case.dtype])

    def tune(form: Callable[..., object], *operands: Tensor) -> tuple[Tiling, float]:
        key = (form.__name__, case)
        if key not in _TUNED:
            name, seconds = fastest({str(tiling): partial(form, *operands, tiling) for tiling in tilings})
            _TUNED[key] = next(tiling for tiling in tilings if str(tiling) == name), seconds
        return _TUNED[key]

    if not backward:
        only = tune(band_out, x, y)[0] if case.op == "window" else tune(band_in, band, x)[0]
        return Plan(only, only, only)
    out, (inward, t_inward), (transposed, t_transposed) = (
        tune(band_out, x, y)[0], tune(band_in, band, x), tune(band_in_transposed, band, x)
    )  # fmt: skip
    if case.op == "window":
        both, t_both = tune(band_in_both, band, x, y)
        if t_both < t_inward + t_transposed:
            return Plan(out, inward, transposed, both)
    return Plan(out, inward, transposed)


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op not in PAIR:
        raise Unsupported("it is the explicit pair")
    plan = _plan(case, backward, fastest)
    apply: Function = (_Window if case.op == "window" else _Unwindow).apply
    return lambda left, right: apply(left, right, plan), f"{plan}" if backward else f"{plan.out}"

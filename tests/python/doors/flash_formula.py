"""tests/python/doors/flash_formula.py: what flash-attn documents that it computes, dense in float64, and tensors for it."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from oracle import ROUNDING

BATCH, HEADS, DIM = 2, 4, 8
# Numbers of q, k and v are below 1, so scores (with slopes below 1 and distances below 9) below 12, and no sum here has more than 64 terms.
SIZE, TERMS = 12, 64


def uniform(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (2 * torch.rand(shape, dtype=torch.float64) - 1).to(dtype)


def qkv(lq: int, lk: int, kv_heads: int = 2, dtype: torch.dtype = torch.float64, grad: bool = False) -> list[Tensor]:
    shapes = (BATCH, lq, HEADS, DIM), (BATCH, lk, kv_heads, DIM), (BATCH, lk, kv_heads, DIM)
    return [uniform(*shape, dtype=dtype).requires_grad_(grad) for shape in shapes]


def allowed(dtype: torch.dtype = torch.float64) -> float:
    """Sums of scores, of weights and of outputs, each of up to TERMS numbers up to SIZE, and a result below 1, rounded; doubled."""
    sums = ROUNDING[torch.float64 if dtype is torch.float64 else torch.float32]
    return SIZE * 3 * TERMS * sums + 2 * ROUNDING[dtype]


def formula(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """out (B, Lq, H, D), lse (B, H, Lq) and the softmax (B, H, Lq, Lk), as they are documented there."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    lq, lk = q.shape[2], k.shape[2]
    left, right = options.get("window_size", (-1, -1))
    right = 0 if options.get("causal") else right
    scale = options.get("softmax_scale") or DIM**-0.5
    scores = scale * (q @ k.mT)
    if cap := options.get("softcap"):
        scores = cap * torch.tanh(scores / cap)
    aligned = torch.arange(lq)[:, None] + lk - lq
    distance = torch.arange(lk) - aligned
    if (slopes := options.get("alibi_slopes")) is not None:
        scores = scores - slopes.double().expand(len(q), -1)[:, :, None, None] * distance.abs()
    seen = torch.ones(lq, lk, dtype=torch.bool)
    if left >= 0:
        seen = seen & (distance >= -left)
    if right >= 0:
        seen = seen & (distance <= right)
    blind = ~seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen & ~blind, -torch.inf)
    weights = torch.softmax(scores, -1).masked_fill(blind, 0.0) if lk else scores
    lse = torch.logsumexp(scores, -1).masked_fill(blind[:, 0], torch.inf) if lk else scores.sum(-1) + torch.inf
    return (weights @ v).transpose(1, 2), lse, weights


def assert_close(result: Tensor, expected: Tensor, dtype: torch.dtype = torch.float64) -> None:
    torch.testing.assert_close(result.double(), expected.double(), rtol=0, atol=allowed(dtype))


def assert_gradients(results: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tensors: list[Tensor]) -> None:
    """Through out and, where a key is seen, the log-sum-exp."""
    of_out, of_lse = uniform(*expected[0].shape), uniform(*expected[1].shape)
    seen = expected[1].isfinite()

    def weighted(out: Tensor, lse: Tensor) -> Tensor:
        return (out * of_out).sum() + (lse * of_lse)[seen].sum()

    found, right = (torch.autograd.grad(weighted(*x), tensors) for x in (results, expected))
    for gradient, want in zip(found, right, strict=True):
        torch.testing.assert_close(gradient, want, rtol=0, atol=TERMS * allowed())  # sums over the queries


SLOPES = {"none": None, "(H,)": torch.tensor([0.9, 0.5, 0.0, -0.2]), "(B, H)": torch.tensor([[0.9, 0.5, 0.1, 0.2], [0.0, 0.3, 0.7, -0.1]])}


# ---- packed sequences ----------------------------------------------------------------------------------------------------------------
CU_Q, CU_K = torch.tensor([0, 5, 5, 12, 13], dtype=torch.int32), torch.tensor([0, 3, 7, 15, 15], dtype=torch.int32)


def packed(dtype: torch.dtype = torch.float64, before: int = 0, behind: int = 0) -> list[Tensor]:
    around = before + behind
    shapes = (13 + around, HEADS, DIM), (15 + around, 2, DIM), (15 + around, 2, DIM)
    return [uniform(*shape, dtype=dtype).requires_grad_() for shape in shapes]


def by_sequence(q: Tensor, k: Tensor, v: Tensor, before: int, behind: int, **options: Any) -> tuple[Tensor, Tensor]:
    outs, lses = [q.new_zeros(before, HEADS, DIM)], [q.new_full((HEADS, before), torch.inf)]
    slopes = options.pop("alibi_slopes", None)
    for s, ((a, b), (c, d)) in enumerate(zip(itertools.pairwise(CU_Q.tolist()), itertools.pairwise(CU_K.tolist()), strict=True)):
        mine = slopes if slopes is None or slopes.ndim == 1 else slopes[s]
        parts = (x[None, before + i : before + j] for x, i, j in ((q, a, b), (k, c, d), (v, c, d)))
        out, lse, _ = formula(*parts, **options, alibi_slopes=mine)
        outs.append(out[0])
        lses.append(lse[0])
    return torch.cat([*outs, q.new_zeros(behind, HEADS, DIM)]), torch.cat([*lses, q.new_full((HEADS, behind), torch.inf)], 1)

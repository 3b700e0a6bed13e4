# python/window_matmul/testing/definition.py: the definition of fused attention in dense float64, and how far a correct kernel may be off.

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import backends
from .bounds import ROUNDING, SPLIT_PRODUCT, least, rounding_of_sums

Dilation = int | tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """Who sees whom before any mask. None is an unbounded side, and a query_offset of Lk - Lq."""

    left: int | None
    right: int | None
    dilation: Dilation = 1
    query_offset: int | None = None

    @property
    def width(self) -> int:
        assert self.left is not None and self.right is not None
        return self.left + 1 + self.right

    def shift(self, queries: int, keys: int) -> int:
        return keys - queries if self.query_offset is None else self.query_offset

    def taps(self, heads: int, queries: int, keys: int, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(H, Lq, Lk), or (B, H, Lq, Lk) with a shift (B, 1, 1, 1): whether the window of query i holds key j, and at which tap t."""
        steps = torch.tensor([self.dilation] * heads if isinstance(self.dilation, int) else self.dilation, dtype=torch.int64)[:, None, None]
        offset = torch.arange(keys) - torch.arange(queries)[:, None] - (self.shift(queries, keys) if shift is None else shift)
        tap = offset // steps
        inside = tap * steps == offset
        if self.left is not None:
            inside = inside & (tap >= -self.left)
        if self.right is not None:
            inside = inside & (tap <= self.right)
        return inside, tap

    def visible(self, places: Places, heads: int, queries: int, keys: int, is_global: Tensor | None) -> Tensor:
        """(B, H, Lq, Lk). `is_global` (B, Lk)."""
        seen = self.taps(heads, queries, keys, places.shift)[0]
        exists = torch.arange(keys) < places.lengths
        if is_global is None:
            return seen & exists
        columns = is_global[:, None, None, :]
        if self.right == 0:
            columns = columns & (torch.arange(keys) <= torch.arange(queries)[:, None] + places.shift)
        seen = seen | columns
        symmetric = (places.lengths == queries) & (places.shift == 0)
        if self.right != 0 and bool(symmetric.any()):
            seen = seen | (symmetric & torch.nn.functional.pad(is_global, (0, max(queries - keys, 0)))[:, None, :queries, None])
        return seen & exists


@dataclass(frozen=True)
class Places:
    """Of each entry, (B, 1, 1, 1)."""

    lengths: Tensor
    shift: Tensor


def places(rule: Rule, batch: int, queries: int, keys: int, lengths: Tensor | None, offsets: Tensor | None) -> Places:
    lengths = torch.full((batch,), keys) if lengths is None else lengths
    if offsets is None:
        offsets = lengths - queries if rule.query_offset is None else torch.full((batch,), rule.query_offset)
    return Places(lengths.long()[:, None, None, None], offsets.long()[:, None, None, None])


@dataclass
class Dense:
    """One call, dense: everything (B, H, Lq, Lk) in float64, differentiable."""

    out: Tensor
    lse: Tensor
    p: Tensor  # weights before dropout
    visible: Tensor
    magnitude: Tensor  # of what a score is summed from
    slope: Tensor  # of the softcap


def attend(q: Tensor, k: Tensor, v: Tensor, rule: Rule, *, kept: Tensor | None = None, **options: Any) -> Dense:
    """`kept` (B, H, Lq, Lk) is what dropout multiplies the weights with."""
    q, k, v = q.double(), k.double(), v.double()
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    group = heads // max(k.shape[1], 1)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scale = options.get("scale")
    scale = dim**-0.5 if scale is None else scale
    scores, magnitude = scale * (q @ k.mT), abs(scale) * (q.detach().abs() @ k.detach().abs().mT)
    slope = torch.ones_like(magnitude)
    if cap := options.get("softcap", 0.0):
        scores = cap * torch.tanh(scores / cap)
        slope = 1 - (scores.detach() / cap) ** 2
    where = places(rule, batch, queries, keys, options.get("key_lengths"), options.get("query_offset"))
    added, hidden = _bias_of(options.get("bias"), rule, where, batch, heads, queries, keys)
    visible = rule.visible(where, heads, queries, keys, global_mask(options.get("global_tokens"), batch, keys)) & ~hidden
    if (key_mask := options.get("key_mask")) is not None:
        visible = visible & key_mask[:, None, None, :]
    visible = visible.expand(batch, heads, queries, keys)
    p, lse = _softmax(scores + added, visible, options.get("sinks"))
    out = (p if kept is None else p * kept) @ v
    return Dense(out, lse, p, visible, magnitude + added.detach().abs(), slope)


def global_mask(global_tokens: int | Tensor | None, batch: int, keys: int) -> Tensor | None:
    if global_tokens is None:
        return None
    if isinstance(global_tokens, Tensor):
        return global_tokens
    return (torch.arange(keys) < global_tokens).expand(batch, keys)


def _bias_of(bias: Tensor | None, rule: Rule, where: Places, batch: int, heads: int, queries: int, keys: int) -> tuple[Tensor, Tensor]:
    """What is added to each score, and which keys a bias of -inf hides. A gather by slot."""
    shape = (batch, heads, queries, keys)
    if bias is None:
        return torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
    inside, tap = rule.taps(heads, queries, keys, where.shift)
    slot = torch.where(inside, tap + (rule.left or 0), 0).expand(shape)
    wide = (bias[None, :, None, :] if bias.ndim == 2 else bias).double().expand(*shape[:3], rule.width)
    values = wide.gather(-1, slot)
    hidden = inside & (values == -torch.inf)
    return torch.where(inside & ~hidden, values, 0.0), hidden


def _softmax(scores: Tensor, visible: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights, and the log-sum-exp without the sink. Rows that see nothing: 0 and -inf."""
    empty = ~visible.any(-1, keepdim=True)
    sink = None if sinks is None else sinks.double()[:, None, None]
    tops = torch.where(visible, scores.detach(), -torch.inf).amax(-1, keepdim=True) if scores.shape[-1] else empty * -torch.inf
    tops = torch.where(empty, 0.0, tops if sink is None else torch.maximum(tops, sink.detach()))
    weights = torch.where(visible, (scores - tops).where(visible, 0.0).exp(), 0.0)
    total = torch.where(empty, 1.0, weights.sum(-1, keepdim=True))
    lse = torch.where(empty, -torch.inf, total.log() + tops).squeeze(-1)
    return weights / (total if sink is None else total + torch.where(empty, 0.0, (sink - tops).exp())), lse


# ---- how far a correct kernel may be off ---------------------------------------------------------------------------------------------
@dataclass
class Bounds:
    out: Tensor
    lse: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    sinks: Tensor | None = None


@dataclass
class Errors:
    """(B, H, Lq, Lk), or of rows (B, H, Lq, 1)."""

    weight: Tensor  # relative error of a weight
    kept: Tensor  # weights after dropout
    d_score: Tensor  # size of a score's gradient
    d_score_error: Tensor
    from_out: Tensor  # of the sum of d_out * out
    mixed: Tensor  # size of p d_p


@dataclass(frozen=True)
class Rounded:
    """What kernels round beside their sums and results, each number relative but `least`."""

    weights: float = 0.0  # and gradients of scores, before they are multiplied
    least: float = 0.0  # what of them may vanish: below the smallest number of their dtype
    products: float = 0.0  # of two factors in several parts


def rounded_by(device: torch.device, dtype: torch.dtype) -> Rounded:
    """cpu.amx multiplies sums of two bf16, the first cut off and the second rounded; the CUDA kernels numbers of the dtype, the largest
    of a row 1, and where torch allows TF32 parts of fp32."""
    if device.type == "cpu":
        row = os.environ.get("WINDOW_MATMUL_BACKEND") or backends("attention", str(dtype).removeprefix("torch."))[0]
        return Rounded(2 * ROUNDING[dtype] ** 2 * 1.01) if row == "cpu.amx" else Rounded()
    if dtype in (torch.bfloat16, torch.float16):
        return Rounded(ROUNDING[dtype] * 1.01, least(dtype) / 2)
    splits = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return Rounded(SPLIT_PRODUCT, 0.0, SPLIT_PRODUCT) if splits else Rounded()


def bounds(
    dense: Dense, d_out: Tensor, d_lse: Tensor | None, tensors: dict[str, Any], rule: Rule, kept: Tensor | None, by: Rounded
) -> Bounds:
    """Largest errors, to first order. In units of u, the rounding of sums: a score errs by `magnitude` times the number of its terms, and
    a weight by that of its row's worst score, by the length of the sum below it, and a few for exp; so do scores' gradients, which also
    have the error of `out` as it was rounded to its dtype, times d_out. Sums of such have the sum of the errors. Then the rounding of the
    result, and of the weights where a kernel rounds them. Doubled: the reference's own errors, and what is of second order.
    """
    q, k, v = (tensors[name].detach().double() for name in "qkv")
    dtype, group = tensors["q"].dtype, q.shape[1] // max(k.shape[1], 1)
    wide_k, wide_v = (x.repeat_interleave(group, 1).abs() for x in (k, v))
    d_out = d_out.detach().double().abs()
    u, terms = 2 * rounding_of_sums(dtype), _terms(q, k, v, group)
    weight = (u * (q.shape[3] + 8) + 2 * by.products) * _worst_score(dense) + u * (terms + 2 * _finite(dense.lse))
    errors = _errors(dense, d_out, d_lse, wide_v, ROUNDING[dtype] * 1.01, weight, kept, by)
    tiny = least(dtype) + 4 * terms * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).tiny
    scale, vanish = abs(tensors["scale_value"]), by.least * dense.visible.double()
    product, product_error = (scale * dense.slope * x for x in (errors.d_score, errors.d_score_error + errors.d_score * u * 4))
    product_error = product_error + product * by.weights + scale * vanish
    product_error = product_error + scale * errors.d_score * u * 16 * (dense.slope != 1)  # 1 - tanh^2, where tanh is nearly 1
    kept_error = errors.kept * (weight + by.weights) + vanish * (1 if kept is None or kept.numel() == 0 else kept.amax())

    def rounded(weights: Tensor, error: Tensor, other: Tensor, shared: bool = False) -> Tensor:
        size, error = weights @ other, (error + u * terms * weights) @ other
        if shared:
            size, error = (x.unflatten(1, (k.shape[1], group)).sum(2) for x in (size, error))
        return error + size * ROUNDING[dtype] * 1.01 + tiny

    result = Bounds(
        out=rounded(errors.kept, kept_error, wide_v),
        lse=(weight + u * _finite(dense.lse)).squeeze(-1) + tiny,
        q=rounded(product, product_error, wide_k),
        k=rounded(product.mT, product_error.mT, q.abs(), shared=True),
        v=rounded(errors.kept.mT, kept_error.mT, d_out, shared=True),
    )
    _add_logits(result, dense, errors, tensors, rule, u * terms, tiny)
    return result


def _add_logits(result: Bounds, dense: Dense, errors: Errors, tensors: dict[str, Any], rule: Rule, of_sum: float, tiny: float) -> None:
    """Bias and sinks, where there are any."""
    if (bias := tensors.get("bias")) is not None:
        batch, _, queries, keys = dense.visible.shape
        where = places(rule, batch, queries, keys, tensors.get("key_lengths"), tensors.get("query_offset"))
        result.bias = _bound_of_bias(bias, rule, where, errors.d_score, errors.d_score_error + of_sum * errors.d_score) + tiny
    if (sinks := tensors.get("sinks")) is not None:
        result.sinks = _bound_of_sinks(sinks, dense, errors, of_sum) + tiny


def _terms(q: Tensor, k: Tensor, v: Tensor, group: int) -> int:
    """At least as many as any sum has."""
    return max(q.shape[2], k.shape[2]) * group * max(q.shape[0], 1) + q.shape[3] + v.shape[3] + 30


def _finite(lse: Tensor) -> Tensor:
    """Magnitudes (B, H, Lq, 1)."""
    return torch.where(lse.detach().isfinite(), lse.detach(), 0.0).abs()[..., None]


def _worst_score(dense: Dense) -> Tensor:
    size = torch.where(dense.visible, dense.magnitude, 0.0)
    return size.amax(-1, keepdim=True) if size.shape[-1] else size.sum(-1, keepdim=True)


def _errors(
    dense: Dense, d_out: Tensor, d_lse: Tensor | None, v: Tensor, rounding: float, weight: Tensor, kept: Tensor | None, by: Rounded
) -> Errors:
    """d_out and v are magnitudes."""
    p = dense.p.detach()
    kept_p = p if kept is None else p * kept
    d_p = (d_out @ v.mT) * (1 if kept is None else kept)
    from_out = (d_out * (rounding * dense.out.detach().abs() + (weight + by.weights) * (kept_p @ v))).sum(-1, keepdim=True)
    d_score = p * (d_p + (p * d_p).sum(-1, keepdim=True))
    if d_lse is not None:
        total = p.sum(-1, keepdim=True)
        d_score = d_score + p / torch.where(total > 0, total, 1.0) * d_lse.detach().double().abs()[..., None]
    return Errors(weight, kept_p, d_score, d_score * (3 * weight + 2 * by.products) + p * from_out, from_out, p * d_p)


def _bound_of_sinks(sinks: Tensor, dense: Dense, errors: Errors, of_sum: float) -> Tensor:
    mixed = errors.mixed.sum(-1)
    own = (1 - dense.p.detach().sum(-1)).clamp(min=0) * mixed
    error = own * errors.weight.squeeze(-1) * 4 + of_sum * mixed + errors.from_out.squeeze(-1)
    return error.sum((0, 2)) + own.sum((0, 2)) * ROUNDING[sinks.dtype] * 1.01


def _bound_of_bias(bias: Tensor, rule: Rule, where: Places, size: Tensor, error: Tensor) -> Tensor:
    """Scores' gradients and errors, gathered from their keys into slots."""
    _, heads, queries, keys = size.shape
    inside, tap = rule.taps(heads, queries, keys, where.shift)
    slot = torch.where(inside, tap + (rule.left or 0), rule.width).expand(size.shape)
    sizes, errors = (x.new_zeros(*x.shape[:3], rule.width + 1).scatter_add(-1, slot, x)[..., :-1] for x in (size, error))
    if bias.ndim == 2:
        sizes, errors = sizes.sum((0, 2)), errors.sum((0, 2))
    return errors + sizes * ROUNDING[bias.dtype] * 1.01 + 4 * least(bias.dtype)

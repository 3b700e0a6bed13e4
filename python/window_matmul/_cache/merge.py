# python/window_matmul/_cache/merge.py: one attention from attentions over parts of the keys.
import torch
from torch import Tensor


def merge(parts: list[tuple[Tensor, Tensor]], sinks: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The softmax over all keys from (out, split lse) over each part, both in the sums' dtype: rounded once, to `dtype`.

    Not from log-sum-exps, which beside a score of -1e9 lose the sum: (..., 2), the highest score and the log of the sum beside it.

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv:1805.02867).
    """
    highest, logs = torch.stack([part for _, part in parts]).unbind(-1)  # (parts, B, H, n)
    top = highest.amax(0)
    if sinks is not None:
        sinks = sinks[:, None].to(top.dtype).clamp(max=torch.finfo(top.dtype).max)  # an infinite one leaves nothing, and no NaN
        top = torch.maximum(top, sinks)
    top = top.where(top != -torch.inf, 0.0)  # a query without keys: all weights are 0
    weights = (highest - top + logs).exp()
    total = weights.sum(0)
    if sinks is not None:
        total = total + (sinks - top).exp()
    weights = weights / total.where(total != 0, 1.0)
    merged = sum(weight[..., None] * out for weight, (out, _) in zip(weights, parts, strict=True))
    assert isinstance(merged, Tensor)
    return merged.to(dtype)

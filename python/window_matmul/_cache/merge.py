# python/window_matmul/_cache/merge.py: one attention from attentions over parts of the keys.
import torch
from torch import Tensor


def merge(parts: list[tuple[Tensor, Tensor]], sinks: Tensor | None) -> Tensor:
    """The softmax over all keys from (out, lse) over each part: outputs weighted with exp(lse), in the precision of lse.

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv:1805.02867).
    """
    lse = torch.stack([part for _, part in parts])  # (parts, B, H, n)
    highest = lse.amax(0)
    if sinks is not None:
        sinks = sinks[:, None].to(lse.dtype)
        highest = torch.maximum(highest, sinks)
    highest = highest.where(highest != -torch.inf, 0.0)  # a query without keys: all weights are 0
    weights = (lse - highest).exp()
    total = weights.sum(0)
    if sinks is not None:
        total = total + (sinks - highest).exp()
    weights = weights / total.where(total != 0, 1.0)
    merged = sum(weight[..., None] * out.to(lse.dtype) for weight, (out, _) in zip(weights, parts, strict=True))
    assert isinstance(merged, Tensor)
    return merged.to(parts[0][0].dtype)

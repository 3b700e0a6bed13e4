# python/window_matmul/hf/_dense.py: attention with all scores as a tensor, for what the operators cannot say.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    softcap: float,
    sinks: Tensor | None,
    position_bias: Tensor | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, Lq, Dv) and weights (B, H, Lq, Lk). `mask` is bool, or added to the scores. A query without keys gives 0."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if sinks is not None:
        sinks = sinks.to(scores.dtype) if sinks.ndim == 4 else sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], -1)
    if mask is not None or position_bias is not None:
        none = (scores == -torch.inf).all(-1, keepdim=True)
        weights = scores.masked_fill(none, 0.0).softmax(-1).masked_fill(none, 0.0)
    else:
        weights = scores.softmax(-1)
    weights = F.dropout(weights[..., : key.shape[2]], dropout).to(value.dtype)
    return weights @ value, weights

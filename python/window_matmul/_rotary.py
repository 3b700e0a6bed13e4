# python/window_matmul/_rotary.py: rotary position embeddings: pairs of features of queries and keys, turned by their position.
"""Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (arXiv:2104.09864)."""

import torch
from torch import Tensor


def check_base(base: object, head_dim: int) -> float | None:
    if base is None:
        return None
    need = "a finite float above 0, the base of the periods, or None"
    if isinstance(base, bool) or not isinstance(base, int | float):
        raise TypeError(f"rotary is {base!r} ({type(base).__name__}); it needs to be {need}")
    if not 0 < base < float("inf"):
        raise ValueError(f"rotary is {base}; it needs to be {need}")
    if head_dim % 2:
        raise ValueError(
            f"rotary is {base} with {head_dim} features a head; it needs to have an even number of them, which are turned in pairs"
        )
    return float(base)


def turns(base: float, head_dim: int, length: int, start: int | list[int] | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, (L, D / 2), of positions start, start + 1, ...; (B, 1, L, D / 2) with a start for each row of the batch.

    Angles are computed in float64: in float32 a position of a million has an error of 0.06 radians.
    """
    periods = torch.arange(0, head_dim, 2, dtype=torch.float64, device=like.device) / head_dim
    first = torch.as_tensor(start, dtype=torch.float64, device=like.device)[..., None]
    positions = first + torch.arange(length, device=like.device)
    if positions.ndim == 2:
        positions = positions[:, None]
    angles = positions[..., None] * base**-periods
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return angles.cos().to(dtype), angles.sin().to(dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Features i and i + D / 2 are a pair."""
    a, b = x.to(cos.dtype).chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

# python/window_matmul/testing/philox.py: which weights dropout keeps, from its definition: a counter-based generator, no sequence of draws.
"""Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011). Words are int64 here: products that
wrap have the right bits."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
ROUNDS = 10


def words(counter: list[Tensor], seed: int) -> list[Tensor]:
    """Four random words of a counter of four, elementwise."""
    key = [seed & WORD, seed >> 32]
    for _ in range(ROUNDS):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        high = [(x >> 32) & WORD for x in (first, second)]
        counter = [high[1] ^ counter[1] ^ key[0], second & WORD, high[0] ^ counter[3] ^ key[1], first & WORD]
        key = [(key[0] + 0x9E3779B9) & WORD, (key[1] + 0xBB67AE85) & WORD]
    return counter


def kept(seed: int, p: float, shape: tuple[int, int, int, int], first_sequence: int = 0) -> Tensor:
    """What dropout multiplies the weights (B, H, Lq, Lk) with: 0, or 1 / (1 - p). A key's word is that of its four's number."""
    sequence, head, query, key = (torch.arange(n).view([-1 if i == at else 1 for i in range(4)]) for at, n in enumerate(shape))
    drawn = torch.stack([x.expand(shape) for x in words([key >> 2, query, head, sequence + first_sequence], seed)], -1)
    word = drawn.gather(-1, (key & 3).expand(shape)[..., None]).squeeze(-1)
    return (word >= int(p * 2**32)).double() / (1 - p)

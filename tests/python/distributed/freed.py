"""tests/python/distributed/freed.py: what a rank holds after steps of training."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor

from window_matmul import distributed


def tensors_after_steps(group: Any, steps: int) -> list[int]:
    """How many tensors there are after each step, those that only a cycle holds left out."""
    counts = []
    for _ in range(steps):
        x = torch.randn(1, 1, 12, 4, requires_grad=True)
        distributed.window_attention(2 * x, 3 * x, 4 * x, (3, 1), group=group).sum().backward()
        del x
        gc.collect()
        counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    return counts

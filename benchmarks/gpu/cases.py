# benchmarks/gpu/cases.py: what is measured on a GPU: sizes beyond its caches, and the bytes that must be moved at least.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cases import DTYPES, PAIR, Case

DIRECTIONS = ("forward", "first gradient", "second gradient", "backward")  # backward: both gradients


@dataclass(frozen=True)
class GpuCase(Case):
    """The pair on heads of 16384 queries and keys, symmetric windows."""

    threads: int = 0
    heads: int = 32

    def __str__(self) -> str:
        return f"{self.op}-w{self.window}-d{self.dim}-{self.dtype}"

    def floor_bytes(self, direction: str) -> int:
        """The band and two (L, d) tensors a head, each read or written once; both gradients are two kernels."""
        return (self.band_bytes + 2 * self.rows_bytes) * (2 if direction == "backward" else 1)

    def tensors(self, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and the gradient of the output, random, made on the device."""
        random = torch.Generator(device).manual_seed(self.window)

        def normal(columns: int) -> Tensor:
            shape = (self.batch, self.heads, self.length, columns)
            return torch.randn(shape, generator=random, device=device).to(DTYPES[self.dtype])

        rows, other = normal(self.dim), normal(self.dim)
        if self.op == "window":
            return (rows, other.mT), normal(self.width)
        with torch.device(device):
            inside = self.inside(0, self.length)
        return (normal(self.width).masked_fill_(~inside, 0.0), rows), other


def gpu_cases(quick: bool, length: int = 16384) -> list[GpuCase]:
    """Every window and head dim in the two main dtypes, one size in the others."""
    windows, dims = ((128,), (64,)) if quick else ((64, 128, 256, 512), (64, 128))
    main = [GpuCase(op, length, w, dtype, dim=dim) for op in PAIR for dtype in ("bf16", "fp32") for w in windows for dim in dims]
    return main + ([] if quick else [GpuCase(op, length, 128, dtype) for op in PAIR for dtype in ("fp16", "fp64")])

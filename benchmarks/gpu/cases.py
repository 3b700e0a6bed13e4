# benchmarks/gpu/cases.py: what is measured on a GPU: sizes beyond its caches, and the bytes that must be moved at least; useful operations.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cases import DTYPES, PAIR, Case

DIRECTIONS = ("forward", "first gradient", "second gradient", "backward")  # backward: both gradients
STEP = ("forward", "backward", "step")  # of fused attention: all three gradients; both passes


@dataclass(frozen=True)
class GpuCase(Case):
    """Heads of 16384 queries and keys, symmetric windows: the pair, or fused attention."""

    threads: int = 0
    heads: int = 32

    def __str__(self) -> str:
        if self.op in PAIR:
            return f"{self.op}-w{self.window}-d{self.dim}-{self.dtype}"
        return f"{self.op}-L{self.length}-h{self.heads}-w{self.window}{'-causal' * self.causal}-d{self.dim}-{self.dtype}"

    @property
    def directions(self) -> tuple[str, ...]:
        return DIRECTIONS if self.op in PAIR else STEP

    def useful_flops(self, direction: str) -> int:
        """Of the pairs that are seen, two for each number of the head dim and product: 2 products forward, 5 backward."""
        if self.op in PAIR:
            return self.flops(False) * (2 if direction == "backward" else 1)
        forward, step = self.flops(False), self.flops(True)
        return {"forward": forward, "backward": step - forward, "step": step}[direction]

    def floor_bytes(self, direction: str) -> int:
        """The band and two (L, d) tensors a head, each read or written once; both gradients are two kernels. Fused attention has q, k, v,
        out, d_out, the gradients, and the log-sum-exp."""
        if self.op not in PAIR:
            lse = self.batch * self.heads * self.length * max(4, self.itemsize)
            forward, backward = 4 * self.rows_bytes + lse, 8 * self.rows_bytes + lse
            return {"forward": forward, "backward": backward, "step": forward + backward}[direction]
        return (self.band_bytes + 2 * self.rows_bytes) * (2 if direction == "backward" else 1)

    def tensors(self, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and the gradient of the output, random, made on the device."""
        random = torch.Generator(device).manual_seed(self.window)

        def normal(columns: int) -> Tensor:
            shape = (self.batch, self.heads, self.length, columns)
            return torch.randn(shape, generator=random, device=device).to(DTYPES[self.dtype])

        if self.op not in PAIR:
            return (normal(self.dim), normal(self.dim), normal(self.dim)), normal(self.dim)
        rows, other = normal(self.dim), normal(self.dim)
        if self.op == "window":
            return (rows, other.mT), normal(self.width)
        with torch.device(device):
            inside = self.inside(0, self.length)
        return (normal(self.width).masked_fill_(~inside, 0.0), rows), other

    def inputs(self) -> tuple[Tensor, ...]:
        """On the default device."""
        return self.tensors(torch.get_default_device())[0]


def fused_cases(quick: bool) -> list[GpuCase]:
    """64 heads of 16384, as the goals have it, first; then the other head dim, types, a causal window, shorter and longer sequences."""

    def case(length: int, window: int, dtype: str = "bf16", heads: int = 64, dim: int = 128, causal: bool = False) -> GpuCase:
        return GpuCase("fused", length, window, dtype, heads=heads, dim=dim, causal=causal)

    if quick:
        return [case(16384, 512)]
    found = [case(16384, w) for w in (128, 512, 2048)] + [case(16384, w, dim=64) for w in (128, 512, 2048)]
    found += [case(16384, 512, causal=True), case(16384, 512, "fp16"), case(16384, 128, "fp32", 16, 64)]
    return [*found, case(4096, 128), case(4096, 512), case(65536, 512, heads=16)]


def gpu_cases(quick: bool, length: int = 16384) -> list[GpuCase]:
    """Every window and head dim in the two main dtypes, one size in the others."""
    windows, dims = ((128,), (64,)) if quick else ((64, 128, 256, 512), (64, 128))
    main = [GpuCase(op, length, w, dtype, dim=dim) for op in PAIR for dtype in ("bf16", "fp32") for w in windows for dim in dims]
    return main + ([] if quick else [GpuCase(op, length, 128, dtype) for op in PAIR for dtype in ("fp16", "fp64")])

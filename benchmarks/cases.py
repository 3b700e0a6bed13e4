# benchmarks/cases.py: what is measured: an operator, its sizes, its inputs and its useful work.
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

OPS = ("window", "unwindow", "attention")
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRODUCTS = {"window": 1, "unwindow": 1, "attention": 2}  # matrix products over the band, forward


@dataclass(frozen=True)
class Case:
    """Self attention: as many keys as queries, w keys seen on each side."""

    op: str
    length: int
    window: int
    dtype: str = "fp32"
    threads: int = 2
    batch: int = 1
    heads: int = 8
    dim: int = 64

    def __str__(self) -> str:
        return f"{self.op}-L{self.length}-w{self.window}-{self.dtype}-t{self.threads}"

    @property
    def width(self) -> int:
        return 2 * self.window + 1

    @property
    def pairs(self) -> int:
        """Of a query and a key it sees, over batch and heads; a window never exceeds the sequence here."""
        return self.batch * self.heads * (self.length * self.width - self.window * (self.window + 1))

    def flops(self, backward: bool) -> int:
        """Useful ones: a multiplication and an addition for each pair and dimension of each product; a gradient is a product too."""
        return 2 * self.dim * self.pairs * PRODUCTS[self.op] * (3 if backward else 1)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def band_bytes(self) -> int:
        return self.batch * self.heads * self.length * self.width * self.itemsize

    @property
    def rows_bytes(self) -> int:
        """One (L, d) tensor for each head: q, k, v, or a gradient of one."""
        return self.batch * self.heads * self.length * self.dim * self.itemsize

    def inputs(self) -> tuple[Tensor, ...]:
        """window: q, k (..., d, L); unwindow: a, v; attention: q, k, v of (..., L, d). Always the same numbers."""
        generator = torch.Generator().manual_seed(self.length + self.window)
        rows = [self._normal(self.dim, generator) for _ in range(3 if self.op == "attention" else 2)]
        if self.op == "window":
            return rows[0], rows[1].mT
        if self.op == "attention":
            return tuple(rows)
        a = self._normal(self.width, generator)
        # Hugging Face's product needs zeros where there is no key; everybody gets them.
        return a.masked_fill_(~self.inside(0, self.length), 0.0), rows[1]

    def output_gradient(self) -> Tensor:
        return self._normal(self.width if self.op == "window" else self.dim, torch.Generator().manual_seed(1))

    def inside(self, first: int, stop: int) -> Tensor:
        """(stop - first, W): whether the key of each slot of these queries exists."""
        key = torch.arange(first, stop)[:, None] + torch.arange(-self.window, self.window + 1)
        return (key >= 0) & (key < self.length)

    def _normal(self, columns: int, generator: torch.Generator) -> Tensor:
        return torch.randn(self.batch, self.heads, self.length, columns, generator=generator).to(DTYPES[self.dtype])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


LENGTHS = (4096, 16384)
WINDOWS = (16, 64, 128, 256, 512)


def pair_cases(threads: int, quick: bool) -> list[Case]:
    """The explicit pair against everybody."""
    lengths, windows = ((4096,), (64, 256)) if quick else (LENGTHS, WINDOWS)
    return [Case(op, length, w, threads=threads) for op in ("window", "unwindow") for length in lengths for w in windows]


def attention_cases(threads: int, quick: bool) -> list[Case]:
    """window_matmul, window_softmax, unwindow_matmul in a row against dense attention with a mask."""
    if quick:
        return [Case("attention", 2048, 64, threads=threads)]
    sizes = [(1024, 64), (2048, 64), (4096, 64), (8192, 64), (4096, 512)]
    return [Case("attention", length, w, threads=threads) for length, w in sizes]


def dtype_cases(threads: int, quick: bool) -> list[Case]:
    dtypes = ("bf16",) if quick else ("fp64", "bf16", "fp16")
    return [Case(op, 4096, 256, dtype, threads) for op in ("window", "unwindow") for dtype in dtypes]

# benchmarks/cases.py: what is measured: an operator, its sizes, its inputs and its useful work.
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

OPS = ("window", "unwindow", "attention", "fused", "decode")
PAIR = ("window", "unwindow")
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Matrix products over the band, forward and with backward: fused attention must form its scores once more in the backward pass.
PRODUCTS = {"window": (1, 3), "unwindow": (1, 3), "attention": (2, 6), "fused": (2, 7), "decode": (2, 7)}


@dataclass(frozen=True)
class Case:
    """Self attention, w keys seen on each side or, causal, on the left one; decode: one query at the end of a cache of `length` keys."""

    op: str
    length: int
    window: int
    dtype: str = "fp32"
    threads: int = 2
    batch: int = 1
    heads: int = 8
    dim: int = 64
    causal: bool = False
    kv_heads: int = 0  # 0: as many as heads

    def __str__(self) -> str:
        dim = "" if self.dim == 64 else f"-d{self.dim}"
        return f"{self.op}-L{self.length}-w{self.window}{'-causal' * self.causal}{dim}-{self.dtype}-t{self.threads}"

    @property
    def left(self) -> int:
        return self.window

    @property
    def right(self) -> int:
        return 0 if self.causal else self.window

    @property
    def width(self) -> int:
        return self.left + 1 + self.right

    @property
    def queries(self) -> int:
        return 1 if self.op == "decode" else self.length

    @property
    def pairs(self) -> int:
        """Of a query and a key it sees, over batch and heads; a window never exceeds the sequence here."""
        lost = 0 if self.op == "decode" else sum(side * (side + 1) // 2 for side in (self.left, self.right))
        return self.batch * self.heads * (self.queries * self.width - lost)

    def flops(self, backward: bool) -> int:
        """Useful ones: a multiplication and an addition for each pair and dimension of each product; a gradient is a product too."""
        return 2 * self.dim * self.pairs * PRODUCTS[self.op][backward]

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

    @property
    def results_bytes(self) -> int:
        """Output, log-sum-exp and the three gradients of fused attention: what a training step cannot do without."""
        return 4 * self.rows_bytes + self.batch * self.heads * self.length * max(4, self.itemsize)

    @property
    def cache_bytes(self) -> int:
        """Keys and values that a decoded token sees."""
        return 2 * self.batch * (self.kv_heads or self.heads) * self.width * self.dim * self.itemsize

    def inputs(self) -> tuple[Tensor, ...]:
        """window: q, k (..., d, L); unwindow: a, v; all others: q, k, v of (..., L, d). Always the same numbers."""
        generator = torch.Generator().manual_seed(self.length + self.window)
        if self.op == "decode":
            return self._normal(self.dim, generator), *(self._normal(self.dim, generator, cached=True) for _ in range(2))
        rows = [self._normal(self.dim, generator) for _ in range(2 if self.op in PAIR else 3)]
        if self.op == "window":
            return rows[0], rows[1].mT
        if self.op != "unwindow":
            return tuple(rows)
        a = self._normal(self.width, generator)
        # Hugging Face's product needs zeros where there is no key; everybody gets them.
        return a.masked_fill_(~self.inside(0, self.length), 0.0), rows[1]

    def output_gradient(self) -> Tensor:
        return self._normal(self.width if self.op == "window" else self.dim, torch.Generator().manual_seed(1))

    def inside(self, first: int, stop: int) -> Tensor:
        """(stop - first, W): whether the key of each slot of these queries exists."""
        key = torch.arange(first, stop)[:, None] + torch.arange(-self.left, self.right + 1)
        return (key >= 0) & (key < self.length)

    def sees(self, first: int, stop: int, low: int, high: int) -> Tensor:
        """(stop - first, high - low): whether these queries see these keys."""
        distance = torch.arange(low, high) - torch.arange(first, stop)[:, None]
        return (distance >= -self.left) & (distance <= self.right)

    def _normal(self, columns: int, generator: torch.Generator, cached: bool = False) -> Tensor:
        heads, rows = (self.kv_heads or self.heads, self.length) if cached else (self.heads, self.queries)
        return torch.randn(self.batch, heads, rows, columns, generator=generator).to(DTYPES[self.dtype])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


LENGTHS = (4096, 16384)
WINDOWS = (16, 64, 128, 256, 512)


def pair_cases(threads: int, quick: bool) -> list[Case]:
    """The explicit pair against everybody."""
    lengths, windows = ((4096,), (64, 256)) if quick else (LENGTHS, WINDOWS)
    return [Case(op, length, w, threads=threads) for op in PAIR for length in lengths for w in windows]


def attention_cases(threads: int, quick: bool) -> list[Case]:
    """window_matmul, window_softmax, unwindow_matmul in a row against dense attention with a mask."""
    if quick:
        return [Case("attention", 2048, 64, threads=threads)]
    sizes = [(1024, 64), (2048, 64), (4096, 64), (8192, 64), (4096, 512)]
    return [Case("attention", length, w, threads=threads) for length, w in sizes]


def dtype_cases(threads: int, quick: bool) -> list[Case]:
    dtypes = ("bf16",) if quick else ("fp64", "bf16", "fp16")
    return [Case(op, 4096, 256, dtype, threads) for op in PAIR for dtype in dtypes]


FUSED_WINDOWS = (16, 64, 128, 256, 512, 1024)


def fused_cases(threads: int, quick: bool) -> list[Case]:
    """window_attention against everybody: every window, then other head dims, lengths, one thread, and a causal window."""
    if quick:
        return [Case("fused", 4096, 256, threads=threads)]
    cases = [Case("fused", length, w, threads=threads) for length in LENGTHS for w in FUSED_WINDOWS]
    cases += [Case("fused", 4096, w, threads=threads, dim=dim) for dim in (32, 96, 128, 256) for w in (128, 256)]
    cases += [Case("fused", length, 128, threads=threads) for length in (1024, 2048, 8192, 32768, 65536)]
    cases += [Case("fused", 4096, w, threads=1) for w in (64, 256) if threads != 1]
    return [*cases, Case("fused", 4096, 512, threads=threads, causal=True)]


def decode_cases(threads: int, quick: bool) -> list[Case]:
    """One token of a model with 32 heads that share 8 of keys and values, at the end of a cache of which it sees a quarter."""
    sizes: dict[str, Any] = {"length": 4096, "window": 1023, "heads": 32, "kv_heads": 8, "dim": 128, "causal": True}
    return [Case("decode", dtype=dtype, threads=threads, **sizes) for dtype in (("fp32",) if quick else ("fp32", "bf16"))]

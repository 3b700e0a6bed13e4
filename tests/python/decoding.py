"""tests/python/decoding.py: a sequence in pieces through a `RollingCache`, beside `window_attention` over the whole past."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from oracle import ROUNDING, check
from window_matmul import RollingCache, Window, window_attention


@dataclass(frozen=True)
class Shape:
    window: Window
    batch: int = 2
    kv_heads: int = 2
    groups: int = 2
    dim: int = 4
    value_dim: int = 3
    pinned: int = 0
    spare: int = 0
    dtype: torch.dtype = torch.float64
    there: bool = False  # the cache counts as one on a GPU does

    @property
    def heads(self) -> int:
        return self.kv_heads * self.groups

    @property
    def width(self) -> int:
        assert self.window.width is not None
        return self.window.width

    def cache(self) -> RollingCache:
        sizes = self.batch, self.kv_heads, self.dim, self.window
        with patch("window_matmul.cache._COUNTED_THERE", ("cpu",) if self.there else ()):
            return RollingCache(*sizes, value_head_dim=self.value_dim, num_pinned=self.pinned, spare=self.spare, dtype=self.dtype)

    def tokens(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        sizes = (self.heads, self.dim), (self.kv_heads, self.dim), (self.kv_heads, self.value_dim)
        q, k, v = (torch.randn(self.batch, heads, n, dim, dtype=torch.float64).to(self.dtype) for heads, dim in sizes)
        return q, k, v


@dataclass
class Decoder:
    """A cache, and beside it each row's keys and values from the beginning."""

    shape: Shape
    cache: RollingCache = field(init=False)
    keys: list[Tensor] = field(init=False)
    values: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.cache = self.shape.cache()
        _, k, v = self.shape.tokens(0)
        self.keys, self.values = list(k), list(v)

    def feed(self, n: int, options: dict[str, Any] | None = None, lengths: list[int] | None = None) -> None:
        """n tokens through both; what they give is equal to rounding, row by row."""
        q, k, v = self.shape.tokens(n)
        self.attend(q, k, v, options or {}, lengths)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], lengths: list[int] | None = None) -> None:
        out = self.cache.attend(q, k, v, **options, **({} if lengths is None else {"lengths": lengths}))
        assert out.shape == (*q.shape[:3], v.shape[3]) and out.dtype == q.dtype
        for row in range(self.shape.batch):
            one, new = slice(row, row + 1), q.shape[2] if lengths is None else lengths[row]
            self.keys[row] = torch.cat([self.keys[row], k[row, :, :new]], 1)
            self.values[row] = torch.cat([self.values[row], v[row, :, :new]], 1)
            bias = options.get("bias")
            row_options = options | {"bias": bias[one, :, :new] if bias is not None and bias.ndim == 4 else bias}
            exact = window_attention(
                q[one, :, :new],
                self.keys[row][None],
                self.values[row][None],
                (self.shape.window.left, 0),
                dilation=self.shape.window.dilation,
                global_tokens=self.shape.pinned,
                **row_options,
            )
            check(out[one, :, :new], exact.double(), self.bound(row), self.shape.dtype)
            assert (out[row, :, new:] == 0).all()
        lengths = [keys.shape[1] for keys in self.keys]
        assert self.cache.length == (lengths if len(set(lengths)) > 1 else max(lengths, default=0))

    def bound(self, row: int) -> float:
        """Both are averages of the values, rounded once, whose weights differ by the rounding of scores and sums."""
        sums = ROUNDING[torch.float64 if self.shape.dtype == torch.float64 else torch.float32]
        largest = float(self.values[row].double().abs().max()) if self.values[row].numel() else 0.0
        return largest * (2 * ROUNDING[self.shape.dtype] + 200 * sums)

    def reset(self, rows: list[int]) -> None:
        self.cache.reset(rows)
        for row in rows:
            self.keys[row], self.values[row] = self.keys[row][:, :0], self.values[row][:, :0]

    def crop(self, numbers: list[int]) -> None:
        self.cache.crop(numbers if len(set(numbers)) > 1 else max(numbers, default=0))
        for row, n in enumerate(numbers):
            kept = self.keys[row].shape[1] - n
            self.keys[row], self.values[row] = self.keys[row][:, :kept], self.values[row][:, :kept]

    def reorder(self, indices: list[int]) -> None:
        self.cache.reorder(indices)
        self.keys, self.values = [self.keys[i] for i in indices], [self.values[i] for i in indices]


SHAPE = Shape(Window(4, 0), batch=3, pinned=2)


def filled(shape: Shape = SHAPE, tokens: int = 9) -> Decoder:
    decoder = Decoder(shape)
    decoder.feed(tokens)
    return decoder


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) if isinstance(one[name], Tensor) else one[name] == other[name] for name in one
    )

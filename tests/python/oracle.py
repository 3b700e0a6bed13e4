"""tests/python/oracle.py: the definition of the band operators in dense float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from window_matmul.testing.bounds import DTYPES, ROUNDING, product_bound, rounding_of_sums, softmax_bound, softmax_gradient_bound

__all__ = [
    "DTYPES", "ROUNDING", "Band", "check", "exists_like", "product_bound", "rounding_of_sums", "softmax_bound", "softmax_gradient_bound",
    "unwindow_matmul", "window_matmul", "window_softmax",
]  # fmt: skip

FAR = 2**50  # farther than any key of a test, and small enough for int64 sums


@dataclass(frozen=True)
class Band:
    """Query i sees key j iff j = i + shift + t * dilation for a t in [-left, right] and 0 <= j < Lk. Slot c is t = c - left."""

    left: int
    right: int
    dilation: int | tuple[int, ...] = 1  # one for all, or one for each entry of dim -3
    query_offset: int | None = None  # shift; Lk - Lq where it is None

    @property
    def width(self) -> int:
        return self.left + 1 + self.right

    @property
    def window(self) -> tuple[int, int]:
        return self.left, self.right

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the operators that say the same."""
        dilation = {} if self.dilation == 1 else {"dilation": self.dilation}
        return dilation if self.query_offset is None else dilation | {"query_offset": self.query_offset}

    @property
    def heads(self) -> int | None:
        return None if isinstance(self.dilation, int) else len(self.dilation)

    def keys(self, num_queries: int, num_keys: int) -> tuple[Tensor, Tensor]:
        """The key j(i, c) of every slot and whether there is one, (Lq, W) or (H, Lq, W). Slots without a key name key Lk."""
        shift = num_keys - num_queries if self.query_offset is None else self.query_offset
        dilations = (self.dilation,) if isinstance(self.dilation, int) else self.dilation
        steps = [[max(-FAR, min(FAR, shift + t * d)) for t in range(-self.left, self.right + 1)] for d in dilations]
        key = torch.arange(num_queries)[:, None] + torch.tensor(steps, dtype=torch.int64).reshape(len(steps), 1, self.width)
        key = key[0] if isinstance(self.dilation, int) else key
        exists = (key >= 0) & (key < num_keys)
        return torch.where(exists, key, num_keys), exists


def window_matmul(q: Tensor, k: Tensor, band: Band, fill: float = 0.0) -> Tensor:
    """a[i, c] = sum_n q[i, n] k[n, j(i, c)], `fill` where there is no key. Dense scores, then the band is cut out of them."""
    key, exists = band.keys(q.shape[-2], k.shape[-1])
    scores = torch.nn.functional.pad(q.double() @ k.double(), (0, 1))  # column Lk stands for every key that does not exist
    batch = torch.broadcast_shapes(scores.shape[:-2], key.shape[:-2])
    scores = scores.expand(*batch, *scores.shape[-2:])
    return torch.where(exists, scores.gather(-1, key.expand(*batch, *key.shape[-2:])), fill)


def unwindow_matmul(a: Tensor, v: Tensor, band: Band) -> Tensor:
    """o[i, n] = sum_c a[i, c] v[j(i, c), n]. The band is laid into a dense (Lq, Lk) matrix of zeros, and that is multiplied."""
    num_keys = v.shape[-2]
    key, _ = band.keys(a.shape[-2], num_keys)
    batch = torch.broadcast_shapes(a.shape[:-2], key.shape[:-2])
    a, key = a.double().expand(*batch, *a.shape[-2:]), key.expand(*batch, *key.shape[-2:])
    dense = a.new_zeros(*batch, a.shape[-2], num_keys + 1).scatter_add(-1, key, a)
    return dense[..., :num_keys] @ v.double()


def window_softmax(a: Tensor, band: Band, num_keys: int | None = None) -> Tensor:
    """exp(a) over its sum, both over the slots whose key exists; 0 elsewhere, and in rows without a finite slot."""
    _, exists = band.keys(a.shape[-2], a.shape[-2] if num_keys is None else num_keys)
    seen = torch.where(exists, a.double(), -torch.inf)
    top = seen.detach().amax(-1, keepdim=True)
    weights = (seen - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total == 0, 1.0, total)


def exists_like(a: Tensor, band: Band, num_keys: int) -> Tensor:
    """Which slots of band storage `a` have a key, in its shape."""
    return band.keys(a.shape[-2], num_keys)[1].expand(a.shape)


def check(actual: Tensor, exact: Tensor, bound: Tensor | float, dtype: torch.dtype) -> None:
    """`actual` has this dtype and the shape of `exact`, equals it where it is not finite, and is within `bound` elsewhere."""
    assert actual.dtype == dtype, f"dtype {actual.dtype}, expected {dtype}"
    assert actual.shape == exact.shape, f"shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    actual = actual.detach().double()
    same = actual == exact
    error = torch.where(same, 0.0, (actual - exact).abs())
    wrong = ~same & ~(error <= bound)  # a NaN is wrong too
    if wrong.any():
        at = tuple(int(x) for x in wrong.nonzero()[0])
        allowed = torch.as_tensor(bound, dtype=torch.float64).expand(exact.shape)
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} wrong; first at {at}: {actual[at]:.9g}, expected {exact[at]:.9g}, "
            f"allowed error {allowed[at]:.3g}"
        )

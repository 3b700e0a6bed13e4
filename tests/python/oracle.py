"""tests/python/oracle.py: the definition of the band operators in dense float64, and how far a correct kernel may be from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Half the distance from 1 to the next number: the relative error of one rounding.
ROUNDING = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
DTYPES = list(ROUNDING)
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


def rounding_of_sums(dtype: torch.dtype) -> float:
    return ROUNDING[torch.float64 if dtype == torch.float64 else torch.float32]


def product_bound(exact: Tensor, magnitude: Tensor, terms: int, dtype: torch.dtype) -> Tensor:
    """Largest error of a sum of `terms` products rounded once to `dtype`. `magnitude` is the sum of the products' magnitudes.

    A sum of n products in precision u errs by at most n u * magnitude to first order, in any order, fused or not; the oracle's own sum
    by as much in float64. The last term is the smallest number of the dtype, for results that underflow.
    """
    sums = (terms + 2) * (rounding_of_sums(dtype) + ROUNDING[torch.float64])
    return magnitude * sums + exact.abs() * ROUNDING[dtype] * 1.01 + torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def softmax_bound(exact: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
    """Largest error of a softmax of the rows of `a`. The argument of exp is rounded (an error of u * |a - top| in the exponent), exp is
    good to two units in the last place (4 u), in numerator and denominator; the sum adds W u; a weight below the normal numbers may
    vanish."""
    finite = torch.where(a.double().isfinite(), a.double(), 0.0)
    spread = finite.abs().amax(-1, keepdim=True) * 2 if a.shape[-1] else finite
    relative = (a.shape[-1] + spread * 2 + 10) * rounding_of_sums(dtype)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    return exact * (relative + ROUNDING[dtype] * 1.01) + torch.finfo(dtype).tiny * torch.finfo(dtype).eps + torch.finfo(sums).tiny


def softmax_gradient_bound(p: Tensor, a: Tensor, g: Tensor, dtype: torch.dtype) -> Tensor:
    """Largest error of p (g - sum p g), taken from probabilities that were rounded to `dtype` after errors as in `softmax_bound`."""
    size = p * (g.double().abs() + (p * g.double().abs()).sum(-1, keepdim=True))
    spread = a.double().abs().amax(-1, keepdim=True) * 2 if a.shape[-1] else 0.0
    tiny = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).tiny + torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    lost = tiny * (2 * g.double().abs().amax(-1, keepdim=True) * p.shape[-1] + 2) if p.numel() else 0.0  # weights that underflowed
    return size * (4 * ROUNDING[dtype] + (3 * p.shape[-1] + 6 * spread + 30) * rounding_of_sums(dtype)) + lost


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

# python/window_matmul/testing/bounds.py: how far a correct kernel may be from the exact result: rounding errors to first order.
from __future__ import annotations

import torch
from torch import Tensor

# Half the distance from 1 to the next number: the relative error of one rounding.
ROUNDING = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
DTYPES = list(ROUNDING)
# A float32 product of factors split into two parts of 11 bits each, without the product of the two small parts: 2**-22 for that product
# and as much for each of the factors' rests.
SPLIT_PRODUCT = 3 * 2.0**-22


def sums(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def rounding_of_sums(dtype: torch.dtype) -> float:
    return ROUNDING[sums(dtype)]


def least(dtype: torch.dtype) -> float:
    """The smallest number of the dtype, for results that underflow."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def product_bound(exact: Tensor, magnitude: Tensor, terms: int, dtype: torch.dtype, of_product: float = 0.0) -> Tensor:
    """Largest error of a sum of `terms` products rounded once to `dtype`. `magnitude` is the sum of the products' magnitudes.

    A sum of n products in precision u errs by at most n u * magnitude to first order, in any order, fused or not; the formula's own sum
    by as much in float64. `of_product`: what the products themselves may be off, relatively.
    """
    relative = (terms + 2) * (rounding_of_sums(dtype) + ROUNDING[torch.float64]) + of_product
    return magnitude * relative + exact.abs() * ROUNDING[dtype] * 1.01 + least(dtype)


def softmax_bound(exact: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
    """Largest error of a softmax of the rows of `a`. The argument of exp is rounded (an error of u * |a - top| in the exponent), exp is
    good to two units in the last place (4 u), in numerator and denominator; the sum adds W u; a weight below the normal numbers may
    vanish."""
    finite = torch.where(a.double().isfinite(), a.double(), 0.0)
    spread = finite.abs().amax(-1, keepdim=True) * 2 if a.shape[-1] else finite
    relative = (a.shape[-1] + spread * 2 + 10) * rounding_of_sums(dtype)
    return exact * (relative + ROUNDING[dtype] * 1.01) + least(dtype) + torch.finfo(sums(dtype)).tiny


def softmax_gradient_bound(p: Tensor, a: Tensor, g: Tensor, dtype: torch.dtype) -> Tensor:
    """Largest error of p (g - sum p g), taken from probabilities that were rounded to `dtype` after errors as in `softmax_bound`."""
    g, columns = g.double().abs(), p.shape[-1]
    if p.numel() == 0:
        return torch.zeros_like(p)
    size = p * (g + (p * g).sum(-1, keepdim=True))
    spread = a.double().abs().amax(-1, keepdim=True) * 2
    lost = (torch.finfo(sums(dtype)).tiny + least(dtype)) * (2 * g.amax(-1, keepdim=True) * columns + 2)  # weights that underflowed
    return size * (4 * ROUNDING[dtype] + (3 * columns + 6 * spread + 30) * rounding_of_sums(dtype)) + lost

"""tests/python/cases.py: the shapes and windows that the tests go through."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from oracle import Band
from window_matmul.testing.cases import LAYOUTS

__all__ = ["CASES", "LAYOUTS", "SMALL_CASES", "Case"]


@dataclass(frozen=True)
class Case:
    queries: int
    keys: int
    dim: int
    band: Band
    batch: tuple[int, ...] = field(default=(2,))

    def __str__(self) -> str:
        band, batch = self.band, "x".join(map(str, self.batch))
        offset = "" if band.query_offset is None else f",offset={band.query_offset}"
        sizes = f"{batch}:{self.queries}x{self.keys}x{self.dim}"
        return f"{sizes},window={band.left}+{band.right},dilation={band.dilation}{offset}"

    def tensors(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q (..., Lq, N), k (..., N, Lk), a (..., Lq, W), v (..., Lk, N). A test's seed is its own, so these are always the same."""
        ends = (self.queries, self.dim), (self.dim, self.keys), (self.queries, self.band.width), (self.keys, self.dim)
        q, k, a, v = (torch.randn(*self.batch, *end, dtype=torch.float64).to(dtype) for end in ends)
        return q, k, a, v


def _cases() -> list[Case]:
    plain = [
        (1, 1, 1, 0, 0), (8, 8, 4, 2, 2), (5, 5, 3, 0, 0), (4, 4, 3, 9, 9), (6, 6, 4, 3, 0), (6, 6, 4, 0, 3), (3, 3, 2, 700, 2),
        (17, 17, 9, 16, 1), (70, 70, 33, 9, 4), (130, 130, 64, 16, 16), (200, 200, 17, 64, 64), (65, 129, 40, 31, 5), (129, 65, 8, 5, 31),
        (1, 100, 64, 63, 0), (257, 257, 128, 100, 0), (100, 1, 5, 2, 120), (31, 64, 65, 1, 33), (300, 290, 24, 7, 8),
    ]  # fmt: skip
    cases = [Case(lq, lk, n, Band(left, right)) for lq, lk, n, left, right in plain]
    cases += [Case(33, 33, 16, Band(2, 2, dilation)) for dilation in (2, 3, 7, 32, 33, 2**60)]
    cases += [Case(75, 91, 20, Band(6, 3, 4)), Case(140, 140, 32, Band(20, 11, 3))]
    cases += [
        Case(21, 26, 6, Band(3, 2, (1, 5, 2)), (2, 3)),
        Case(90, 90, 16, Band(9, 9, (1, 2, 4, 8)), (4,)),
        Case(9, 9, 2, Band(1, 1, (7,)), (1,)),
    ]
    cases += [Case(12, 20, 5, Band(3, 2, 1, offset)) for offset in (0, 8, -1, -4, 19, 22, 23, -13, -14, -500, 500, 2**60, -(2**60))]
    cases += [Case(40, 70, 8, Band(5, 4, 3, offset)) for offset in (0, -17, 29, 83)]
    cases += [Case(30, 30, 4, Band(4, 0, (3, 1), -2), (2, 2)), Case(6, 6, 3, Band(1, 1, 2**60, 2**60))]
    cases += [Case(lq, lk, n, Band(2, 1)) for lq, lk, n in ((0, 5, 3), (5, 0, 3), (5, 5, 0), (0, 0, 0), (0, 0, 4), (0, 7, 0))]
    cases += [Case(4, 4, 2, Band(1, 1), batch) for batch in ((), (0,), (3, 0), (1, 1, 1), (2, 1, 3, 2))]
    return cases


CASES = _cases()
SMALL_CASES = [case for case in CASES if case.queries * case.keys * case.band.width <= 20000]

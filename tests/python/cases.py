"""tests/python/cases.py: the shapes, windows and memory layouts that the tests go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oracle import Band


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


def _in_nan(like: Tensor, steps: list[int], order: list[int]) -> Tensor:
    """The values of `like` at every steps[d]-th place, from an odd offset, of memory that is otherwise NaN; dims stored in `order`."""
    shape = [size * step + 1 for size, step in zip(like.shape, steps, strict=True)]
    memory = torch.full([shape[d] for d in order], torch.nan, dtype=like.dtype)
    view = memory.permute([order.index(d) for d in range(like.ndim)])
    for dim, (size, step) in enumerate(zip(like.shape, steps, strict=True)):
        view = view.narrow(dim, 1, size * step)[(slice(None),) * dim + (slice(None, None, step),)]
    return view.copy_(like)


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def transposed(x: Tensor) -> Tensor:
    """The last two dims are stored in the other order: k as a view of a (..., Lk, N) tensor."""
    return x.mT.contiguous().mT


def heads_inside(x: Tensor) -> Tensor:
    """Dims -3 and -2 are stored in the other order: a (B, L, H, D) tensor seen as (B, H, L, D). The plain layout where there is no head."""
    return x.transpose(-3, -2).contiguous().transpose(-3, -2) if x.ndim > 2 else x.contiguous()


def padded(x: Tensor) -> Tensor:
    """One element of NaN around each dim."""
    return _in_nan(x, [1] * x.ndim, list(range(x.ndim)))


def stepped(x: Tensor) -> Tensor:
    """Every second row and every third column, in NaN."""
    return _in_nan(x, [1] * (x.ndim - 2) + [2, 3], list(range(x.ndim)))


def reversed_dims(x: Tensor) -> Tensor:
    """All dims stored in the opposite order, with gaps: the batch is innermost."""
    return _in_nan(x, [2] * x.ndim, list(range(x.ndim))[::-1])


LAYOUTS: list[Callable[[Tensor], Tensor]] = [contiguous, transposed, heads_inside, padded, stepped, reversed_dims]

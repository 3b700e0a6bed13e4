# python/window_matmul/testing/cases.py: the shapes, windows and memory layouts that the checks go through, and the operators on them.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import functional, reference
from .bounds import product_bound, softmax_bound


@dataclass(frozen=True)
class Case:
    queries: int
    keys: int
    dim: int
    left: int
    right: int
    dilation: int | tuple[int, ...] = 1
    offset: int | None = None
    batch: tuple[int, ...] = (2,)

    def __str__(self) -> str:
        offset = "" if self.offset is None else f", offset {self.offset}"
        return f"{self.batch} {self.queries}x{self.keys}x{self.dim}, window {self.window}, dilation {self.dilation}{offset}"

    @property
    def width(self) -> int:
        return self.left + 1 + self.right

    @property
    def window(self) -> tuple[int, int]:
        return self.left, self.right

    @property
    def options(self) -> dict[str, Any]:
        return {"dilation": self.dilation, "query_offset": self.offset}

    def tensors(self, dtype: torch.dtype, random: torch.Generator) -> dict[str, Tensor]:
        """On the CPU: q (..., Lq, N), k (..., N, Lk), a (..., Lq, W), v (..., Lk, N)."""
        ends = {"q": (self.queries, self.dim), "k": (self.dim, self.keys), "a": (self.queries, self.width), "v": (self.keys, self.dim)}
        return {name: torch.randn(*self.batch, *end, generator=random, dtype=torch.float64).to(dtype) for name, end in ends.items()}

    def slots(self) -> tuple[Tensor, Tensor]:
        """The key of each slot and whether it exists, (Lq, W) or (H, Lq, W), from the definition, not from the formula's own helper."""
        shift = self.keys - self.queries if self.offset is None else self.offset
        steps = torch.arange(-self.left, self.right + 1)
        dilation = torch.as_tensor(self.dilation)[..., None]
        key = torch.arange(self.queries)[:, None] + (shift + steps * dilation)[..., None, :]
        return key, (key >= 0) & (key < self.keys)


@dataclass(frozen=True)
class Call:
    """An operator on a case, as a user calls it, by its formula, and how far the two may be apart."""

    name: str
    takes: tuple[str, ...]
    ours: Callable[..., Tensor]
    formula: Callable[..., Tensor]
    bound: Callable[[Tensor, list[Tensor], torch.dtype], Tensor]  # (exact, inputs, dtype)


def window_matmul(case: Case, fill: float = 0.0, of_product: float = 0.0) -> Call:
    def bound(exact: Tensor, inputs: list[Tensor], dtype: torch.dtype) -> Tensor:
        magnitude = reference.window_matmul(inputs[0].abs(), inputs[1].abs(), case.window, **case.options)
        allowed = product_bound(exact.where(exact.isfinite(), 0.0), magnitude, case.dim, dtype, of_product)
        return allowed.where(case.slots()[1].to(allowed.device), 0.0)  # the fill is exact

    return Call(
        "window_matmul",
        ("q", "k"),
        lambda q, k: functional.window_matmul(q, k, case.window, fill=fill, **case.options),
        lambda q, k: reference.window_matmul(q, k, case.window, fill=fill, **case.options),
        bound,
    )


def unwindow_matmul(case: Case, of_product: float = 0.0) -> Call:
    def bound(exact: Tensor, inputs: list[Tensor], dtype: torch.dtype) -> Tensor:
        magnitude = reference.unwindow_matmul(inputs[0].abs(), inputs[1].abs(), case.window, **case.options)
        return product_bound(exact, magnitude, case.width, dtype, of_product)

    return Call(
        "unwindow_matmul",
        ("a", "v"),
        lambda a, v: functional.unwindow_matmul(a, v, case.window, **case.options),
        lambda a, v: reference.unwindow_matmul(a, v, case.window, **case.options),
        bound,
    )


def window_softmax(case: Case) -> Call:
    return Call(
        "window_softmax",
        ("a",),
        lambda a: functional.window_softmax(a, case.window, num_keys=case.keys, **case.options),
        lambda a: reference.window_softmax(a, case.window, num_keys=case.keys, **case.options),
        lambda exact, inputs, dtype: softmax_bound(exact, inputs[0], dtype).where(case.slots()[1].to(exact.device), 0.0),
    )


def calls(case: Case) -> list[Call]:
    return [window_matmul(case), unwindow_matmul(case), window_softmax(case)]


def _small() -> list[Case]:
    plain = [
        (1, 1, 1, 0, 0), (8, 8, 4, 2, 2), (5, 5, 3, 0, 0), (4, 4, 3, 9, 9), (6, 6, 4, 3, 0), (6, 6, 4, 0, 3), (3, 3, 2, 700, 2),
        (17, 17, 9, 16, 1), (70, 70, 33, 9, 4), (130, 130, 64, 16, 16), (200, 200, 17, 64, 64), (65, 129, 40, 31, 5),
        (129, 65, 8, 5, 31), (1, 100, 64, 63, 0), (257, 257, 128, 100, 0), (100, 1, 5, 2, 120), (31, 64, 65, 1, 33),
        (300, 290, 24, 7, 8), (63, 64, 16, 32, 31), (64, 63, 32, 128, 0), (128, 128, 64, 64, 63), (127, 128, 96, 3, 3),
    ]  # fmt: skip
    cases = [Case(*sizes) for sizes in plain]
    cases += [Case(33, 33, 16, 2, 2, dilation) for dilation in (2, 3, 7, 32, 33, 2**40)]
    cases += [Case(75, 91, 20, 6, 3, 4), Case(140, 140, 32, 20, 11, 3), Case(21, 26, 6, 3, 2, (1, 5, 2), None, (2, 3))]
    cases += [Case(90, 90, 16, 9, 9, (1, 2, 4, 8), None, (4,)), Case(30, 30, 4, 4, 0, (3, 1), -2, (2, 2))]
    cases += [Case(12, 20, 5, 3, 2, 1, offset) for offset in (0, 8, -1, -4, 19, 22, 23, -13, -14, -500, 500, 2**40, -(2**40))]
    cases += [Case(40, 70, 8, 5, 4, 3, offset) for offset in (0, -17, 29, 83)]
    cases += [Case(24, 24, 8, 3, 3, batch=batch) for batch in ((), (1, 1, 1), (2, 1, 3, 2))]
    return cases


SMALL = _small()
EMPTY = [Case(lq, lk, n, 2, 1) for lq, lk, n in ((0, 5, 3), (5, 0, 3), (5, 5, 0), (0, 0, 0), (0, 0, 4), (0, 7, 0))]
EMPTY += [Case(4, 4, 2, 1, 1, batch=batch) for batch in ((0,), (3, 0))]
LARGE = [
    Case(1000, 1000, 64, 128, 128, batch=(2, 2)), Case(2048, 2048, 128, 256, 0), Case(1537, 1800, 96, 300, 5),
    Case(999, 999, 80, 129, 127, 3), Case(2048, 2048, 64, 64, 64, (1, 2, 4, 8), None, (4,)), Case(512, 1024, 256, 511, 512, 1, 17),
]  # fmt: skip


def random_case(random: torch.Generator, largest: int) -> Case:
    """Anything: lengths up to `largest`, windows up to twice that, sometimes dilated, moved, or with heads of their own dilation."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=random))

    batch = tuple(number(1, 3) for _ in range(number(0, 2)))
    queries = number(1, largest)
    keys = queries if number(0, 1) else number(1, largest)
    reach = number(0, 3) and 2 ** number(0, largest.bit_length())
    left, right = number(0, reach), number(0, reach)
    dilation: int | tuple[int, ...] = 1 if number(0, 1) else number(2, 9)
    if batch and number(0, 3) == 0:
        dilation = tuple(number(1, 5) for _ in range(batch[-1]))
    offset = number(-largest, largest) if number(0, 3) == 0 else None
    return Case(queries, keys, number(1, 140), left, right, dilation, offset, batch)


# ---- memory layouts -----------------------------------------------------------------------------------------------------------------
def _in_nan(like: Tensor, steps: list[int], order: list[int]) -> Tensor:
    """The values of `like` at every steps[d]-th place, from an odd offset, of memory that is otherwise NaN; dims stored in `order`."""
    shape = [size * step + 1 for size, step in zip(like.shape, steps, strict=True)]
    memory = torch.full([shape[d] for d in order], torch.nan, dtype=like.dtype, device=like.device)
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
    """A (B, L, H, D) tensor seen as (B, H, L, D)."""
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


def stride_zero(x: Tensor) -> Tensor:
    """Its first row, for all rows, without a copy of it."""
    return x[..., :1, :].expand_as(x)


LAYOUTS: list[Callable[[Tensor], Tensor]] = [contiguous, transposed, heads_inside, padded, stepped, reversed_dims]


def shifted(x: Tensor, elements: int) -> Tensor:
    """Contiguous, that many elements behind an address that is a multiple of 512 bytes or at least 64."""
    memory = torch.full((x.numel() + elements + 1,), torch.nan, dtype=x.dtype, device=x.device)
    return memory[elements : elements + x.numel()].view(x.shape).copy_(x)

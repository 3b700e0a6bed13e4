# python/window_matmul/distributed/routes.py: rows of tensors in messages: one to each rank, each way.
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .faults import Link, Messages, send_and_receive
from .layout import Plan, Range, Ranges, overlap, size_of

_FEW_RANGES = 8  # up to so many are copied one by one, more by an index


# ---- rows of tensors -------------------------------------------------------------------------------------------------------------------
def rows_of(x: Tensor, dim: int, ranges: Ranges) -> Tensor:
    if len(ranges) == 1:
        return x.narrow(dim, ranges[0][0], size_of(ranges))
    if len(ranges) <= _FEW_RANGES:
        return torch.cat([x.narrow(dim, 0, 0), *(x.narrow(dim, begin, end - begin) for begin, end in ranges)], dim)
    return x.index_select(dim, index_of(ranges, x.device))


def add_rows(x: Tensor, dim: int, ranges: Ranges, rows: Tensor) -> None:
    if len(ranges) <= _FEW_RANGES:
        for (begin, end), part in zip(ranges, rows.split([end - begin for begin, end in ranges], dim), strict=True):
            x.narrow(dim, begin, end - begin).add_(part)
    else:
        x.index_add_(dim, index_of(ranges, x.device), rows)


def index_of(ranges: Ranges, device: torch.device) -> Tensor:
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    return torch.cat([nothing, *(torch.arange(begin, end, device=device) for begin, end in ranges)])


# ---- messages --------------------------------------------------------------------------------------------------------------------------
class Form(NamedTuple):
    """A tensor without its elements, and the dim of its rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    dim: int

    def with_rows(self, ranges: Ranges) -> Form:
        return self._replace(shape=(*self.shape[: self.dim], size_of(ranges), *self.shape[self.dim + 1 :]))

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _pack(tensors: Sequence[Tensor]) -> Tensor:
    """One message. Wide dtypes go first, so that all are aligned."""
    parts = [x.contiguous().view(-1).view(torch.uint8) for x in sorted(tensors, key=lambda x: -x.element_size())]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _unpack(message: Tensor, forms: Sequence[Form]) -> list[Tensor]:
    """Views of a message."""
    found, at = [message] * len(forms), 0
    for n in sorted(range(len(forms)), key=lambda n: -forms[n].dtype.itemsize):
        found[n] = message[at : at + forms[n].nbytes].view(forms[n].dtype).view(forms[n].shape)
        at += forms[n].nbytes
    return found


def _post(
    link: Link, sends: Sequence[tuple[int, Sequence[Tensor]]], receives: Sequence[tuple[int, list[Form]]], device: torch.device
) -> tuple[Messages, list[list[Tensor]]]:
    """The messages, and what they will bring from each rank."""
    buffers = [(peer, torch.empty(sum(x.nbytes for x in forms), dtype=torch.uint8, device=device)) for peer, forms in receives]
    messages = send_and_receive(link, [(peer, _pack(tensors)) for peer, tensors in sends], buffers)
    return messages, [_unpack(buffer, forms) for (_, buffer), (_, forms) in zip(buffers, receives, strict=True)]


class Route(NamedTuple):
    """A plan, on which rows of tensors of these forms go out, and gradients of such rows come back."""

    link: Link
    plan: Plan
    forms: tuple[Form, ...]
    device: torch.device

    def out(self, tensors: Sequence[Tensor]) -> tuple[Messages, list[list[Tensor]]]:
        both = list(zip(tensors, self.forms, strict=True))
        sends = [(peer, [rows_of(x, form.dim, ranges) for x, form in both]) for peer, ranges in self.plan.sends]
        return _post(
            self.link, sends, [(peer, [x.with_rows(ranges) for x in self.forms]) for peer, ranges in self.plan.receives], self.device
        )

    def back(self, gradients: Sequence[Sequence[Tensor]]) -> tuple[Messages, list[list[Tensor]]]:
        sends = [(peer, of_peer) for (peer, _), of_peer in zip(self.plan.receives, gradients, strict=True)]
        return _post(self.link, sends, [(peer, [x.with_rows(ranges) for x in self.forms]) for peer, ranges in self.plan.sends], self.device)

    def add(self, gradients: Sequence[Tensor], came_back: Sequence[Sequence[Tensor]]) -> None:
        """In place, in the order of the ranks."""
        for (_, ranges), of_peer in zip(self.plan.sends, came_back, strict=True):
            for x, form, rows in zip(gradients, self.forms, of_peer, strict=True):
                add_rows(x, form.dim, ranges, rows)

    def by_peer(self, pieces: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        return [pieces[n * len(self.forms) : (n + 1) * len(self.forms)] for n in range(len(self.plan.receives))]


def route_of(link: Link, plan: Plan, tensors: Sequence[Tensor], dims: Sequence[int]) -> Route:
    return Route(link, plan, tuple(Form(tuple(x.shape), x.dtype, d) for x, d in zip(tensors, dims, strict=True)), tensors[0].device)


# ---- what is there afterwards ----------------------------------------------------------------------------------------------------------
class Part(NamedTuple):
    """Neighbouring rows of one of several tensors."""

    source: int
    rows: Range


class Rows:
    """Rows of one tensor of the whole sequence: this rank's, which begin at its row `at`, and those that have come."""

    def __init__(self, dim: int, own: Tensor, runs: Ranges, at: int = 0) -> None:
        self.dim, self._sources = dim, [own]
        self._parts: list[tuple[Range, int, int]] = []  # places, which tensor, its first row of them
        self._add(runs, at)

    def _add(self, ranges: Ranges, at: int) -> None:
        for begin, end in ranges:
            self._parts.append(((begin, end), len(self._sources) - 1, at))
            at += end - begin
        self._parts.sort()

    def add(self, plan: Plan, pieces: Sequence[Tensor]) -> None:
        """Of each rank in the plan; none before they have come."""
        for (_, ranges), x in zip(plan.receives, pieces, strict=False):
            self._sources.append(x)
            self._add(ranges, 0)

    def where(self, ranges: Ranges) -> list[Part]:
        """All of them have to be there."""
        found = ((of, source, at, overlap((of,), ranges)) for of, source, at in self._parts)
        return [Part(source, (at + begin - of[0], at + end - of[0])) for of, source, at, here in found for begin, end in here]

    def take(self, ranges: Ranges) -> Tensor:
        parts = [self._sources[source].narrow(self.dim, begin, end - begin) for source, (begin, end) in self.where(ranges)]
        if not parts:
            return self._sources[0].narrow(self.dim, 0, 0)
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.dim)

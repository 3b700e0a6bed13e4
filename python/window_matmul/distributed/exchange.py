# python/window_matmul/distributed/exchange.py: rows to other ranks, their gradients back: one message to each rank, each way.
"""Forward, `Trip.go` posts the messages and `Trip.arrive` waits for them: what is computed in between costs no waiting. Backward the same
happens the other way round, by the order in which autograd runs: what was made last, the rows that need others' keys, comes first; then
`_Arrive` sends the gradients of foreign rows to their owners; then everything that was computed while the rows travelled; and `_Depart`
waits and adds, in the order of the ranks. Both hang on one another by an anchor, a tensor without elements, and the caller hangs the
result on it (`tie`), so that each rank does its part even where its own result does not depend on any other's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .faults import Link, Messages, send_and_receive
from .layout import Plan, Range, Ranges, overlap, size_of

Tensors = tuple[Tensor, ...]
MaybeTensors = tuple[Tensor | None, ...]
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


def _apply(function: Any, *args: Any) -> Any:
    return function.apply(*args)


# ---- once differentiable, with time to compute in between ------------------------------------------------------------------------------
class _Depart(Function):
    """(trip, *tensors) -> an anchor, those of the tensors that have gradients, and the pieces to come."""

    @staticmethod
    def forward(ctx: Any, trip: Trip, *tensors: Tensor) -> Tensors:
        pieces = trip.depart(tensors)
        ctx.trip = trip
        ctx.mark_non_differentiable(*trip.without_gradient(pieces))
        ctx.set_materialize_grads(False)
        moving = [tensors[n] for n in trip.moving]
        return moving[0].new_empty(0), *moving, *pieces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _anchor: Tensor | None, *gradients: Tensor | None) -> MaybeTensors:
        return None, *ctx.trip.add_back(gradients)


class _Arrive(Function):
    """(trip, anchor, *pieces) -> the same, filled."""

    @staticmethod
    def forward(ctx: Any, trip: Trip, anchor: Tensor, *pieces: Tensor) -> Tensors:
        trip.wait()
        ctx.trip = trip
        ctx.mark_non_differentiable(*trip.without_gradient(pieces))
        return anchor, *pieces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, anchor: Tensor, *gradients: Tensor) -> MaybeTensors:
        ctx.trip.send_back(gradients)
        return None, anchor, *(None for _ in gradients)


class _Tie(Function):
    """(out, anchor) -> out, whose gradient goes to both."""

    @staticmethod
    def forward(_ctx: Any, out: Tensor, _anchor: Tensor) -> Tensor:
        return out.detach()  # a tensor of its own, and no view, which nobody could change in place

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> Tensors:
        return gradient, gradient.new_empty(0)


class Trip:
    """One exchange: the tensors leave when it is made. `own` are the tensors as later steps are to use them."""

    def __init__(self, link: Link, plan: Plan, tensors: Sequence[Tensor], dims: Sequence[int]) -> None:
        self.route = route_of(link, plan, tensors, dims)
        recorded = torch.is_grad_enabled()
        self.moving = tuple(n for n, x in enumerate(tensors) if recorded and x.requires_grad)
        self._way_back = self.route._replace(forms=tuple(self.route.forms[n] for n in self.moving))
        self._back: tuple[Messages, list[list[Tensor]]] | None = None
        self.own, self._anchor = list(tensors), None
        if self.moving:
            self._anchor, *results = _apply(_Depart, self, *tensors)
            for n, x in zip(self.moving, results, strict=False):
                self.own[n] = x
            self._pieces: Sequence[Tensor] = results[len(self.moving) :]
        else:
            self._pieces = self.depart(tensors)

    def arrive(self) -> list[Sequence[Tensor]]:
        """Of each rank in the plan, its rows of each tensor."""
        if self._anchor is None:
            self.wait()
        else:
            self._anchor, *self._pieces = _apply(_Arrive, self, self._anchor, *self._pieces)
        return self.route.by_peer(self._pieces)

    def tie(self, out: Tensor) -> Tensor:
        return out if self._anchor is None else _apply(_Tie, out, self._anchor)

    # What the steps of autograd call.
    def depart(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self._there, pieces = self.route.out(tensors)
        return [x for of_peer in pieces for x in of_peer]

    def without_gradient(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        return [x for of_peer in self.route.by_peer(pieces) for n, x in enumerate(of_peer) if n not in self.moving]

    def wait(self) -> None:
        self._there.wait()

    def send_back(self, gradients: Sequence[Tensor]) -> None:
        self._back = self._way_back.back([[of_peer[n] for n in self.moving] for of_peer in self.route.by_peer(gradients)])

    def add_back(self, gradients: Sequence[Tensor | None]) -> MaybeTensors:
        """The gradients of all tensors, from what autograd has for those that have any, and from what has come."""
        assert self._back is not None
        (messages, came_back), self._back = self._back, None
        messages.wait()
        own, device = [], self.route.device
        for form, g in zip(self._way_back.forms, gradients, strict=False):  # behind them are those of the pieces, which have gone their way
            own.append(torch.zeros(form.shape, dtype=form.dtype, device=device) if g is None else g.clone() if came_back else g)
        self._way_back.add(own, came_back)
        found = dict(zip(self.moving, own, strict=True))
        return tuple(found.get(n) for n in range(len(self.route.forms)))


# ---- differentiable to any order -------------------------------------------------------------------------------------------------------
class _Out(Function):
    """(route, *tensors) -> the tensors, and pieces of the others'. Linear; its adjoint is `_Back`."""

    @staticmethod
    def forward(ctx: Any, route: Route, *tensors: Tensor) -> Tensors:
        ctx.route = route
        ctx.save_for_backward(*tensors)
        messages, pieces = route.out(tensors)
        messages.wait()
        return *tensors, *(x for of_peer in pieces for x in of_peer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> MaybeTensors:
        return None, *_apply(_Back, ctx.route, *ctx.saved_tensors, *gradients)


class _Back(Function):
    """(route, *tensors, *their gradients, *those of the pieces) -> the gradients with those that came back. The tensors are given so that
    each rank records this step: without any pieces nothing else might ask for it."""

    @staticmethod
    def forward(ctx: Any, route: Route, *args: Tensor) -> Tensors:
        ctx.route = route
        number = len(route.forms)
        own = tuple(x.clone() for x in args[number : 2 * number])
        messages, came_back = route.back(route.by_peer(args[2 * number :]))
        messages.wait()
        route.add(own, came_back)
        return own

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> MaybeTensors:
        return None, *(None for _ in ctx.route.forms), *_apply(_Out, ctx.route, *gradients)


def exchanged(route: Route, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Sequence[Tensor]]]:
    """The tensors, and of each rank in the plan its rows of each."""
    results = _apply(_Out, route, *tensors)
    return list(results[: len(tensors)]), route.by_peer(results[len(tensors) :])


# ---- what is there afterwards ----------------------------------------------------------------------------------------------------------
class Rows:
    """Rows of one tensor of the whole sequence: this rank's, and those that have come."""

    def __init__(self, dim: int, own: Tensor, runs: Ranges) -> None:
        self.dim, self._own = dim, own
        self._parts: list[tuple[Range, Tensor, int]] = []
        self._add(own, runs)

    def _add(self, x: Tensor, ranges: Ranges) -> None:
        at = 0
        for begin, end in ranges:
            self._parts.append(((begin, end), x, at))
            at += end - begin
        self._parts.sort(key=lambda part: part[0])

    def add(self, plan: Plan, pieces: Sequence[Tensor]) -> None:
        for (_, ranges), x in zip(plan.receives, pieces, strict=True):
            self._add(x, ranges)

    def take(self, ranges: Ranges) -> Tensor:
        """All of them have to be there."""
        found = ((x, at - of[0], overlap((of,), ranges)) for of, x, at in self._parts)
        parts = [x.narrow(self.dim, at + begin, end - begin) for x, at, here in found for begin, end in here]
        if not parts:
            return self._own.narrow(self.dim, 0, 0)
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.dim)

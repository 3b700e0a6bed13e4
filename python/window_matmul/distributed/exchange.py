# python/window_matmul/distributed/exchange.py: rows to other ranks and their gradients back, as steps of autograd.
"""Forward, a `Trip` posts the messages when it is made and `Trip.arrive` waits for them: what is computed in between costs no waiting.
Backward the same happens the other way round, by the order in which autograd runs: what was made last, the rows that need others' keys,
comes first; then `_Arrive` sends the gradients of foreign rows to their owners; then everything that was computed while the rows
travelled; and `_Depart` waits and adds, in the order of the ranks. Both hang on one another by an anchor, a tensor without elements, and
the caller hangs the result on it (`tie`), so that each rank does its part even where its own result does not depend on any other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .faults import Link, Messages
from .layout import Plan
from .routes import Route, route_of

Tensors = tuple[Tensor, ...]
MaybeTensors = tuple[Tensor | None, ...]


def apply(function: Any, *args: Any) -> Any:
    return function.apply(*args)


# ---- once differentiable, with time to compute in between ------------------------------------------------------------------------------
class Way:
    """What the steps of autograd know of an exchange: no tensor that has them as its history, or none of all that would ever be freed."""

    def __init__(self, route: Route, moving: tuple[int, ...]) -> None:
        self.route, self.moving = route, moving
        self._way_back = route._replace(forms=tuple(route.forms[n] for n in moving))
        self._back: tuple[Messages, list[list[Tensor]]] | None = None

    def depart(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self._there, pieces = self.route.out(tensors)
        return [x for of_peer in pieces for x in of_peer]

    def without_gradient(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        return [x for of_peer in self.route.by_peer(pieces) for n, x in enumerate(of_peer) if n not in self.moving]

    def wait(self) -> None:
        self._there.wait()

    def send_back(self, of_peers: list[list[Tensor]]) -> None:
        """Gradients of the pieces of each rank, of tensors that have any."""
        self._back = self._way_back.back(of_peers)

    def add_back(self, own: Sequence[Tensor]) -> None:
        """To gradients of the tensors that have any, what has come, in place."""
        assert self._back is not None
        (messages, came_back), self._back = self._back, None
        messages.wait()
        self._way_back.add(own, came_back)

    def gradients(self, found: Sequence[Tensor | None]) -> MaybeTensors:
        """Of all tensors, from what autograd has for those that have any, and from what comes."""
        own, device, added = [], self.route.device, self.route.plan.sends
        for form, g in zip(self._way_back.forms, found, strict=False):  # behind them are those of the pieces, which have gone their way
            own.append(torch.zeros(form.shape, dtype=form.dtype, device=device) if g is None else g.clone() if added else g)
        self.add_back(own)
        of_all = dict(zip(self.moving, own, strict=True))
        return tuple(of_all.get(n) for n in range(len(self.route.forms)))


class _Depart(Function):
    """(way, *tensors) -> an anchor, those of the tensors that have gradients, and the pieces to come."""

    @staticmethod
    def forward(ctx: Any, way: Way, *tensors: Tensor) -> Tensors:
        pieces = way.depart(tensors)
        ctx.way = way
        ctx.mark_non_differentiable(*way.without_gradient(pieces))
        ctx.set_materialize_grads(False)
        moving = [tensors[n] for n in way.moving]
        return moving[0].new_empty(0), *moving, *pieces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _anchor: Tensor | None, *gradients: Tensor | None) -> MaybeTensors:
        return None, *ctx.way.gradients(gradients)


class _Arrive(Function):
    """(way, anchor, *pieces) -> the same, filled."""

    @staticmethod
    def forward(ctx: Any, way: Way, anchor: Tensor, *pieces: Tensor) -> Tensors:
        way.wait()
        ctx.way = way
        ctx.mark_non_differentiable(*way.without_gradient(pieces))
        return anchor, *pieces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, anchor: Tensor, *gradients: Tensor) -> MaybeTensors:
        way = ctx.way
        way.send_back([[of_peer[n] for n in way.moving] for of_peer in way.route.by_peer(gradients)])
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
        recorded = torch.is_grad_enabled()
        moving = tuple(n for n, x in enumerate(tensors) if recorded and x.requires_grad)
        self._way = Way(route_of(link, plan, tensors, dims), moving)
        self.own, self._anchor = list(tensors), None
        if moving:
            self._anchor, *results = apply(_Depart, self._way, *tensors)
            for n, x in zip(moving, results, strict=False):
                self.own[n] = x
            self._pieces: Sequence[Tensor] = results[len(moving) :]
        else:
            self._pieces = self._way.depart(tensors)

    def arrive(self) -> list[Sequence[Tensor]]:
        """Of each rank in the plan, its rows of each tensor."""
        if self._anchor is None:
            self._way.wait()
        else:
            self._anchor, *self._pieces = apply(_Arrive, self._way, self._anchor, *self._pieces)
        return self._way.route.by_peer(self._pieces)

    def tie(self, out: Tensor) -> Tensor:
        return out if self._anchor is None else apply(_Tie, out, self._anchor)


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
        return None, *apply(_Back, ctx.route, *ctx.saved_tensors, *gradients)


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
        return None, *(None for _ in ctx.route.forms), *apply(_Out, ctx.route, *gradients)


def exchanged(route: Route, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Sequence[Tensor]]]:
    """The tensors, and of each rank in the plan its rows of each."""
    results = apply(_Out, route, *tensors)
    return list(results[: len(tensors)]), route.by_peer(results[len(tensors) :])

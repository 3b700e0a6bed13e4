"""tests/python/faulty_operators.py: operators with a fault, each of another kind, which the checks of a GPU must find."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

Operator = Callable[..., Tensor]


def moved_by_one(plain: Operator) -> Operator:
    """The window of the last query begins one key too late."""

    def moved(*args: Any, **options: Any) -> Tensor:
        result = plain(*args, **options)
        return torch.cat([result[..., :-1, :], result[..., -1:, :].roll(1, -1)], -2) if result.numel() else result

    return moved


class WrongGradient(torch.autograd.Function):
    """The identity, whose gradient is wrong in one place."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        last = torch.zeros_like(g)
        last[..., -1:, :] = g[..., -1:, :]
        return g + 0.01 * last

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t.clone()


def with_wrong_gradient(plain: Operator) -> Operator:
    return lambda *args, **options: WrongGradient.apply(plain(*args, **options))


def noisy(plain: Operator) -> Operator:
    """Some last bits differ from call to call."""
    random = Random(1)

    def noise(*args: Any, **options: Any) -> Tensor:
        result = plain(*args, **options)
        return result * (1 + random.randrange(3) * torch.finfo(result.dtype).eps)

    return noise


def writing_inputs(plain: Operator) -> Operator:
    def write(x: Tensor, *args: Any, **options: Any) -> Tensor:
        result = plain(x, *args, **options)
        if not x.requires_grad and x._base is not None:
            x._base.view(-1)[0] = 7.0
        return result

    return write


def writing_beside(plain: Operator) -> Operator:
    """One byte of somebody else's memory: of a block that the check has put there."""

    def write(*args: Any, **options: Any) -> Tensor:
        frame = inspect.currentframe()
        while frame is not None:
            if isinstance(block := frame.f_locals.get("behind"), Tensor):
                block[0] = 0
            frame = frame.f_back
        return plain(*args, **options)

    return write


def doubled_when_compiled(plain: Operator) -> Operator:
    return lambda *args, **options: plain(*args, **options) * (2 if torch.compiler.is_compiling() else 1)


def leaking(plain: Operator) -> Operator:
    """0 * NaN from everywhere."""
    return lambda x, *args, **options: plain(x, *args, **options) + 0 * sum(y.sum() for y in (x, *args) if isinstance(y, Tensor))


def of_short_factors(plain: Operator) -> Operator:
    """Factors of 11 bits, as plain TF32 has."""
    return lambda x, y, *args, **options: plain(x.half().to(x.dtype), y.half().to(y.dtype), *args, **options)


def without_late_batches(plain: Operator) -> Operator:
    def drop(*args: Any, **options: Any) -> Tensor:
        result = plain(*args, **options)
        if result.shape[0] > 65535:
            result[65535:] = 0
        return result

    return drop


def without_autocast(plain: Operator) -> Operator:
    def off(*args: Any, **options: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return plain(*args, **options)

    return off


def accepting_everything(plain: Operator) -> Operator:
    """Moves and casts instead of refusing."""

    def accept(x: Tensor, y: Any, *args: Any, **options: Any) -> Tensor:
        if isinstance(y, Tensor) and y.device != x.device:
            y = torch.zeros_like(y, device=x.device)
        return plain(x, y, *args, **options)

    return accept

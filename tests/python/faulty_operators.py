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


# ---- fused attention: out, or out and the log-sum-exp, of keyword arguments --------------------------------------------------------------
def of_out(fault: Callable[[Operator], Operator]) -> Callable[[Any], Any]:
    """The fault in the output of window_attention."""

    def wrap(plain: Any) -> Any:
        results: list[Any] = []

        def out_of(*args: Any, **options: Any) -> Tensor:
            results[:] = [plain(*args, **options)]
            return results[0][0] if isinstance(results[0], tuple) else results[0]

        faulty = fault(out_of)

        def call(*args: Any, **options: Any) -> Any:
            given = [options.pop(name) for name in "qkv" if name in options]
            out = faulty(*args, *given, **options)
            return (out, *results[0][1:]) if isinstance(results[0], tuple) else out

        return call

    wrap.__name__ = fault.__name__
    return wrap


def with_wrong_gradient_of_lse(plain: Any) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        out, lse = plain(*args, **options)
        return out, WrongGradient.apply(lse[..., None])[..., 0]

    return lambda *args, **options: call(*args, **options) if options.get("return_lse") else plain(*args, **options)


def ignoring(option: str) -> Callable[[Any], Any]:
    """As if the option had not been given."""

    def wrap(plain: Any) -> Any:
        return lambda *args, **options: plain(*args, **{name: x for name, x in options.items() if name != option})

    wrap.__name__ = f"ignoring_{option}"
    return wrap


def without_the_last_key(plain: Any) -> Any:
    """Where there are few queries."""

    def call(*args: Any, **options: Any) -> Any:
        if "q" in options and options["q"].shape[2] <= 16 and options["k"].shape[2] > 100 and options.get("key_mask") is None:
            mask = torch.ones(options["k"].shape[0], options["k"].shape[2], dtype=torch.bool, device=options["q"].device)
            mask[:, -1] = False
            options["key_mask"] = mask
        return plain(*args, **options)

    return call


def with_longer_sequences(plain: Any) -> Any:
    """The first sequence ends one key too late."""

    def call(*args: Any, **options: Any) -> Any:
        moved = options["cu_seqlens_k"].clone()
        moved[1:-1] = moved[1:-1].clamp(max=int(moved[-1]) - 1) + 1
        return plain(*args, **options | {"cu_seqlens_k": moved})

    return call


def with_another_seed(plain: Any) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        if options.get("dropout_p"):
            torch.rand(())
        return plain(*args, **options)

    return call


def deaf_to_strides(plain: Any) -> Any:
    """Reads q as it lies in memory."""

    def call(*args: Any, **options: Any) -> Any:
        if "q" in options:
            options["q"] = options["q"].as_strided(options["q"].shape, torch.empty(options["q"].shape).stride())
        return plain(*args, **options)

    return call

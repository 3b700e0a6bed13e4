# python/window_matmul/_autograd.py: derivatives of the five operators, to every order and in both modes, and the cheapest way to call them.
"""Each operator's derivative lives in a kernel of its own on PyTorch's Autograd key.

torch.library.register_autograd would do the same slower, drop forward-mode tangents silently and fail under torch.func. An
autograd.Function around a bare operator would lose its gradients under torch.compile(torch.func.grad(...)).
"""

from collections.abc import Callable
from functools import partial
from types import new_class
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import (
    _after_autograd_keyset,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _is_tracing,
    _len_torch_function_stack,
)
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.compiler import is_dynamo_compiling

from . import _ops

Operator = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]
MaybeTensors = tuple[Tensor | None, ...]


class Derivative(NamedTuple):
    """`rest` are the operator's arguments after its tensors; `needs` says whose gradient is asked for."""

    save: Callable[[Tensors, Tensor], Tensors]  # (inputs, output) -> what the other two take as `saved`
    backward: Callable[[Tensor, Tensors, tuple[Any, ...], tuple[bool, ...]], MaybeTensors]  # (gradient, saved, rest, needs)
    jvp: Callable[[MaybeTensors, Tensors, tuple[Any, ...]], Tensor]  # (tangents, saved, rest)


def _inputs(inputs: Tensors, output: Tensor) -> Tensors:
    return inputs


def _total(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])


# ---- the three band forms are linear in each operand, and each one's gradients are calls of the other two --------------------------
def _band_out_backward(g: Tensor, saved: Tensors, rest: tuple[Any, ...], needs: tuple[bool, ...]) -> MaybeTensors:
    (q, k), (*band, _fill) = saved, rest
    dq = band_in(g, k.mT, *band) if needs[0] else None
    dk = band_in_transposed(g, q, *band, k.shape[-1]).mT if needs[1] else None  # k is (N, Lk), as a rule a view of (Lk, N): so is dk
    return dq, dk


def _band_in_backward(g: Tensor, saved: Tensors, band: tuple[Any, ...], needs: tuple[bool, ...]) -> MaybeTensors:
    a, v = saved
    da = band_out(g, v.mT, *band, 0.0) if needs[0] else None
    dv = band_in_transposed(a, g, *band, v.shape[-2]) if needs[1] else None
    return da, dv


def _band_in_transposed_backward(g: Tensor, saved: Tensors, rest: tuple[Any, ...], needs: tuple[bool, ...]) -> MaybeTensors:
    (a, x), (*band, _num_keys) = saved, rest
    da = band_out(x, g.mT, *band, 0.0) if needs[0] else None
    dx = band_in(a, g, *band) if needs[1] else None
    return da, dx


def _bilinear_jvp(op: Operator) -> Callable[[MaybeTensors, Tensors, tuple[Any, ...]], Tensor]:
    def jvp(tangents: MaybeTensors, saved: Tensors, rest: tuple[Any, ...]) -> Tensor:
        (x, y), (dx, dy) = saved, tangents
        return _total([op(*pair, *rest) for pair in ((dx, y), (x, dy)) if pair[0] is not None and pair[1] is not None])

    return jvp


# The names below are those of this module: defined at its end, differentiable again.
_band_out_jvp = _bilinear_jvp(lambda *args: band_out(*args[:-1], 0.0))  # the fill is a constant
_band_in_jvp = _bilinear_jvp(lambda *args: band_in(*args))
_band_in_transposed_jvp = _bilinear_jvp(lambda *args: band_in_transposed(*args))


# ---- softmax: its Jacobian diag(p) - p p^T is symmetric, so that the backward operator serves both modes ---------------------------
def _softmax_saved(inputs: Tensors, output: Tensor) -> Tensors:
    return (output,)


def _softmax_backward(g: Tensor, saved: Tensors, rest: tuple[Any, ...], needs: tuple[bool, ...]) -> MaybeTensors:
    return (window_softmax_backward(g, saved[0], *rest),)


def _softmax_jvp(tangents: MaybeTensors, saved: Tensors, rest: tuple[Any, ...]) -> Tensor:
    (da,) = tangents
    assert da is not None
    return window_softmax_backward(da, saved[0], *rest)


# d = p (g - sum_c p g) is linear in g, with the same symmetric Jacobian, and quadratic in p.
def _has_key(a: Tensor, left: int, right: int, dilation: tuple[int, ...], shift: int, num_keys: int) -> Tensor:
    """(Lq, W), or (H, Lq, W) with a dilation for each head: whether the key of slot c of query i exists. No product can wrap."""
    aligned = torch.arange(a.shape[-2], device=a.device)[:, None] + shift
    step = torch.tensor(dilation or (1,), device=a.device)[:, None, None]
    taps = torch.arange(-left, right + 1, device=a.device)
    mask = (taps >= -(aligned // step)) & (taps <= (num_keys - 1 - aligned) // step)
    return mask if len(dilation) > 1 else mask[0]


def _visible(tensors: tuple[Tensor, ...], band: tuple[Any, ...]) -> list[Tensor]:
    """The tensors with 0 in slots that have no key, whatever these hold; halves widened."""
    mask = _has_key(tensors[0], *band)
    return [torch.where(mask, x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, 0) for x in tensors]


def _softmax_backward_backward(h: Tensor, saved: Tensors, band: tuple[Any, ...], needs: tuple[bool, ...]) -> MaybeTensors:
    g, p = saved
    dg = window_softmax_backward(h, p, *band) if needs[0] else None
    dp = None
    if needs[1]:
        h, g, p = _visible((h, g, p), band)
        dp = h * (g - (g * p).sum(-1, keepdim=True)) - g * (h * p).sum(-1, keepdim=True)
        dp = dp.to(saved[1].dtype)
    return dg, dp


def _softmax_backward_jvp(tangents: MaybeTensors, saved: Tensors, band: tuple[Any, ...]) -> Tensor:
    (g, p), (dg, dp) = saved, tangents
    terms = []
    if dg is not None:
        terms.append(window_softmax_backward(dg, p, *band))
    if dp is not None:
        g, p, dp = _visible((g, p, dp), band)
        terms.append((dp * (g - (g * p).sum(-1, keepdim=True)) - p * (g * dp).sum(-1, keepdim=True)).to(saved[1].dtype))
    return _total(terms)


# ---- registration -------------------------------------------------------------------------------------------------------------------
def _function(name: str, derivative: Derivative) -> Any:
    class Function(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, below: Callable[..., Tensor], rest: tuple[Any, ...], *tensors: Tensor) -> Tensor:
            """`below` calls the operator; here it must not come back to its Autograd kernel."""
            if _are_functorch_transforms_active():  # `apply` has disabled recording; the levels below this one need it
                with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), _AutoDispatchBelowAutograd():
                    output = below(*tensors, *rest)
            else:
                with _AutoDispatchBelowAutograd():
                    output = below(*tensors, *rest)
            saved = derivative.save(tensors, output)
            ctx.rest = rest
            ctx.save_for_backward(*saved)
            if forward_ad._current_level >= 0:
                ctx.save_for_forward(*saved)
            return output

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> MaybeTensors:
            return None, None, *derivative.backward(g, ctx.saved_tensors, ctx.rest, ctx.needs_input_grad[2:])

        @staticmethod
        def jvp(ctx: Any, _below: None, _rest: None, *tangents: Tensor | None) -> Tensor:
            if not _are_functorch_transforms_active():
                return derivative.jvp(tangents, ctx.saved_tensors, ctx.rest)
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):  # as in forward, without the tangents of this level
                saved = tuple(forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
                return derivative.jvp(tangents, saved, ctx.rest)

    return new_class(name, (Function,))  # what `grad_fn` shows


def _differentiable(op: Any, derivative: Derivative) -> Operator:
    """Gives `op` its kernel on the Autograd key. Returns the way to call it: the same, but shorter where PyTorch has nothing to add."""
    tensors, direct = _ops.TENSORS[op], op._op
    function = _function(op._opname.title().replace("_", ""), derivative)

    def kernel(keyset: Any, *args: Any) -> Tensor:
        below: Operator = partial(op.redispatch, keyset & _after_autograd_keyset)
        recording = torch.is_grad_enabled() and any(x.requires_grad for x in args[:tensors])
        if not recording and forward_ad._current_level < 0:
            with _AutoDispatchBelowAutograd():
                return below(*args)
        if not _are_functorch_transforms_active():
            return function.apply(below, args[tensors:], *args[:tensors])  # type: ignore[no-any-return]
        with enable_single_level_autograd_function():  # functorch calls this kernel once for each of its levels
            return function.apply(below, args[tensors:], *args[:tensors])  # type: ignore[no-any-return]

    _ops.library.impl(op, kernel, "Autograd", with_keyset=True)

    def call(*args: Any) -> Tensor:
        x, y = args[0], args[tensors - 1]
        if (
            is_dynamo_compiling()
            or type(x) is not Tensor
            or type(y) is not Tensor
            or forward_ad._current_level >= 0
            or _are_functorch_transforms_active()
            or _len_torch_function_stack()
            or _is_tracing()
        ):
            return op(*args)  # type: ignore[no-any-return]
        if (x.requires_grad or y.requires_grad) and torch.is_grad_enabled():
            return function.apply(direct, args[tensors:], *args[:tensors])  # type: ignore[no-any-return]
        with _AutoDispatchBelowAutograd():
            return direct(*args)  # type: ignore[no-any-return]

    return call


band_out: Operator = _differentiable(_ops.band_out, Derivative(_inputs, _band_out_backward, _band_out_jvp))
band_in: Operator = _differentiable(_ops.band_in, Derivative(_inputs, _band_in_backward, _band_in_jvp))
band_in_transposed: Operator = _differentiable(
    _ops.band_in_transposed, Derivative(_inputs, _band_in_transposed_backward, _band_in_transposed_jvp)
)
window_softmax: Operator = _differentiable(_ops.window_softmax, Derivative(_softmax_saved, _softmax_backward, _softmax_jvp))
window_softmax_backward: Operator = _differentiable(
    _ops.window_softmax_backward, Derivative(_inputs, _softmax_backward_backward, _softmax_backward_jvp)
)

# python/window_matmul/_band/autograd.py: derivatives of the five operators, to every order and in both modes, and the cheapest calls.
"""Each operator's derivative lives in a kernel of its own on PyTorch's Autograd key.

torch.library.register_autograd would do the same slower, drop forward-mode tangents silently and fail under torch.func. An
autograd.Function around a bare operator would lose its gradients under torch.compile(torch.func.grad(...)).
"""

from collections.abc import Callable
from types import new_class
from typing import Any, NamedTuple

import torch
from torch import Tensor, is_grad_enabled
from torch._C import (
    _after_autograd_keyset,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _is_tracing,
    _len_torch_dispatch_stack,
)
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import Function, forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.compiler import is_dynamo_compiling

from .. import _sharding as sharding
from . import ops
from .ops import Band

Operator = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]
MaybeTensors = tuple[Tensor | None, ...]


class Derivative(NamedTuple):
    """`needs` says whose gradient is asked for."""

    backward: Callable[[Tensor, Tensors, Band, tuple[bool, ...]], MaybeTensors]  # (gradient, saved, band, needs)
    jvp: Callable[[MaybeTensors, Tensors, Band], Tensor]  # (tangents, saved, band)
    saves_output: bool = False  # `saved` is the output; otherwise the inputs


def _total(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])


# ---- the three band forms are linear in each operand, and each one's gradients are calls of the other two --------------------------
def _band_out_backward(g: Tensor, saved: Tensors, band: Band, needs: tuple[bool, ...]) -> MaybeTensors:
    q, k = saved
    dq = band_in(g, k.mT, band) if needs[0] else None
    dk = band_in_transposed(g, q, band).mT if needs[1] else None  # k is (N, Lk), as a rule a view of (Lk, N): so is dk
    return dq, dk


def _band_in_backward(g: Tensor, saved: Tensors, band: Band, needs: tuple[bool, ...]) -> MaybeTensors:
    a, v = saved
    da = band_out(g, v.mT, band) if needs[0] else None
    dv = band_in_transposed(a, g, band) if needs[1] else None
    return da, dv


def _band_in_transposed_backward(g: Tensor, saved: Tensors, band: Band, needs: tuple[bool, ...]) -> MaybeTensors:
    a, x = saved
    da = band_out(x, g.mT, band) if needs[0] else None
    dx = band_in(a, g, band) if needs[1] else None
    return da, dx


def _bilinear_jvp(op: Operator) -> Callable[[MaybeTensors, Tensors, Band], Tensor]:
    def jvp(tangents: MaybeTensors, saved: Tensors, band: Band) -> Tensor:
        (x, y), (dx, dy) = saved, tangents
        return _total([op(*pair, band) for pair in ((dx, y), (x, dy)) if pair[0] is not None and pair[1] is not None])

    return jvp


# The names below are those of this module: defined at its end, differentiable again. Without `fill`: it is a constant.
_band_out_jvp = _bilinear_jvp(lambda x, y, band: band_out(x, y, band))
_band_in_jvp = _bilinear_jvp(lambda x, y, band: band_in(x, y, band))
_band_in_transposed_jvp = _bilinear_jvp(lambda x, y, band: band_in_transposed(x, y, band))


# ---- softmax: its Jacobian diag(p) - p p^T is symmetric, so that the backward operator serves both modes ---------------------------
def _softmax_backward(g: Tensor, saved: Tensors, band: Band, needs: tuple[bool, ...]) -> MaybeTensors:
    return (window_softmax_backward(g, saved[0], band),)


def _softmax_jvp(tangents: MaybeTensors, saved: Tensors, band: Band) -> Tensor:
    return window_softmax_backward(tangents[0], saved[0], band)


# d = p (g - sum_c p g) is linear in g, with the same symmetric Jacobian, and quadratic in p.
def _has_key(a: Tensor, band: Band) -> Tensor:
    """(Lq, W), or (H, Lq, W) with a dilation for each head: whether the key of slot c of query i exists. No product can wrap."""
    left, right, shift, num_keys, _, *dilation = band
    aligned = torch.arange(a.shape[-2], device=a.device)[:, None] + shift
    step = torch.stack([torch.full((1, 1), tap, device=a.device) for tap in dilation or [1]])  # no copy, which a GPU would wait for
    taps = torch.arange(-left, right + 1, device=a.device)
    mask = (taps >= -(aligned // step)) & (taps <= (num_keys - 1 - aligned) // step)
    return mask if len(dilation) > 1 else mask[0]


def _visible(tensors: Tensors, band: Band) -> list[Tensor]:
    """The tensors with 0 in slots that have no key, whatever these hold; halves widened."""
    mask = _has_key(tensors[0], band)
    if sharding.is_loaded():
        mask = sharding.replicated(mask, tensors[0])
    return [torch.where(mask, x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, 0) for x in tensors]


def _softmax_backward_backward(h: Tensor, saved: Tensors, band: Band, needs: tuple[bool, ...]) -> MaybeTensors:
    g, p = saved
    dg = window_softmax_backward(h, p, band) if needs[0] else None
    dp = None
    if needs[1]:
        h, g, p = _visible((h, g, p), band)
        dp = h * (g - (g * p).sum(-1, keepdim=True)) - g * (h * p).sum(-1, keepdim=True)
        dp = dp.to(saved[1].dtype)
    return dg, dp


def _softmax_backward_jvp(tangents: MaybeTensors, saved: Tensors, band: Band) -> Tensor:
    (g, p), (dg, dp) = saved, tangents
    terms = []
    if dg is not None:
        terms.append(window_softmax_backward(dg, p, band))
    if dp is not None:
        g, p, dp = _visible((g, p, dp), band)
        terms.append((dp * (g - (g * p).sum(-1, keepdim=True)) - p * (g * dp).sum(-1, keepdim=True)).to(saved[1].dtype))
    return _total(terms)


# ---- registration -------------------------------------------------------------------------------------------------------------------
def function(name: str, base: type = _SingleLevelFunction, **methods: Callable[..., Any]) -> Any:
    """An autograd.Function, with a name that `grad_fn` shows. No level between it and its base: PyTorch looks names up at each call."""
    body = {n: staticmethod(f) for n, f in methods.items()}
    return new_class(name.title().replace("_", ""), (base,), exec_body=lambda namespace: namespace.update(body))


# Of calls that no transform watches. Before 2.14 the public Function asked for transforms once more, as long as a small call takes.
DIRECT = Function if torch.__version__ >= "2.14" else _SingleLevelFunction


def run_below(op: Any, keyset: Any, *args: Any) -> Any:
    """The kernels below the Autograd key, from within a Function's forward."""
    if _are_functorch_transforms_active():  # `apply` has disabled recording; the levels below this one need it
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), _AutoDispatchBelowAutograd():
            return op.redispatch(keyset, *args)
    with _AutoDispatchBelowAutograd():
        return op.redispatch(keyset, *args)


def register_kernel(op: Any, num_tensors: int, function: Any) -> None:
    """The kernel on the Autograd key: function.apply(keyset, numbers, *tensors) where something is recorded. A tensor may be None."""

    def kernel(keyset: Any, *args: Any) -> Any:
        keyset = keyset & _after_autograd_keyset
        tensors, numbers = args[:num_tensors], args[num_tensors:]
        recording = is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        if not recording and forward_ad._current_level < 0:
            with _AutoDispatchBelowAutograd():
                return op.redispatch(keyset, *args)
        if not _are_functorch_transforms_active():
            return function.apply(keyset, numbers, *tensors)
        with enable_single_level_autograd_function():  # functorch calls this kernel once for each of its levels
            return function.apply(keyset, numbers, *tensors)

    ops.library.impl(op, kernel, "Autograd", with_keyset=True)


def is_watched() -> bool:
    """Whether a transform, a mode or a tracer wants to see the operators themselves, or tangents are to be carried along."""
    return (
        is_dynamo_compiling()
        or forward_ad._current_level >= 0
        or _are_functorch_transforms_active()
        or _len_torch_dispatch_stack() > 0
        or _is_tracing()
    )


def _register(op: ops.Operator, derivative: Derivative) -> None:
    def forward(ctx: Any, keyset: Any, numbers: tuple[Any, ...], *tensors: Tensor) -> Tensor:
        output: Tensor = run_below(op.full, keyset, *tensors, *numbers)
        saved = (output,) if derivative.saves_output else tensors
        ctx.band = op.band((*tensors, *numbers))
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        return output

    def backward(ctx: Any, g: Tensor) -> MaybeTensors:
        if sharding.is_loaded():
            g = sharding.gathered(g, g.ndim - 2)
        return None, None, *derivative.backward(g, ctx.saved_tensors, ctx.band, ctx.needs_input_grad[2:])

    def jvp(ctx: Any, _keyset: None, _numbers: None, *tangents: Tensor | None) -> Tensor:
        if not _are_functorch_transforms_active():
            return derivative.jvp(tangents, ctx.saved_tensors, ctx.band)
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):  # as in run_below, without the tangents of this level
            saved = tuple(forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
            return derivative.jvp(tangents, saved, ctx.band)

    register_kernel(op.full, op.tensors, function(op.full._opname, forward=forward, backward=backward, jvp=jvp))


def _differentiable(op: ops.Operator, derivative: Derivative) -> Operator:
    """The way to call an operator: (*tensors, band). Where PyTorch has nothing to add it is called directly, in half the time."""
    _register(op, derivative)
    tensors, last, direct, saves_output = op.tensors, op.tensors - 1, op.direct, derivative.saves_output

    def forward(ctx: Any, *args: Any) -> Tensor:
        output = direct(*args)
        ctx.band = args[tensors]
        ctx.save_for_backward(*((output,) if saves_output else args[:tensors]))
        return output  # type: ignore[no-any-return]

    def backward(ctx: Any, g: Tensor) -> MaybeTensors:
        needs = ctx.needs_input_grad
        return *derivative.backward(g, ctx.saved_tensors, ctx.band, needs), *(None for _ in needs[tensors:])

    recorded = function(op.full._opname, DIRECT, forward=forward, backward=backward)

    def call(*args: Any) -> Tensor:
        x, y = args[0], args[last]
        if is_watched() or type(x) is not Tensor or type(y) is not Tensor or not (x.is_cpu or x.is_cuda):
            operands = sharding.whole(op.full._opname, args[:tensors]) if sharding.is_loaded() else args[:tensors]
            return op.full(*operands, *op.arguments(*args[tensors:]))  # type: ignore[no-any-return]
        if (x.requires_grad or y.requires_grad) and is_grad_enabled():
            return recorded.apply(*args)  # type: ignore[no-any-return]
        return direct(*args)  # type: ignore[no-any-return]

    return call


band_out: Operator = _differentiable(ops.band_out, Derivative(_band_out_backward, _band_out_jvp))
band_in: Operator = _differentiable(ops.band_in, Derivative(_band_in_backward, _band_in_jvp))
band_in_transposed: Operator = _differentiable(ops.band_in_transposed, Derivative(_band_in_transposed_backward, _band_in_transposed_jvp))
window_softmax: Operator = _differentiable(ops.window_softmax, Derivative(_softmax_backward, _softmax_jvp, saves_output=True))
window_softmax_backward: Operator = _differentiable(
    ops.window_softmax_backward, Derivative(_softmax_backward_backward, _softmax_backward_jvp)
)

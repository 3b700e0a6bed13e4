# python/window_matmul/_attention/autograd.py: the derivative of fused attention, on the operator, and the cheapest way to call it.
"""As in _band/autograd.py, which says why: the derivative lives in a kernel on PyTorch's Autograd key, and calls that no transform watches
go past it. There is one derivative, of the first order and in reverse mode; asking for another raises.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, is_grad_enabled
from torch.nn import Parameter

from .. import _sharding as sharding
from .._band.autograd import DIRECT, function, is_watched, register_kernel, run_below
from . import ops
from .ops import NUM_GRADIENTS, NUM_TENSORS, MaybeTensors, Tensors

_INSTEAD = (
    "use window_matmul + window_softmax + unwindow_matmul, which compute the same with the scores as a tensor "
    "and have derivatives of every order and in both modes"
)
_PLAIN = frozenset((Tensor, Parameter, type(None)))  # no subclasses: they want to see the operators


def _refuse_second(_ctx: Any, *_: Any) -> NoReturn:
    raise NotImplementedError(f"the gradients of window_attention have no derivatives of their own; for double backward {_INSTEAD}")


def _refuse_forward_mode(_ctx: Any, *_: Any) -> NoReturn:
    raise NotImplementedError(f"window_attention has no forward-mode derivative (jvp, jacfwd, hessian); {_INSTEAD}")


# ---- backward ------------------------------------------------------------------------------------------------------------------------
def _attention_backward(*args: Any) -> Tensors:
    """(d_out, d_lse, out, lse, *tensors, *numbers, wanted)."""
    tensors = args[: 4 + NUM_TENSORS]
    recording = is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    if recording or is_watched() or not tensors[0].is_cpu or not _PLAIN.issuperset(map(type, tensors)):
        return ops.attention_backward(*args)  # type: ignore[no-any-return]
    return ops.direct_attention_backward(*args)  # type: ignore[no-any-return]


_SHARED_DILATION = ("cuda",)  # devices whose kernels take heads that share keys together, and so need one dilation of them


def _backward_of_heads(*args: Any) -> Tensors:
    """The same, where heads that share keys may differ in dilation: then each has keys of its own, whose gradients are added."""
    q, k, v = args[4:7]
    band, wanted = args[4 + NUM_TENSORS], args[-1]
    group = q.shape[1] // max(k.shape[1], 1)
    dilations = band[3:]
    if q.device.type not in _SHARED_DILATION or all(d == dilations[h - h % group] for h, d in enumerate(dilations)):
        return _attention_backward(*args)
    keys, values = (x.repeat_interleave(group, 1) for x in (k, v))
    gradients = list(_attention_backward(*args[:5], keys, values, *args[7:]))
    for n in (1, 2):
        if wanted >> n & 1:
            gradients[n] = gradients[n].unflatten(1, (-1, group)).sum(2)
    return tuple(gradients)


def _gradients(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None, needs: tuple[bool, ...]) -> MaybeTensors:
    """Those of all tensors; None for those without one."""
    if d_out is None and d_lse is None:
        return (None,) * NUM_TENSORS
    out, lse, *tensors = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    if type(d_out) is not Tensor and sharding.is_loaded():
        d_out, d_lse = sharding.gradients((d_out, d_lse), ctx.numbers[0])
    wanted = sum(need << n for n, need in enumerate(needs[:NUM_GRADIENTS]))
    gradients = _backward_of_heads(d_out, d_lse, out, lse, *tensors, *ctx.numbers, wanted)
    return *(g if need else None for g, need in zip(gradients, needs, strict=False)), *(None,) * (NUM_TENSORS - NUM_GRADIENTS)


def _remember(ctx: Any, results: Tensors, tensors: MaybeTensors, numbers: tuple[Any, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*results, *tensors)
    ctx.numbers = numbers


# ---- on the Autograd key -------------------------------------------------------------------------------------------------------------
def _forward(ctx: Any, keyset: Any, numbers: tuple[Any, ...], *tensors: Any) -> Tensors:
    results: Tensors = run_below(ops.attention, keyset, *tensors, *numbers)
    _remember(ctx, results, tensors, numbers)
    return results


def _backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> MaybeTensors:
    return None, None, *_gradients(ctx, d_out, d_lse, ctx.needs_input_grad[2:])


def _forward_of_backward(_ctx: Any, keyset: Any, numbers: tuple[Any, ...], *tensors: Any) -> Tensors:
    return run_below(ops.attention_backward, keyset, *tensors, *numbers)  # type: ignore[no-any-return]


register_kernel(ops.attention, NUM_TENSORS, function("attention", forward=_forward, backward=_backward, jvp=_refuse_forward_mode))
register_kernel(
    ops.attention_backward,
    4 + NUM_TENSORS,
    function("attention_backward", forward=_forward_of_backward, backward=_refuse_second, jvp=_refuse_forward_mode),
)


# ---- past it -------------------------------------------------------------------------------------------------------------------------
def _direct_forward(ctx: Any, *args: Any) -> Tensors:
    results: Tensors = ops.direct_attention(*args)
    _remember(ctx, results, args[:NUM_TENSORS], args[NUM_TENSORS:])
    return results


def _direct_backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> MaybeTensors:
    return *_gradients(ctx, d_out, d_lse, ctx.needs_input_grad), *(None for _ in ctx.numbers)


_recorded = function("attention", DIRECT, forward=_direct_forward, backward=_direct_backward)


def attention(*args: Any) -> Tensors:
    """(*tensors, *numbers) -> out, lse."""
    tensors = args[:NUM_TENSORS]
    if is_watched() or not tensors[0].is_cpu or not _PLAIN.issuperset(map(type, tensors)):
        return ops.attention(*(sharding.prepare_attention(args, NUM_TENSORS) if sharding.is_loaded() else args))  # type: ignore[no-any-return]
    if is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return _recorded.apply(*args)  # type: ignore[no-any-return]
    return ops.direct_attention(*args)  # type: ignore[no-any-return]


# ---- parts of a larger call ----------------------------------------------------------------------------------------------------------
def _is_direct(tensors: MaybeTensors) -> bool:
    return not is_watched() and tensors[0].is_cpu and _PLAIN.issuperset(map(type, tensors))  # type: ignore[union-attr]


def attention_into(out: Tensor, lse: Tensor, *args: Any) -> None:
    """Nothing is recorded; `out` and `lse` are parts of larger tensors."""
    if _is_direct(args[:NUM_TENSORS]):
        ops.direct_attention_into(out, lse, *args)
    else:
        _copy((out, lse), ops.attention(*args))


def attention_backward_into(to: Sequence[Tensor | None], *args: Any) -> None:
    """(where gradients go, None for those that are not wanted; d_out, d_lse or None, out, lse, *tensors, *numbers)."""
    if _is_direct(args[: 4 + NUM_TENSORS]):
        ops.direct_attention_backward_into(*to, *args)
    else:
        _copy(to, ops.attention_backward(*args, sum((x is not None) << n for n, x in enumerate(to))))


def _copy(to: Sequence[Tensor | None], results: Tensors) -> None:
    for x, result in zip(to, results, strict=True):
        if x is not None:
            x.copy_(result)

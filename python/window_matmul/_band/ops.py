# python/window_matmul/_band/ops.py: the five private operators as PyTorch sees them: their names, the shapes they give, vmap.
"""Nothing here checks arguments: functional.py does, and the library does once more.

Letters: Lq queries, Lk keys, N head dim, W = left + 1 + right slots; slot c of query i is key j = i + shift + (c - left) * dilation.
Leading dims are equal.

    band_out                 q (Lq, N), k (N, Lk)  -> (Lq, W)    a[i,c] = sum_n q[i,n] k[n,j]; `fill` where key j does not exist
    band_in                  a (Lq, W), v (Lk, N)  -> (Lq, N)    o[i,n] = sum_c a[i,c] v[j,n]
    band_in_transposed       a (Lq, W), x (Lq, N)  -> (Lk, N)    o[j,n] = sum of a[i,c] x[i,n] over the (i, c) whose key is j
    window_softmax           a (Lq, W)             -> (Lq, W)    over the slots whose key exists; 0 elsewhere
    window_softmax_backward  g (Lq, W), p (Lq, W)  -> (Lq, W)    p[i,c] (g[i,c] - sum_c' p[i,c'] g[i,c']); 0 elsewhere

In Python a band is one tuple. PyTorch's graphs show its numbers one by one, as torch_cpu.cpp names them, so that lengths may be symbols.
`precision` is that of float32 products on a GPU, arguments.precision_of; every other call has HIGHEST.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library, fallthrough_kernel, register_fake, register_vmap

from .. import _library

Band = tuple[int, ...]  # left, right, shift, Lk, precision, then the dilation: nothing for 1, one int, or one for each entry of dim -3
HIGHEST, HIGH = 0, 1  # precision

_library.load_into_torch()
library = Library("window_matmul", "FRAGMENT")  # lives as long as the module


class Operator(NamedTuple):
    full: Any  # the operator: (*tensors, *arguments(band))
    direct: Any  # the same without an Autograd kernel, for plain tensors, quicker to call: (*tensors, band)
    tensors: int  # how many there are
    arguments: Callable[..., tuple[Any, ...]]  # (band) -> (left, right, dilation, shift, ...)
    band: Callable[..., Band]  # back from the arguments of `full`
    shape: Callable[..., tuple[int, ...]]  # of the result, from the arguments of `full`


def _operator(name: str, tensors: int, arguments: Any, num_keys: Any, shape: Any, precision: int | None = None) -> Operator:
    """`num_keys`: Lk, from the tensors and what follows `shift` in the arguments of `full`; `precision`: its place there, if it has one."""

    def band(args: tuple[Any, ...]) -> Band:
        left, right, dilation, shift, *rest = args[tensors:]  # PyTorch leaves out a precision that is the default
        given = HIGHEST if precision is None or len(rest) == precision else rest[precision]
        return left, right, shift, num_keys(*args[:tensors], *rest), given, *dilation

    namespace = torch.ops.window_matmul
    return Operator(getattr(namespace, name).default, getattr(namespace, f"_{name}").default._op, tensors, arguments, band, shape)


def _plain(band: Band, *between: Any) -> tuple[Any, ...]:
    left, right, shift, _, precision, *dilation = band
    return left, right, dilation, shift, *between, *((precision,) if precision else ())


def _with_fill(band: Band, fill: float = 0.0) -> tuple[Any, ...]:
    return _plain(band, fill)


def _with_num_keys(band: Band) -> tuple[Any, ...]:
    return _plain(band, band[3])


band_out = _operator(
    "band_out", 2, _with_fill, lambda q, k, *_: k.shape[-1], lambda q, k, left, right, *_: (*q.shape[:-1], left + 1 + right), 1
)
band_in = _operator("band_in", 2, _plain, lambda a, v, *_: v.shape[-2], lambda a, v, *_: (*a.shape[:-1], v.shape[-1]), 0)
band_in_transposed = _operator(
    "band_in_transposed",
    2,
    _with_num_keys,
    lambda a, x, num_keys, *_: num_keys,
    lambda a, x, left, right, dilation, shift, num_keys, *_: (*a.shape[:-2], num_keys, x.shape[-1]),
    1,
)
window_softmax = _operator("window_softmax", 1, _with_num_keys, lambda a, num_keys: num_keys, lambda a, *_: a.shape)
window_softmax_backward = _operator("window_softmax_backward", 2, _with_num_keys, lambda g, p, num_keys: num_keys, lambda g, *_: g.shape)


def check_size(like: Tensor, shape: Sequence[int]) -> None:
    known = [size or 1 for size in shape if type(size) is int]  # symbols are not known yet
    if math.prod(known) * like.element_size() >= 1 << 63:
        raise ValueError(f"the shape of the result is {tuple(shape)}; it needs to be so small that its size fits into 64 bits")


def _fake(op: Operator) -> Callable[..., Tensor]:
    """Contiguous, as the library makes results."""

    def fake(*args: Any) -> Tensor:
        shape = op.shape(*args)
        check_size(args[0], shape)
        return args[0].new_empty(shape)  # type: ignore[no-any-return]

    return fake


def _vmap_rule(op: Operator) -> Callable[..., tuple[Tensor, int]]:
    """The mapped dim becomes the first of the leading dims: dim -3, whose entries may have their own dilation, stays what it was."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
        pairs = zip(args[: op.tensors], in_dims[: op.tensors], strict=True)
        mapped = (x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in pairs)
        return op.full(*mapped, *args[op.tensors :]), 0

    return rule


for _op in (band_out, band_in, band_in_transposed, window_softmax, window_softmax_backward):
    register_fake(_op.full, _fake(_op))
    register_vmap(_op.full, _vmap_rule(_op))
    library.impl(f"_{_op.full._opname}", fallthrough_kernel, "Autograd")

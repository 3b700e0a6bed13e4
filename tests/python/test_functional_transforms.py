"""tests/python/test_functional_transforms.py: torch.func in every nesting, vmap over all arguments, against the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from attention import NAMES, OPERATORS, attend, attend_by_oracle, inputs, loss
from window_matmul import window_matmul

pytestmark = pytest.mark.best_backend
by_operator = pytest.mark.parametrize("name, ours, theirs, make", OPERATORS, ids=NAMES)


def same(actual: Any, exact: Any) -> None:
    torch.testing.assert_close(actual, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("transform", [grad, jacrev, jacfwd, hessian], ids=lambda t: t.__name__)
@by_operator
def test_one_transform(backend: str, name: str, ours: Any, theirs: Any, make: Any, transform: Any) -> None:
    args = make()
    for argnums in range(len(args)):
        same(transform(loss(ours), argnums=argnums)(*args), transform(loss(theirs), argnums=argnums)(*args))
    everything = tuple(range(len(args)))
    same(transform(loss(ours), argnums=everything)(*args), transform(loss(theirs), argnums=everything)(*args))


@pytest.mark.parametrize("outer, inner", list(itertools.product([jacrev, jacfwd], repeat=2)), ids=lambda t: t.__name__)
def test_jacobians_of_jacobians(backend: str, outer: Any, inner: Any) -> None:
    args = inputs(lq=3, lk=4, dim=2)
    for first, second in itertools.product(range(3), repeat=2):
        same(outer(inner(attend, first), second)(*args), outer(inner(attend_by_oracle, first), second)(*args))


def test_gradient_penalty_and_third_derivatives(backend: str) -> None:
    def penalty(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, k, v: sum((g.square().sum() for g in grad(loss(f), (0, 1, 2))(q, k, v)), start=torch.zeros(()))

    args = inputs(2)
    same(grad(penalty(attend), (0, 1, 2))(*args), grad(penalty(attend_by_oracle), (0, 1, 2))(*args))
    args = inputs(lq=3, lk=3, dim=2)
    third = [grad(penalty(lambda *x, f=f: grad(loss(f), 1)(*x)), (0, 1))(*args) for f in (attend, attend_by_oracle)]
    same(*third)


@by_operator
def test_forward_mode(backend: str, name: str, ours: Any, theirs: Any, make: Any) -> None:
    args, tangents, more = make(3), make(3), make(3)
    same(jvp(ours, tuple(args), tuple(tangents)), jvp(theirs, tuple(args), tuple(tangents)))
    for n in range(len(args)):  # a tangent on one input alone

        def of_one(f: Any, x: Tensor, n: int = n) -> Tensor:
            return f(*args[:n], x, *args[n + 1 :])

        same(*(jvp(lambda x, f=f: of_one(f, x), (args[n],), (tangents[n],)) for f in (ours, theirs)))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(args[n], tangents[n])
            same(forward_ad.unpack_dual(of_one(ours, dual)).tangent, forward_ad.unpack_dual(of_one(theirs, dual)).tangent)
    nested = [jvp(lambda *x, f=f: jvp(f, x, tuple(tangents))[1], tuple(args), tuple(more)) for f in (ours, theirs)]
    same(*nested)
    mixed = [grad(lambda *x, f=f: jvp(f, x, tuple(tangents))[1].square().sum())(*args) for f in (ours, theirs)]
    same(*mixed)
    mixed = [jvp(grad(loss(f)), tuple(args), tuple(tangents)) for f in (ours, theirs)]
    same(*mixed)
    same(linearize(ours, *args)[1](*tangents), jvp(theirs, tuple(args), tuple(tangents))[1])


def test_vjp(backend: str) -> None:
    args, g = inputs(2), torch.randn(2, 7, 3, dtype=torch.float64)
    same(vjp(attend, *args)[1](g), vjp(attend_by_oracle, *args)[1](g))
    same(vmap(vjp(attend, *args)[1])(g.expand(4, 2, 7, 3)), vmap(vjp(attend_by_oracle, *args)[1])(g.expand(4, 2, 7, 3)))


@pytest.mark.parametrize("out_dim", [0, -1, 2])
@by_operator
def test_vmap_over_every_argument(backend: str, name: str, ours: Any, theirs: Any, make: Any, out_dim: int) -> None:
    """The heads with their own dilation stay dim -3, wherever the mapped dim is."""
    for batch in ((), (3,)):
        plain, mapped = make(*batch), make(5, *batch)
        for dims in itertools.product((None, 0, 1, -1), repeat=len(plain)):
            if all(dim is None for dim in dims):
                continue
            args = [p if dim is None else m.movedim(0, dim) for p, m, dim in zip(plain, mapped, dims, strict=True)]
            same(vmap(ours, dims, out_dim)(*args), vmap(theirs, dims, out_dim)(*args))


@by_operator
def test_vmap_in_vmap(backend: str, name: str, ours: Any, theirs: Any, make: Any) -> None:
    args = make(3, 4)
    same(vmap(vmap(ours))(*args), theirs(*args))
    same(vmap(vmap(ours, 0, 1), 2, 1)(*(x.movedim(0, 2) for x in args)), theirs(*args).movedim(2, 0))
    first, *others = args
    inner = vmap(lambda x: vmap(lambda *y: ours(x, *y))(*(o[0] for o in others)) if others else ours(x))
    outer = vmap(lambda x: vmap(lambda *y: theirs(x, *y))(*(o[0] for o in others)) if others else theirs(x))
    same(inner(first[:, 0]), outer(first[:, 0]))
    same(vmap(ours, chunk_size=2)(*args), theirs(*args))


@by_operator
def test_per_sample_gradients(backend: str, name: str, ours: Any, theirs: Any, make: Any) -> None:
    args = make(4)
    everything = tuple(range(len(args)))
    same(vmap(grad(loss(ours), everything))(*args), vmap(grad(loss(theirs), everything))(*args))
    dims = (0, *(None for _ in args[1:]))
    mixed = [args[0], *(x[0] for x in args[1:])]
    same(vmap(grad(loss(ours), everything), dims)(*mixed), vmap(grad(loss(theirs), everything), dims)(*mixed))
    same(vmap(hessian(loss(ours)), dims)(*mixed), vmap(hessian(loss(theirs)), dims)(*mixed))
    through = [grad(lambda *x, f=f: vmap(f)(*x).square().sum(), everything)(*args) for f in (ours, theirs)]
    same(*through)
    recorded = [x.clone().requires_grad_() for x in args]
    same(torch.autograd.grad(vmap(ours)(*recorded).sin().sum(), recorded), torch.autograd.grad(loss(theirs)(*recorded), recorded))


def test_batched_cotangents(backend: str) -> None:
    args = inputs(2, grad=True)
    cotangents = torch.randn(5, 2, 7, 3, dtype=torch.float64)
    ours = torch.autograd.grad(attend(*args), args, cotangents, is_grads_batched=True)
    same(ours, torch.autograd.grad(attend_by_oracle(*args), args, cotangents, is_grads_batched=True))


def test_functional_jacobians_of_autograd(backend: str) -> None:
    args = tuple(inputs(lq=3, lk=3, dim=2))
    for vectorize in (False, True):
        same(
            torch.autograd.functional.hessian(loss(attend), args, vectorize=vectorize),
            torch.autograd.functional.hessian(loss(attend_by_oracle), args, vectorize=vectorize),
        )


def test_functional_call_of_an_ensemble(backend: str) -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = torch.nn.Linear(3, 9, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return attend(*self.project(x).chunk(3, -1))

    layers = [Layer() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    stacked = vmap(lambda p: functional_call(layers[0], (p, buffers), (x,)))(parameters)
    same(stacked, torch.stack([layer(x) for layer in layers]))


def test_fill_under_transforms(backend: str) -> None:
    q, k = torch.randn(4, 2, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    a, tangent = jvp(lambda q: window_matmul(q, k, 1, fill=3.5), (q,), (q,))
    same(a - tangent, torch.tensor([[3.5, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 3.5]], dtype=torch.float64))
    same(vmap(lambda q: window_matmul(q, k, 1, fill=3.5))(q.expand(2, 4, 2)), a.expand(2, 4, 3))

"""tests/python/test_attention_transforms.py: fused attention under vmap and the reverse-mode transforms of torch.func."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vjp, vmap

from attention_cases import DIFFERENTIABLE, OPTIONS_TOGETHER, Case
from attention_oracle import Rule
from window_matmul import window_attention, window_attention_varlen

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend
by_case = pytest.mark.parametrize("case", OPTIONS_TOGETHER, ids=str)


def same(actual: Any, exact: Any) -> None:
    torch.testing.assert_close(actual, exact, rtol=1e-10, atol=1e-12)


@by_case
def test_vmap(backend: str, case: Case) -> None:
    """Each tensor mapped or not, and anywhere; a loop says what is right."""
    names = list(case.tensors())
    plain, mapped = case.tensors(), {n: torch.stack([case.tensors()[n] for _ in range(3)]) for n in names}
    for dims in itertools.product((None, 0), repeat=len(names)):
        if not any(dim is not None for dim in dims):
            continue
        dims = tuple(-1 if dim == 0 and n % 2 else dim for n, dim in enumerate(dims))
        args = [plain[n] if dim is None else mapped[n].movedim(0, dim) for n, dim in zip(names, dims, strict=True)]
        got = vmap(lambda *x: case.ours(dict(zip(names, x, strict=True))), dims)(*args)
        for entry in range(3):
            one = {n: plain[n] if dim is None else mapped[n][entry] for n, dim in zip(names, dims, strict=True)}
            same((got[0][entry], got[1][entry]), case.ours(one))


@by_case
def test_gradients_in_vmap_and_vmap_in_gradients(backend: str, case: Case) -> None:
    names = [name for name in DIFFERENTIABLE if name in case.tensors()]
    fixed = {name: x for name, x in case.tensors().items() if name not in names}
    args = [torch.stack([case.tensors()[name] for _ in range(3)]) for name in names]
    everything = tuple(range(len(names)))

    def loss(*x: Tensor) -> Tensor:
        out, lse = case.ours(dict(zip(names, x, strict=True)) | fixed)
        return out.sin().sum() + lse.sin().sum()

    def by_autograd(*x: Tensor) -> tuple[Tensor, ...]:
        leaf = [y.clone().requires_grad_() for y in x]
        return torch.autograd.grad(loss(*leaf), leaf)

    want = [torch.stack(parts) for parts in zip(*(by_autograd(*(x[n] for x in args)) for n in range(3)), strict=True)]
    same(list(vmap(grad(loss, everything))(*args)), want)
    same(list(grad(lambda *x: vmap(loss)(*x).sum(), everything)(*args)), want)
    one = [x[0] for x in args]
    same(list(grad(loss, everything)(*one)), [x[0] for x in want])
    for n in everything:  # one alone is mapped: the gradients of the others are still one for each entry
        dims = tuple(0 if m == n else None for m in everything)
        got = vmap(grad(loss, everything), dims)(*(args[m] if m == n else one[m] for m in everything))
        for entry in range(3):
            same([x[entry] for x in got], list(by_autograd(*(args[m][entry] if m == n else one[m] for m in everything))))


def test_vjp_and_jacobians(backend: str) -> None:
    case = Case(Rule(1, 1), 3, 4, batch=1, dim=2)
    q, k, v = case.tensors().values()

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v, case.window)

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return case.exact({"q": q, "k": k, "v": v}).out

    same(jacrev(ours, (0, 1, 2))(q, k, v), torch.autograd.functional.jacobian(dense, (q, k, v)))
    out, pull = vjp(ours, q, k, v)
    cotangents = torch.randn(4, *out.shape, dtype=torch.float64)
    same(vmap(pull)(cotangents), vmap(vjp(dense, q, k, v)[1])(cotangents))
    same(torch.compile(grad(lambda *x: ours(*x).sin().sum()), fullgraph=True, backend="aot_eager")(q, k, v), pull(out.cos())[0])


def test_vmap_of_packed_sequences_and_dropout(backend: str) -> None:
    cu = torch.tensor([0, 3, 7])
    q, k, v = torch.randn(3, 5, 7, 2, 4, dtype=torch.float64)
    got = vmap(lambda *x: window_attention_varlen(*x, cu, cu, 2))(q, k, v)
    same(got, torch.stack([window_attention_varlen(q[n], k[n], v[n], cu, cu, 2) for n in range(5)]))
    q, k, v = torch.randn(3, 1, 2, 9, 4).expand(3, 1, 2, 9, 4).unbind()

    def dropped(q: Tensor) -> Tensor:
        return window_attention(q, k, v, 3, dropout_p=0.5)

    alike = vmap(dropped, randomness="same")(q.expand(4, 1, 2, 9, 4))
    assert all(torch.equal(x, alike[0]) for x in alike)
    other = vmap(dropped, randomness="different")(q.expand(4, 1, 2, 9, 4))
    assert not any(torch.equal(x, other[0]) for x in other[1:])
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(dropped)(q.expand(4, 1, 2, 9, 4))


def test_vmap_over_nothing(backend: str) -> None:
    case = OPTIONS_TOGETHER[3]
    names = list(case.tensors())
    nothing = [x.expand(0, *x.shape) for x in case.tensors().values()]
    for dims in ((0, None, None, None, None, None), (0,) * 6, (None, None, None, None, 0, None)):
        args = [n if dim == 0 else x for n, x, dim in zip(nothing, case.tensors().values(), dims, strict=True)]
        out, lse = vmap(lambda *x: case.ours(dict(zip(names, x, strict=True))), dims)(*args)
        assert out.shape == (0, 2, 2, 9, 3) and lse.shape == (0, 2, 2, 9)

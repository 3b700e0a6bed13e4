"""tests/python/test_precision.py: torch's precision of float32 products reaches the operators, and the gradients of what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from window_matmul import unwindow_matmul, window_matmul
from window_matmul._band import arguments, autograd
from window_matmul._band.ops import HIGH, HIGHEST

pytestmark = pytest.mark.best_backend
PRODUCTS = ("band_out", "band_in", "band_in_transposed")


@pytest.fixture(autouse=True)
def setting() -> Iterator[None]:
    yield
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


class Recorded(TorchDispatchMode):
    """The precision of every product, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("window_matmul::")
        if name in PRODUCTS:
            names = [argument.name for argument in func._schema.arguments]
            self.calls.append((name, dict(zip(names, args, strict=False)).get("precision", HIGHEST)))
        return func(*args, **(kwargs or {}))


def layer(precision: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    band = (2, 1, 0, q.shape[-2], precision)
    return autograd.band_in(autograd.band_out(q, k.mT, band).sin(), v, band)


def operands() -> list[Tensor]:
    return [torch.randn(2, 3, 9, 4, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("precision", [HIGHEST, HIGH])
def test_gradients_of_every_order_have_the_precision_of_their_call(precision: int) -> None:
    x = operands()
    with Recorded() as recorded:
        first = torch.autograd.grad(layer(precision, *x).sin().sum(), x, create_graph=True)
        torch.autograd.grad(sum(g.sin().sum() for g in first), x)
    assert {name for name, _ in recorded.calls} == set(PRODUCTS) and len(recorded.calls) > 10
    assert {given for _, given in recorded.calls} == {precision}


def test_transforms_carry_it() -> None:
    x = operands()
    for transformed in (
        lambda: torch.vmap(lambda *x: layer(HIGH, *x))(*x),
        lambda: torch.func.grad(lambda *x: layer(HIGH, *x).sum(), argnums=(0, 1, 2))(*x),
        lambda: torch.func.jvp(lambda *x: layer(HIGH, *x), tuple(x), tuple(x)),
    ):
        with Recorded() as recorded:
            transformed()
        assert recorded.calls and {given for _, given in recorded.calls} == {HIGH}
    traced = make_fx(lambda *x: torch.autograd.grad(layer(HIGH, *x).sum(), x[:1]))(*x)
    calls = [node for node in traced.graph.nodes if "window_matmul" in str(node.target)]
    assert calls and all(node.args[-1] == HIGH for node in calls)
    compiled = torch.compile(lambda *x: layer(HIGH, *x), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*x), layer(HIGH, *x))


def test_a_cpu_has_one_precision() -> None:
    x = operands()
    direct = [torch.autograd.grad(layer(precision, *x).sum(), x) for precision in (HIGHEST, HIGH)]
    assert all(torch.equal(a, b) for a, b in zip(*direct, strict=True))
    torch.set_float32_matmul_precision("medium")
    with Recorded() as recorded:
        unwindow_matmul(window_matmul(x[0], x[1].mT, 2), x[2], 2)
    assert recorded.calls == [("band_out", HIGHEST), ("band_in", HIGHEST)]


def test_a_precision_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"precision is 2; it needs to be 0 \(highest\) or 1 \(high\)"):
        torch.ops.window_matmul.band_out(torch.ones(3, 2), torch.ones(2, 3), 1, 1, [], 0, 0.0, 2)


def test_what_torch_is_asked() -> None:
    """Old names and new ones, also where they were mixed: torch's own getters of the old name then raise."""
    for name, allows in (("highest", False), ("high", True), ("medium", True)):
        torch.set_float32_matmul_precision(name)
        assert arguments._allows_tf32() is allows
    torch.set_float32_matmul_precision("highest")
    for name, allows in (("tf32", True), ("ieee", False), ("tf32", True), ("none", False)):
        torch.backends.cuda.matmul.fp32_precision = name
        assert arguments._allows_tf32() is allows


def test_compiled_code_follows_the_setting() -> None:
    compiled = torch.compile(lambda x: x + arguments._allows_tf32(), backend="eager", fullgraph=True)
    for name, allows in (("highest", 0), ("high", 1), ("highest", 0), ("medium", 1)):
        torch.set_float32_matmul_precision(name)
        assert compiled(torch.zeros(1)).item() == allows

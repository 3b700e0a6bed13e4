"""tests/python/test_compile.py: torch.compile, torch.export, fake tensors, opcheck: all stays in the graph, nothing changes in it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, vmap

from attention import NAMES, OPERATORS, attend, attend_by_oracle, inputs, loss
from window_matmul import Window, unwindow_matmul, window_attention, window_matmul, window_softmax

pytestmark = [pytest.mark.best_backend, pytest.mark.long]
by_operator = pytest.mark.parametrize("name, ours, theirs, make", OPERATORS, ids=NAMES)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def same(actual: Any, exact: Any) -> None:
    torch.testing.assert_close(actual, exact, rtol=1e-10, atol=1e-12)


def value_and_gradients(f: Callable[..., Tensor], args: list[Tensor]) -> tuple[Tensor, ...]:
    y = f(*args)
    return y, *torch.autograd.grad(y.sin().sum(), args)


@pytest.mark.parametrize("dynamic", [True, None])
@by_operator
def test_each_operator(backend: str, name: str, ours: Any, theirs: Any, make: Any, dynamic: bool | None) -> None:
    """With other work around it; bit-equal to the same without the compiler."""

    def f(*args: Tensor) -> Tensor:
        return ours(args[0] * 2, *args[1:]).cos()

    compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (2, 3, 4):  # a graph for all, or one for the first and one for all others
        args = make(batch, grad=True)
        for got, want in zip(value_and_gradients(compiled, args), value_and_gradients(f, args), strict=True):
            assert torch.equal(got, want)


@by_operator
def test_each_operator_without_gradients(backend: str, name: str, ours: Any, theirs: Any, make: Any) -> None:
    """A graph for each batch."""
    compiled = torch.compile(lambda *args: ours(args[0] * 2, *args[1:]).cos(), fullgraph=True, dynamic=False, backend="aot_eager")
    for context in (torch.no_grad(), torch.inference_mode()):
        for batch in (2, 3):
            args = make(batch)
            with context:
                same(compiled(*args), theirs(args[0] * 2, *args[1:]).cos())


def test_inductor(backend: str) -> None:
    """The default compiler, which chooses layouts itself: transposed and permuted inputs and results between the operators."""

    def f(x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(-3, -2) for t in (x * 2, y.sin(), y + 1))
        return attend(q, k, v).transpose(-3, -2).flatten(-2).relu()

    compiled = torch.compile(f, fullgraph=True, dynamic=True)  # in test_function_transforms_inside it knows the lengths
    for lq, lk in ((7, 9), (12, 16)):
        args = [torch.randn(2, length, 8, dtype=torch.float64, requires_grad=True) for length in (lq, lk)]
        same(value_and_gradients(compiled, args), value_and_gradients(f, args))


def test_new_lengths_make_no_new_graphs(backend: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    for length in (7, 8, 11, 12, 30, 31):
        args = inputs(2, lq=length, lk=length + 2, grad=True)
        same(value_and_gradients(compiled, args), value_and_gradients(attend_by_oracle, args))
    assert counter.frame_count <= 2  # one for the first length, one for all others


def test_graphs_do_not_guard_which_modules_are_loaded(backend: str) -> None:
    """PyTorch would wrap and guard thousands of entries for each, where it only asks whether a tensor is a DTensor."""
    importlib.import_module("torch.distributed.tensor")
    q = torch.randn(1, 2, 9, 4, requires_grad=True)
    for f in (lambda q: attend(q, q, q), lambda q: window_attention(q, q, q, (2, 0))):
        guards = [str(guard) for guard in torch._dynamo.explain(f)(q).out_guards or []]
        assert guards and not any("sys.modules" in guard for guard in guards)


def test_query_offset_may_be_symbolic(backend: str) -> None:
    def f(q: Tensor, k: Tensor, cache: Tensor) -> Tensor:
        a = window_matmul(q, k, (2, 1), query_offset=cache.shape[0] - q.shape[0])
        return window_softmax(a, (2, 1), num_keys=k.shape[-1], query_offset=cache.shape[0] - q.shape[0])

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=counter)
    for length, keys, cached in ((5, 9, 8), (6, 12, 7), (4, 11, 10), (7, 21, 3)):
        args = torch.randn(length, 3), torch.randn(3, keys), torch.empty(cached)
        assert torch.equal(compiled(*args), f(*args))
    assert counter.frame_count <= 2


def test_every_way_to_write_a_window(backend: str) -> None:
    q, k = torch.randn(2, 6, 3), torch.randn(2, 3, 6)
    windows = [(window, options) for window in (2, (2, 2)) for options in ({}, {"dilation": 3})]
    windows += [(window, o) for window in (Window(2, 2), Window(2, 2, 3)) for o in ({}, {"fill": -torch.inf}, {"query_offset": 1})]

    def f(q: Tensor, k: Tensor) -> list[Tensor]:
        return [window_matmul(q, k, window, **options) for window, options in windows]

    for got, want in zip(torch.compile(f, fullgraph=True, backend="eager")(q, k), f(q, k), strict=True):
        assert torch.equal(got, want)
    compiled = torch.compile(lambda q, k: window_matmul(q, k, 2, dilation=(1, 4)), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k), window_matmul(q, k, 2, dilation=[1, 4]))


def test_broadcasting(backend: str) -> None:
    def f(q: Tensor, k: Tensor) -> Tensor:
        return unwindow_matmul(window_matmul(q, k, 1), k.mT, 1)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    args = [torch.randn(2, 1, 5, 3, requires_grad=True), torch.randn(4, 3, 5, requires_grad=True)]
    for got, want in zip(value_and_gradients(compiled, args), value_and_gradients(f, args), strict=True):
        torch.testing.assert_close(got, want)


def test_function_transforms_inside(backend: str) -> None:
    args = inputs(3)

    def gradients(f: Callable[..., Tensor]) -> Callable[..., Any]:
        return grad(loss(f), (0, 1, 2))

    for of, backend_of_dynamo in (
        (gradients, "aot_eager"),
        (vmap, "aot_eager"),
        (lambda f: vmap(gradients(f)), "aot_eager"),
        (lambda f: vmap(gradients(f)), "inductor"),
    ):
        compiled = torch.compile(of(attend), fullgraph=True, backend=backend_of_dynamo)
        same(compiled(*args), of(attend_by_oracle)(*args))


def test_autocast_inside(backend: str) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return attend(q, k, v)

    args = inputs(2, dtype=torch.float32, grad=True)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert compiled(*args).dtype == torch.bfloat16
    for got, want in zip(value_and_gradients(compiled, args), value_and_gradients(f, args), strict=True):
        assert torch.equal(got, want)


def test_errors_stay_errors(backend: str) -> None:
    compiled = torch.compile(lambda q, k: window_matmul(q, k, -1), backend="eager")
    with pytest.raises(ValueError, match="window_size"):
        compiled(torch.randn(4, 3), torch.randn(3, 4))


class Layer(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v)


@pytest.mark.parametrize("strict", [False, True])
def test_export(backend: str, strict: bool) -> None:
    batch, queries, keys = (torch.export.Dim(name, min=2, max=500) for name in ("batch", "queries", "keys"))
    shapes = {"q": {0: batch, 1: queries}, "k": {0: batch, 1: keys}, "v": {0: batch, 1: keys}}
    program = torch.export.export(Layer(), tuple(inputs(3)), dynamic_shapes=shapes, strict=strict)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {f"window_matmul.{op}.default" for op in ("band_out", "window_softmax", "band_in")} <= names
    for batch_size, lq, lk in ((3, 7, 9), (2, 30, 30), (4, 11, 5)):
        args = inputs(batch_size, lq=lq, lk=lk)
        assert torch.equal(program.module()(*args), attend(*args))
    again = program.run_decompositions().module()
    assert torch.equal(again(*args), attend(*args))


def test_meta_tensors(backend: str) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        big = torch.empty(2**20, 2**20, 64, device="meta", dtype=dtype)
        a = window_matmul(big[:1].expand(2**20, -1, -1), big.mT, (100, 27), dilation=3)
        assert (a.shape, a.dtype, a.device.type) == ((2**20, 2**20, 128), dtype, "meta")
        p = window_softmax(a, (100, 27), dilation=3)
        o = unwindow_matmul(p, big, (100, 27), dilation=3)
        assert (o.shape, o.dtype, o.device.type) == (big.shape, dtype, "meta")
    x = torch.empty(4, 5, 3, device="meta", requires_grad=True)
    attend(x, x, x).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape and x.grad.device.type == "meta"


@by_operator
def test_fake_tensors_are_as_the_real_ones(backend: str, name: str, ours: Any, theirs: Any, make: Any) -> None:
    layouts = (
        lambda x: x,
        lambda x: x.mT.contiguous().mT,
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x[:1].expand_as(x),
    )
    for layout in layouts:
        args = [layout(x).requires_grad_() for x in make(3)]
        real = value_and_gradients(ours, args)
        with FakeTensorMode() as mode:
            fake = value_and_gradients(ours, [mode.from_tensor(x) for x in args])
        for x, y in zip(real, fake, strict=True):
            assert (x.shape, x.stride(), x.dtype, x.device) == (y.shape, y.stride(), y.dtype, y.device)


def private_calls(grad: bool) -> list[tuple[Any, tuple[Any, ...]]]:
    def t(*shape: int) -> Tensor:
        return torch.randn(2, *shape, dtype=torch.float64, requires_grad=grad)

    ops = torch.ops.window_matmul
    calls = []
    for dilation in ([], [2], [1, 3]):
        calls += [
            (ops.band_out.default, (t(2, 5, 3), t(2, 3, 6), 2, 1, dilation, 1, 0.5)),
            (ops.band_in.default, (t(2, 5, 4), t(2, 6, 3), 2, 1, dilation, 1)),
            (ops.band_in_transposed.default, (t(2, 5, 4), t(2, 5, 3), 2, 1, dilation, 1, 6)),
            (ops.window_softmax.default, (t(2, 5, 4), 2, 1, dilation, 1, 6)),
            (ops.window_softmax_backward.default, (t(2, 5, 4), t(2, 5, 4), 2, 1, dilation, 1, 6)),
        ]
    return calls


@pytest.mark.parametrize("number", range(15))
def test_opcheck(backend: str, number: int) -> None:
    for grad_ in (False, True) if number < 5 else (True,):  # without gradients the dilation is one more number
        op, args = private_calls(grad_)[number]
        torch.library.opcheck(op, args)
    op, args = private_calls(False)[number]
    other_layouts = tuple(x.mT.contiguous().mT if isinstance(x, Tensor) else x for x in args)
    torch.library.opcheck(op, other_layouts, test_utils=("test_schema", "test_faketensor"))
    assert torch.equal(op(*other_layouts), op(*args)) or torch.allclose(op(*other_layouts), op(*args), rtol=1e-14, atol=1e-15)

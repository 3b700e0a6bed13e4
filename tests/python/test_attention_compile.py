"""tests/python/test_attention_compile.py: fused attention under torch.compile, torch.export, fake tensors and opcheck."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from attention_cases import DIFFERENTIABLE, OPTIONS_TOGETHER, Case, leaves
from attention_oracle import Rule
from window_matmul import Window, window_attention, window_attention_varlen

OPERATOR = "attention"
pytestmark = [pytest.mark.best_backend, pytest.mark.long]
by_case = pytest.mark.parametrize("case", OPTIONS_TOGETHER, ids=str)
TENSORS = OPTIONS_TOGETHER[2:4] + OPTIONS_TOGETHER[5:]  # all options that are tensors


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def same(actual: Any, exact: Any) -> None:
    torch.testing.assert_close(actual, exact, rtol=1e-10, atol=1e-12)


def values_and_gradients(f: Callable[..., Any], tensors: dict[str, Tensor]) -> list[Tensor]:
    out, lse = f(**tensors)
    names = [name for name in DIFFERENTIABLE if name in tensors]
    return [out, lse, *torch.autograd.grad(out.sin().sum() + lse.sin().sum(), [tensors[name] for name in names])]


# ---- torch.compile -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case, dynamic", [(case, True) for case in OPTIONS_TOGETHER] + [(case, False) for case in TENSORS], ids=str)
def test_compile(backend: str, case: Case, dynamic: bool) -> None:
    """With other work around it; bit-equal to the same without the compiler."""

    def f(**tensors: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = case.ours(tensors | {"q": tensors["q"] * 2})
        return out.cos(), lse

    compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (2, 3, 4) if dynamic else (2,):  # a graph for all
        tensors = leaves(replace(case, batch=batch).tensors())
        for got, want in zip(values_and_gradients(compiled, tensors), values_and_gradients(f, tensors), strict=True):
            assert torch.equal(got, want) and got.stride() == want.stride()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_compile_without_gradients(backend: str, context: Any) -> None:
    """A graph for each batch."""
    compiled = torch.compile(lambda case, tensors: case.ours(tensors), fullgraph=True, dynamic=False, backend="aot_eager")
    for batch in (2, 3):
        case = replace(OPTIONS_TOGETHER[3], batch=batch)
        tensors = leaves(case.tensors())
        with context():
            assert torch.equal(compiled(case, tensors)[0], case.ours(tensors)[0])


@pytest.mark.parametrize("sides", [(1, 0), (0, 1)])
def test_sides_that_are_symbols(sides: tuple[int, int]) -> None:
    """As numbers a compiled function closes over are, 0 and 1 too, beside heads that their dilations have made a constant."""
    q, bias = torch.randn(2, 2, 9, 4), torch.randn(2, sum(sides) + 1)

    def f(q: Tensor, bias: Tensor) -> Tensor:
        return window_attention(q * 2, q, q, sides, dilation=(1, 2), bias=bias)

    assert torch.equal(torch.compile(f, fullgraph=True, dynamic=True, backend="eager")(q, bias), f(q, bias))
    with pytest.raises(Exception, match=r"bias is .*; it needs to be"):
        torch.compile(f, fullgraph=True, dynamic=True, backend="eager")(q, torch.randn(2, 3))


def test_inductor(backend: str) -> None:
    """The default compiler, which chooses layouts itself, between projections as a layer has them."""

    def f(x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(-3, -2) for t in (x * 2, y.sin(), y + 1))
        return window_attention(q, k, v, (2, 1)).transpose(-3, -2).flatten(-2).relu()

    compiled = torch.compile(f, fullgraph=True, dynamic=True)  # in test_dropout it knows the lengths
    for lq, lk in ((7, 9), (12, 16)):
        args = [torch.randn(2, length, 8, dtype=torch.float64, requires_grad=True) for length in (lq, lk)]
        ours, theirs = ([y, *torch.autograd.grad(y.sum(), args)] for y in (compiled(*args), f(*args)))
        same(ours, theirs)


def test_new_lengths_make_no_new_graphs(backend: str) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v, (2, 1), global_tokens=1)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(f, fullgraph=True, backend=counter)
    for length in (7, 8, 11, 12, 30, 31):
        tensors = leaves(Case(Rule(2, 1), length, length + 2).tensors())
        assert torch.equal(compiled(**tensors), f(**tensors))
    assert counter.frame_count <= 2  # one for the first length, one for all others


def test_query_offset_and_numbers_may_change(backend: str) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor, cache: Tensor, softcap: float, scale: float) -> Tensor:
        offset = cache.shape[0] - q.shape[2]
        return window_attention(q, k, v, (2, 0), query_offset=offset, softcap=softcap, scale=scale, global_tokens=q.shape[2])

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, (length, keys, cached) in enumerate(((5, 9, 8), (6, 12, 7), (4, 11, 10), (7, 21, 3))):
        args = *Case(Rule(2, 0), length, keys).tensors().values(), torch.empty(cached), float(n), 0.3 * n
        assert torch.equal(compiled(*args), f(*args))


def test_every_way_to_write_a_window(backend: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 6, 3)
    windows = 2, (2, None), None, Window(2, 2), Window(None, 2, 3), (-1, 2**62)

    def f(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        return [window_attention(q, k, v, window) for window in windows]

    for got, want in zip(torch.compile(f, fullgraph=True, backend="eager")(q, k, v), f(q, k, v), strict=True):
        assert torch.equal(got, want)


def test_packed_sequences(backend: str) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor, cu: Tensor) -> tuple[Tensor, Tensor]:
        return window_attention_varlen(q, k, v, cu, cu, 2, return_lse=True)

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in ([3, 4], [5, 1], [2, 9]):
        cu = torch.tensor([0, *lengths]).cumsum(0)
        tensors = {name: torch.randn(sum(lengths), 2, 4, dtype=torch.float64, requires_grad=True) for name in "qkv"} | {"cu": cu}
        for got, want in zip(values_and_gradients(compiled, tensors), values_and_gradients(f, tensors), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("backend_of_dynamo", ["aot_eager", "inductor"])
def test_dropout(backend: str, backend_of_dynamo: str) -> None:
    """Drawn anew at each run, under the rule of torch.manual_seed; the gradient knows the mask."""

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v, 3, dropout_p=0.5)

    compiled = torch.compile(f, fullgraph=True, backend=backend_of_dynamo)
    q, k = torch.zeros(1, 2, 9, 3), torch.zeros(1, 2, 9, 3)
    v = torch.eye(9).expand(1, 2, 9, 9).clone().requires_grad_()
    torch.manual_seed(1)
    first, second = compiled(q, k, v), compiled(q, k, v)
    torch.manual_seed(1)
    again = compiled(q, k, v)
    assert torch.equal(first, again) and not torch.equal(first, second)
    g = torch.randn_like(first)
    torch.testing.assert_close(torch.autograd.grad(first, v, g)[0], first.detach().mT @ g)  # the weights themselves


def test_autocast_inside(backend: str) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return window_attention(q, k, v, 2)

    args = [x.requires_grad_() for x in OPTIONS_TOGETHER[0].tensors(torch.float32).values()]
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    out = compiled(*args)
    assert out.dtype == torch.bfloat16 and torch.equal(out, f(*args))
    for got, want in zip(torch.autograd.grad(out.sum(), args), torch.autograd.grad(f(*args).sum(), args), strict=True):
        assert torch.equal(got, want)


def test_errors_stay_errors(backend: str) -> None:
    compiled = torch.compile(lambda q: window_attention(q, q, q, -3), backend="eager")
    with pytest.raises(ValueError, match="window_size"):
        compiled(torch.randn(1, 1, 4, 3))


# ---- torch.export, fake tensors ------------------------------------------------------------------------------------------------------
class Layer(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v, (2, 1))


@pytest.mark.parametrize("strict", [False, True])
def test_export(backend: str, strict: bool) -> None:
    batch, queries, keys = (torch.export.Dim(name, min=2, max=500) for name in ("batch", "queries", "keys"))
    shapes = {"q": {0: batch, 2: queries}, "k": {0: batch, 2: keys}, "v": {0: batch, 2: keys}}
    program = torch.export.export(Layer(), tuple(Case(Rule(2, 1)).tensors().values()), dynamic_shapes=shapes, strict=strict)
    assert "window_matmul.attention.default" in {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    for module in (program.module(), program.run_decompositions().module()):
        for size, lq, lk in ((3, 7, 9), (2, 30, 30), (4, 11, 5)):
            args = tuple(Case(Rule(2, 1), lq, lk, batch=size).tensors().values())
            assert torch.equal(module(*args), window_attention(*args, (2, 1)))


def test_meta_tensors(backend: str) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        q, k = (torch.empty(2**10, heads, 2**20, 64, device="meta", dtype=dtype) for heads in (8, 2))
        out, lse = window_attention(q, k, k, 100, global_tokens=3, dropout_p=0.1, return_lse=True)
        assert (out.shape, out.dtype, out.device.type) == (q.shape, dtype, "meta")
        assert (lse.shape, lse.dtype) == (q.shape[:3], torch.float64 if dtype == torch.float64 else torch.float32)
    x = torch.empty(1, 2, 5, 3, device="meta", requires_grad=True)
    window_attention(x, x, x, 1).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape and x.grad.device.type == "meta"


@by_case
def test_fake_tensors_are_as_the_real_ones(backend: str, case: Case) -> None:
    for layout in (lambda x: x, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), lambda x: x.mT.contiguous().mT):
        tensors = {n: layout(x) if x.ndim == 4 else x for n, x in case.tensors().items()}
        real = values_and_gradients(lambda **x: case.ours(x), leaves(tensors))
        leaf = leaves(tensors)
        with FakeTensorMode() as mode:
            fake = values_and_gradients(lambda **x: case.ours(x), {n: mode.from_tensor(x) for n, x in leaf.items()})
        for x, y in zip(real, fake, strict=True):
            assert (x.shape, x.stride(), x.dtype, x.device) == (y.shape, y.stride(), y.dtype, y.device)


def calls(case: Case, grad: bool) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The arguments of the two private operators."""
    t = leaves(case.tensors()) if grad else case.tensors()
    dilation = [case.rule.dilation] if isinstance(case.rule.dilation, int) else case.rule.dilation
    is_mask = isinstance(t.get("global_tokens"), Tensor)
    options = [t.get("bias"), t.get("sinks"), t.get("key_mask"), t["global_tokens"] if is_mask else None, None, None, None]
    options += [t.get("key_lengths"), t.get("query_offset")]
    sides = (1 << 60 if side is None else side for side in case.window)
    numbers = [*sides, 0, *dilation], case.keys - case.queries, case.global_tokens or 0
    given = (t["q"], t["k"], t["v"], *options, *numbers, [case.softcap, 0.0] + [case.scale] * (case.scale is not None))
    with torch.no_grad():
        out, lse = torch.ops.window_matmul.attention(*given)
    wanted = 7 + 8 * bool(case.bias) + 16 * case.sinks
    return given, (torch.randn_like(out), torch.randn_like(lse), out, lse, *given, wanted)


@by_case
def test_opcheck(backend: str, case: Case) -> None:
    ops = torch.ops.window_matmul
    for grad_ in (False, True):
        torch.library.opcheck(ops.attention.default, calls(case, grad_)[0])
    torch.library.opcheck(ops.attention_backward.default, calls(case, False)[1])
    parts = ("test_schema", "test_autograd_registration", "test_faketensor")  # the other asks for a derivative, which there is none
    torch.library.opcheck(ops.attention_backward.default, calls(case, True)[1], test_utils=parts)
    for wanted in (0, 1, 6):  # decides which results there are
        torch.library.opcheck(ops.attention_backward.default, (*calls(case, False)[1][:-1], wanted), test_utils=parts[::2])


def test_tracing(backend: str) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    q, k, v = Case(Rule(2, 1)).tensors().values()
    q.requires_grad_()
    traced = torch.jit.trace(Layer(), (q, k, v))
    assert "window_matmul::attention" in {node.kind() for node in traced.graph.nodes()}
    same(traced(q, k, v), Layer()(q, k, v))
    graph = make_fx(lambda q, k, v: torch.autograd.grad(Layer()(q, k, v).sum(), q))(q, k, v)
    assert "window_matmul.attention.default" in graph.code and "window_matmul.attention_backward.default" in graph.code

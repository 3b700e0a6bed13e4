"""tests/python/test_binding.py: the private operators, and what the binding does beyond the public functions' results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from child import run
from window_matmul import Window, unwindow_matmul, window_matmul, window_softmax
from window_matmul._band import autograd
from window_matmul.plot import plot_band, plot_scores

BANDS = {"plain": ((), 1), "dilated": ((2,), 1), "a dilation for each head": ((1, 2), 1), "offset": ((), -2)}  # (dilation, shift)


def randn(*shape: int) -> Tensor:
    return torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("band", BANDS)
def test_private_operators_are_differentiable_too(backend: str, band: str) -> None:
    dilation, shift = BANDS[band]
    for f, x, y in (
        (lambda a, x: autograd.band_in_transposed(a, x, (1, 1, shift, 5, 0, *dilation)), randn(4, 3), randn(4, 2)),
        (lambda g, p: autograd.window_softmax_backward(g, p, (1, 1, shift, 5, 0, *dilation)), randn(4, 3), randn(4, 3)),
    ):
        assert gradcheck(f, (x, y), check_batched_grad=True, check_forward_ad=True, check_batched_forward_grad=True)
        assert gradgradcheck(f, (x, y), check_batched_grad=True, check_fwd_over_rev=True, fast_mode=True)


def test_tangents_of_tangents(backend: str) -> None:
    """Forward mode within forward mode: each level's tangents stay that level's."""

    def layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return unwindow_matmul(window_softmax(window_matmul(q, k.mT, (2, 1)), (2, 1)), v, (2, 1))

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        distance = torch.arange(6) - torch.arange(6)[:, None]
        e = (q @ k.mT).masked_fill((distance < -2) | (distance > 1), -torch.inf).exp()
        return e / e.sum(-1, keepdim=True) @ v

    x, t = [[torch.randn(2, 6, 3, dtype=torch.float64) for _ in range(3)] for _ in range(2)]

    def nested(f, depth: int):  # type: ignore[no-untyped-def]
        for _ in range(depth):
            f = lambda *x, f=f: torch.func.jvp(lambda *y: f(*y).sin(), x, tuple(t))[1]  # noqa: E731
        return f(*x)

    for depth in (1, 2, 3):
        torch.testing.assert_close(nested(layer, depth), nested(dense, depth))


def test_the_gradient_of_a_transposed_view_lies_as_its_base(backend: str) -> None:
    """k is as a rule keys.mT: its gradient comes as such a view as well, so that nothing is copied on the way to the keys."""
    keys, seen = torch.randn(2, 9, 4, requires_grad=True), []
    k = keys.mT
    k.register_hook(lambda g: seen.append(g.stride()))
    window_matmul(torch.randn(2, 7, 4), k, 2).sum().backward()
    assert seen == [(36, 1, 4)] and keys.grad is not None and keys.grad.is_contiguous()


@pytest.mark.best_backend
def test_tracing(backend: str) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    q, v = torch.randn(2, 7, 4, requires_grad=True), torch.randn(2, 7, 4)

    def f(q: Tensor, v: Tensor) -> Tensor:
        return unwindow_matmul(window_matmul(q, v.mT, 2), v, 2)

    traced = torch.jit.trace(f, (q, v))
    assert {"window_matmul::band_out", "window_matmul::band_in"} <= {node.kind() for node in traced.graph.nodes()}
    torch.testing.assert_close(traced(q, v), f(q, v))
    graph = make_fx(lambda q, v: torch.autograd.grad(f(q, v).sum(), q))(q, v)
    assert "band_in" in graph.code and "band_out" in graph.code


@pytest.mark.best_backend
def test_nodes_of_the_graph_have_names(backend: str) -> None:
    q = torch.randn(5, 3, requires_grad=True)
    a = window_matmul(q, q.mT, 1)
    assert type(a.grad_fn).__name__ == "BandOutBackward" and type(window_softmax(a, 1).grad_fn).__name__ == "WindowSoftmaxBackward"


@pytest.mark.best_backend
def test_torch_function_sees_the_operators(backend: str) -> None:
    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    with Counting():
        window_matmul(torch.ones(3, 2), torch.ones(2, 3), 1)
    assert any("band_out" in name for name in names)


def huge_pages() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[never]" not in setting.read_text()


@pytest.mark.best_backend
@pytest.mark.skipif(not huge_pages(), reason="this system gives no huge pages")
def test_large_results_lie_in_huge_pages(backend: str) -> None:
    said = run("""
        import torch, window_matmul
        a = window_matmul.window_matmul(torch.randn(8192, 8), torch.randn(8, 8192), 512)
        maps = open("/proc/self/smaps").read().split("\\n")
        print(sum(int(line.split()[1]) for line in maps if line.startswith("AnonHugePages")))
        """)
    assert int(said) >= 28 << 10  # of 32 MiB, in KiB


@pytest.mark.best_backend
def test_pictures(backend: str) -> None:
    os.environ.setdefault("MPLBACKEND", "Agg")
    pytest.importorskip("matplotlib")
    seen = plot_band(Window(2, 1), 5, 6).images[0].get_array()
    assert seen.shape == (5, 6, 3) and len({tuple(color) for row in seen.tolist() for color in row}) == 3
    scores = plot_scores(torch.rand(5, 4) + 1, (2, 1), vmax=2).images[0].get_array()
    assert scores.shape == (5, 5) and int(scores.mask.sum()) == 25 - int(sum(min(5, i + 2) - max(0, i - 2) for i in range(5)))
    with pytest.raises(ValueError, match="4"):
        plot_scores(torch.rand(5, 3), (2, 1))

"""tests/python/test_contexts.py: autocast, inference mode, checkpointing, copies of modules, forked children, calls from many threads."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attention import attend, inputs
from child import run
from oracle import DTYPES
from window_matmul import unwindow_matmul, window_matmul, window_softmax

pytestmark = pytest.mark.best_backend
HALVES = [torch.bfloat16, torch.float16]


class Attention(nn.Module):
    """A layer with parameters around the operators."""

    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))


# ---- autocast --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_autocast_casts_every_input(backend: str, half: torch.dtype) -> None:
    q, k, v = inputs(2, dtype=torch.float32)
    a = torch.randn(2, 7, 4)
    calls: list[tuple[Callable[..., Tensor], list[Tensor]]] = [
        (lambda q, k: window_matmul(q, k.mT, (2, 1)), [q, k]),
        (lambda a, v: unwindow_matmul(a, v, (2, 1)), [a, v]),
        (lambda a: window_softmax(a, (2, 1), num_keys=9), [a]),
    ]
    for f, args in calls:
        leaf = [x.clone().requires_grad_() for x in args]
        with torch.autocast("cpu", dtype=half):
            y = f(*leaf)
            mixed = f(leaf[0].to(half), *leaf[1:])
        assert y.dtype == half and torch.equal(y, f(*(x.to(half) for x in args))) and torch.equal(mixed, y)
        y.sum().backward()
        assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in leaf)


def test_autocast_leaves_float64_alone(backend: str) -> None:
    args = inputs(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(*args), attend(*args)) and attend(*args).dtype == torch.float64
        with pytest.raises(TypeError, match=r"k is torch.bfloat16.*q.*torch.float64"):
            window_matmul(args[0], args[1].float().mT, 2)
    assert torch.equal(attend(*args), attend(*args))


def test_autocast_elsewhere_or_off(backend: str) -> None:
    args = inputs(2, dtype=torch.float32)
    plain = attend(*args)
    with torch.autocast("cuda", dtype=torch.float16) if torch.cuda.is_available() else torch.autocast("cpu", enabled=False):
        assert torch.equal(attend(*args), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert torch.equal(attend(*args), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        meta = [x.to("meta") for x in args]
        assert attend(*meta).device.type == "meta"
        with pytest.raises(TypeError, match="int64"):
            window_matmul(torch.ones(3, 2, dtype=torch.int64), torch.ones(2, 3), 1)


# ---- grad modes --------------------------------------------------------------------------------------------------------------------
def test_grad_modes(backend: str) -> None:
    args = inputs(2, grad=True)
    plain = attend(*args)
    assert plain.requires_grad
    with torch.no_grad():
        quiet = attend(*args)
    assert not quiet.requires_grad and torch.equal(quiet, plain)
    with torch.inference_mode():
        inference = attend(*args)
        own = attend(*inputs(2))
    assert inference.is_inference() and torch.equal(inference, plain)
    with torch.inference_mode():
        attend(own, own, own)
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        attend(args[0], own, own)  # as torch's own products: an inference tensor cannot be saved for backward
    with torch.no_grad(), torch.enable_grad():
        assert attend(*args).requires_grad
    torch.set_grad_enabled(True)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_mode(backend: str) -> None:
    args = inputs(2, grad=True)
    with torch.autograd.detect_anomaly(check_nan=True):
        attend(*args).sum().backward()
    assert all(x.grad is not None for x in args)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(backend: str, reentrant: bool) -> None:
    args = inputs(2, grad=True)
    expected = torch.autograd.grad(attend(*args).sin().sum(), args)
    checkpoint(attend, *args, use_reentrant=reentrant).sin().sum().backward()
    for x, e in zip(args, expected, strict=True):
        assert x.grad is not None and torch.equal(x.grad, e)


def test_hooks(backend: str) -> None:
    args = inputs(2, grad=True)
    doubled = torch.autograd.grad((attend(*args) * 2).sum(), args)
    seen: list[Tensor] = []
    y = attend(*args)
    y.register_hook(lambda g: seen.append(g) or g * 2)
    args[0].register_hook(seen.append)
    y.sum().backward()
    assert len(seen) == 2 and all(torch.equal(x.grad, e) for x, e in zip(args, doubled, strict=True))
    with torch.autograd.graph.save_on_cpu():
        y = attend(*args)
    assert all(torch.equal(x, e) for x, e in zip(torch.autograd.grad((y * 2).sum(), args), doubled, strict=True))


# ---- modules -----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modules_are_copied_and_stored(backend: str, dtype: torch.dtype) -> None:
    layer, x = Attention().to(dtype), torch.randn(2, 9, 8).to(dtype)
    y = layer(x)
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    loaded = Attention().to(dtype)
    loaded.load_state_dict(torch.load(stored))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.equal(other(x), y)
    with torch.no_grad():
        copied = copy.deepcopy(attend(*inputs(2)))
    assert copied.shape == (2, 7, 3)


def test_a_layer_learns(backend: str) -> None:
    """Gradient descent through the three operators finds what only attention to the key before can tell."""
    layer = Attention(dim=8, heads=1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    for _ in range(150):
        x = torch.randn(8, 16, 8)
        target = torch.zeros_like(x)
        target[:, 2:] = x[:, :-2]  # the tap at -2 of a window with dilation 2
        loss = (layer(x) - target)[:, 4:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.9  # 1 is what a layer without attention can reach


# ---- processes and threads -----------------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_forked_child_with_one_thread(backend: str) -> None:
    run("""
        import os, torch
        from window_matmul import window_matmul
        q, k = torch.randn(64, 256, 32), torch.randn(64, 32, 256)
        torch.set_num_threads(2)
        expected = window_matmul(q, k, 9)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            os._exit(0 if torch.equal(window_matmul(q, k, 9), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        """)


@pytest.mark.long
def test_spawned_workers(backend: str) -> None:
    import torch.multiprocessing as multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(_in_a_worker, (3,)), _in_a_worker(3))


def _in_a_worker(seed: int) -> Tensor:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    return attend(*inputs(2))


def test_calls_from_many_threads(backend: str) -> None:
    args = inputs(4, lq=150, lk=160, dim=32)

    def work(_: int) -> list[Tensor]:
        leaf = [x.clone().requires_grad_() for x in args]
        y = attend(*leaf)
        return [y.detach(), *torch.autograd.grad(y.sin().sum(), leaf)]

    expected = work(0)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(work, range(16)):
            assert all(torch.equal(x, e) for x, e in zip(result, expected, strict=True))

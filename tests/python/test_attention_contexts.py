"""tests/python/test_attention_contexts.py: fused attention under autocast, inference mode, checkpointing, hooks, in modules and workers."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attention_cases import Case, leaves
from attention_oracle import Rule
from child import run
from window_matmul import window_attention, window_attention_varlen

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend
CASE = Case(Rule(2, 1), 9, 9, heads=4, kv_heads=2, bias="slots", sinks=True, key_mask=True)
HALVES = [torch.bfloat16, torch.float16]


class Attention(nn.Module):
    """A layer with parameters around and in the operator."""

    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias, self.sinks = nn.Parameter(torch.zeros(heads, 5)), nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        y = window_attention(q, k, v, 2, bias=self.bias, sinks=self.sinks)
        return self.out(y.transpose(1, 2).flatten(2))


# ---- autocast ------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_autocast(backend: str, half: torch.dtype) -> None:
    """q, k, v and bias are cast, sinks are not; gradients come back in float32."""
    tensors = leaves(CASE.tensors(torch.float32))
    with torch.autocast("cpu", dtype=half):
        out, lse = CASE.ours(tensors)
        mixed = CASE.ours(tensors | {"q": tensors["q"].to(half)})
    cast = {name: x.detach().to(half) if name in ("q", "k", "v", "bias") else x for name, x in tensors.items()}
    expected = CASE.ours(cast)
    for got in ((out, lse), mixed):
        assert got[0].dtype == half and got[1].dtype == torch.float32
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    (out.sum() + lse.sum()).backward()
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in tensors.values() if x.requires_grad)
    other = {torch.bfloat16: torch.float16, torch.float16: torch.bfloat16}[half]  # of the tensors, beside autocast's
    given = {name: x.detach().to(other) if x.is_floating_point() else x for name, x in tensors.items()}
    with torch.autocast("cpu", dtype=half):
        got = CASE.ours(given)
    cast = {name: x.to(half) if name in ("q", "k", "v", "bias") else x for name, x in given.items()}
    assert torch.equal(got[0], CASE.ours(cast | {"sinks": given["sinks"].float()})[0])
    layer = Attention()
    with torch.autocast("cpu", dtype=half):
        layer(torch.randn(2, 9, 8)).sum().backward()
    assert layer.bias.grad is not None and layer.sinks.grad is not None


def test_autocast_leaves_float64_alone(backend: str) -> None:
    tensors = CASE.tensors()
    plain = CASE.ours(tensors)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(CASE.ours(tensors)[0], plain)
        wide = CASE.ours(tensors | {"bias": tensors["bias"].float()})[0]
    assert wide.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert torch.equal(CASE.ours(tensors)[0], plain)


def test_autocast_of_packed_sequences(backend: str) -> None:
    q, k, v = torch.randn(3, 7, 2, 4)
    ends = torch.tensor([0, 3, 7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = window_attention_varlen(q, k, v, ends, ends, 2)
    expected = window_attention_varlen(q.bfloat16(), k.bfloat16(), v.bfloat16(), ends, ends, 2)
    assert torch.equal(out, expected)


# ---- grad modes ----------------------------------------------------------------------------------------------------------------------
def test_grad_modes(backend: str) -> None:
    tensors = leaves(CASE.tensors())
    plain = CASE.ours(tensors)[0]
    assert plain.requires_grad
    with torch.no_grad():
        quiet = CASE.ours(tensors)[0]
    assert not quiet.requires_grad and torch.equal(quiet, plain)
    with torch.inference_mode():
        inference = CASE.ours(tensors)[0]
        own = CASE.tensors()
        CASE.ours(own)
    assert inference.is_inference() and torch.equal(inference, plain)
    CASE.ours(own)
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        CASE.ours(own | {"q": tensors["q"]})  # as torch's own operators: an inference tensor cannot be saved for backward


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(backend: str, reentrant: bool) -> None:
    layer, x = Attention(), torch.randn(2, 9, 8, requires_grad=True)
    layer(x).sin().sum().backward()
    expected, x.grad = x.grad, None
    checkpoint(layer, x, use_reentrant=reentrant).sin().sum().backward()
    assert x.grad is not None and torch.equal(x.grad, expected)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_hooks_and_anomaly_mode(backend: str) -> None:
    tensors = leaves(CASE.tensors())
    (expected,) = torch.autograd.grad((CASE.ours(tensors)[0] * 2).sum(), tensors["q"])
    out = CASE.ours(tensors)[0]
    out.register_hook(lambda g: g * 2)
    assert torch.equal(torch.autograd.grad(out.sum(), tensors["q"])[0], expected)
    with torch.autograd.graph.save_on_cpu(), torch.autograd.detect_anomaly(check_nan=True):
        out = CASE.ours(tensors)[0]
        assert torch.equal(torch.autograd.grad((out * 2).sum(), tensors["q"])[0], expected)


def test_saved_tensors_are_guarded(backend: str) -> None:
    """Writing into what was saved is noticed."""
    q, k, v = (x.clone().requires_grad_() for x in torch.randn(3, 1, 2, 5, 4))
    out = window_attention(q * 1, k * 1, v, 2)
    with torch.no_grad():
        v.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# ---- modules, processes --------------------------------------------------------------------------------------------------------------
def test_modules_are_copied_and_stored(backend: str) -> None:
    layer, x = Attention(), torch.randn(2, 9, 8)
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    loaded = Attention()
    loaded.load_state_dict(torch.load(stored))
    for other in (copy.deepcopy(layer), loaded):
        assert torch.equal(other(x), layer(x))


def test_a_layer_learns(backend: str) -> None:
    """Gradient descent finds what only attention to the key before can tell."""
    layer = Attention(dim=8, heads=1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    for _ in range(150):
        x = torch.randn(8, 16, 8)
        loss = (layer(x)[:, 4:] - x[:, 3:-1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5  # 1 is what a layer without attention can reach
    assert layer.bias[0].argmax() == 1  # the tap at -1


@pytest.mark.long
def test_forked_child_with_one_thread(backend: str) -> None:
    run("""
        import os, torch
        from window_matmul import window_attention
        q, k, v = torch.randn(3, 1, 8, 256, 16)
        torch.set_num_threads(2)
        expected = window_attention(q, k, v, 9)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            os._exit(0 if torch.equal(window_attention(q, k, v, 9), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        """)


def test_torch_function_sees_the_operator(backend: str) -> None:
    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    with Counting():
        window_attention(*torch.ones(3, 1, 1, 3, 2), 1)
    assert any("attention" in name for name in names)

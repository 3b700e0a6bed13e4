"""tests/python/distributed/contract.py: what is promised of any call over ranks, in the processes of pool.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from others import counted
from scenes import TOLERANCE, cut
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import window_matmul
from window_matmul import Window, distributed
from window_matmul.distributed import Layout, halo_exchange
from window_matmul.distributed.layout import shards_of

Raised = tuple[str, str]
ROWS, HEADS = 6, 2


def raised(call: Callable[[], Any]) -> Raised:
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def _rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# ---- calls that differ -----------------------------------------------------------------------------------------------------------------
def attention(group: Any, **options: Any) -> Any:
    return distributed.window_attention(*(_rows(1, HEADS, ROWS, 4, seed=n) for n in range(3)), (2, 1), group=group, **options)


def packed(group: Any, cu: list[int] | None = None, **options: Any) -> Any:
    q, k, v = (_rows(ROWS, HEADS, 4, seed=n) for n in range(3))
    bounds = torch.tensor([0, ROWS] if cu is None else cu)
    return distributed.window_attention_varlen(q, k, v, bounds, bounds, (2, 1), group=group, **options)


def band_out(group: Any, **options: Any) -> Any:
    return distributed.window_matmul(_rows(ROWS, 4), _rows(4, ROWS), (2, 1), group=group, **options)


def softmax(group: Any, **options: Any) -> Any:
    return distributed.window_softmax(_rows(ROWS, 4), (2, 1), group=group, **options)


def band_in(group: Any, **options: Any) -> Any:
    return distributed.unwindow_matmul(_rows(ROWS, 4), _rows(ROWS, 3), (2, 1), group=group, **options)


def halo(group: Any, left: int = 2, **options: Any) -> Any:
    return halo_exchange([_rows(2, ROWS, 4)], left, 1, group, **{"seq_dim": 1, **options})


CALLS = {x.__name__: x for x in (attention, packed, band_out, softmax, band_in, halo)}


def tensors_of(options: dict[str, Any]) -> dict[str, Any]:
    """Names of tensors stand for them."""
    made = {
        "slots": _rows(HEADS, 4),
        "full bias": _rows(1, HEADS, ROWS, 4),
        "sinks": _rows(HEADS),
        "mask": torch.ones(1, ROWS, dtype=torch.bool),
        "packed mask": torch.ones(ROWS, dtype=torch.bool),
        "lengths": torch.tensor([5]),
        "offsets": torch.tensor([1]),
    }
    return {name: made[x] if isinstance(x, str) else x for name, x in options.items()}


def differing(group: Any, one: int, cases: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> list[Raised]:
    """Rank `one` has the first options, the others the second; after each the same right call on all."""
    found = []
    for name, its, of_others in cases:
        options = tensors_of(its if dist.get_rank(group) == one else of_others)
        found.append(raised(lambda name=name, options=options: CALLS[name](group, **options)))
        CALLS[name](group)
    return found


# ---- forms of arguments ----------------------------------------------------------------------------------------------------------------
def forms(group: Any) -> None:
    """Numbers and groups in the forms that torch and numpy have for them."""
    import numpy

    size = dist.get_world_size(group)
    lengths, want = [ROWS] * size, attention(group)
    mesh = dist.device_mesh.DeviceMesh.from_group(group, "cpu")
    for given in (tuple(lengths), torch.tensor(lengths), numpy.array(lengths), [numpy.int64(n) for n in lengths]):
        assert torch.equal(attention(group, lengths=given), want)
    assert torch.equal(attention(mesh), want)
    q, k, v = (_rows(1, HEADS, ROWS, 4, seed=n) for n in range(3))
    for window in (Window(left=2, right=1), [2, 1]):
        assert torch.equal(distributed.window_attention(q, k, v, window, group=group), want)
    all_keys = distributed.window_attention(q, k, v, None, group=group)
    assert torch.equal(distributed.window_attention(q, k, v, (-1, None), group=group), all_keys)
    (x,), sizes = halo_exchange((q,), 1, 0, mesh)
    (y,), again = halo_exchange([q.transpose(1, 2).contiguous().transpose(1, 2)], 1, 0, group, seq_dim=2)
    assert torch.equal(x, y) and sizes == again == (int(dist.get_rank(group) > 0), 0)


# ---- gradients -------------------------------------------------------------------------------------------------------------------------
def gradients(group: Any, wanted: tuple[str, ...], way: str) -> None:
    """Of some tensors only; recomputed, kept for a second time, under autocast, with a bias of a wider dtype, or of strided tensors."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    lengths = (7, 3, 5)[:size]
    shards, wide = shards_of(Layout.contiguous, lengths), way == "autocast"
    dtype = torch.bfloat16 if way == "wide bias" else torch.float16 if way == "half" else torch.float32 if wide else torch.float64
    total = shards.length
    whole = {name: _rows(2, HEADS, total, 4, seed=n, dtype=dtype) for n, name in enumerate("qkv")}
    whole["bias"] = _rows(2, HEADS, total, 4, seed=4, dtype=torch.float32 if way == "wide bias" else dtype)
    weights = _rows(2, HEADS, total, 4, seed=5, dtype=dtype)

    def step(tensors: dict[str, Tensor], weights: Tensor, call: Callable[..., Tensor]) -> list[Tensor]:
        leaves = {name: x.clone().requires_grad_(name in wanted) for name, x in tensors.items()}
        given = {name: (x.mT.contiguous().mT if way == "strided" else x) for name, x in leaves.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=wide):
            if way == "recomputed":
                out = checkpoint(lambda *x: call(*x[:3], bias=x[3]), *given.values(), use_reentrant=False)
            else:
                out = call(given["q"], given["k"], given["v"], bias=given["bias"])
        inputs = [leaves[name] for name in wanted]
        found = torch.autograd.grad((out * weights).sum(), inputs, retain_graph=way == "twice")
        if way == "twice":
            for first, second in zip(found, torch.autograd.grad((out * weights).sum(), inputs), strict=True):
                assert torch.equal(first, second)
        return [out.detach(), *found]

    alone = step(whole, weights, lambda q, k, v, bias: window_matmul.window_attention(q, k, v, (2, 1), bias=bias))
    here = {name: cut(x, 2, shards, rank) for name, x in whole.items()}
    with counted() as sent:
        together = step(
            here,
            cut(weights, 2, shards, rank),
            lambda q, k, v, bias: distributed.window_attention(q, k, v, (2, 1), group=group, bias=bias, lengths=lengths),
        )
    tolerance = TOLERANCE[torch.bfloat16 if wide or dtype.itemsize == 2 else dtype]
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, cut(want, 2, shards, rank), rtol=tolerance, atol=tolerance)
    if size > 1 and way == "plain":
        assert sent.batches == 1 + bool({"k", "v"} & {*wanted})


def without_recording(group: Any) -> None:
    """Nothing is recorded, and the results are the same, also where global rows are joined."""
    for options in ({}, {"global_tokens": 2}):
        q, k, v = (_rows(1, HEADS, ROWS, 4, seed=n).requires_grad_() for n in range(3))
        recorded = distributed.window_attention(q, k, v, (2, 1), group=group, **options)
        with torch.no_grad():
            plain = distributed.window_attention(q, k, v, (2, 1), group=group, **options)
        assert recorded.requires_grad and not plain.requires_grad and torch.equal(recorded, plain)
        recorded.sum().backward()


# ---- copies ----------------------------------------------------------------------------------------------------------------------------
def most_copied(group: Any, rows: int, layout: str, window: tuple[int, int]) -> int:
    """Of a step forward and backward: the most elements that any of torch's operators has read, cut a tensor's view as it may be."""
    chunks = dist.get_world_size(group) * Layout[layout].chunks_of_rank
    lengths, many = [rows] * chunks, rows * Layout[layout].chunks_of_rank
    q, k, v = (_rows(1, HEADS, many, 4, seed=n).requires_grad_() for n in range(3))
    weights = _rows(1, HEADS, many, 4, seed=3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as seen:
        out = distributed.window_attention(q, k, v, window, group=group, layout=Layout[layout], lengths=lengths)
        torch.autograd.grad(out, (q, k, v), weights)
    names = ("copy_", "cat", "add", "add_", "zero_", "fill_", "mul", "sum", "constant_pad_nd")
    events = [event for event in seen.events() if event.name in {f"aten::{name}" for name in names}]
    assert any(event.name == "aten::cat" for event in events) or dist.get_world_size(group) == 1  # keys before and of a rank's first rows
    return max((math.prod(shape) for event in events for shape in event.input_shapes if shape), default=0)


# ---- dropout ---------------------------------------------------------------------------------------------------------------------------
def dropped(group: Any, lengths: tuple[int, ...], layout: str) -> Tensor:
    """This rank's rows of a sequence of 24, with dropout; the first rank's seed counts."""
    rank, shards = dist.get_rank(group), shards_of(Layout[layout], lengths)
    torch.manual_seed(3 + rank)
    q, k, v = (cut(_rows(2, HEADS, 24, 4, seed=n, dtype=torch.float64), 2, shards, rank) for n in range(3))
    return distributed.window_attention(q, k, v, (5, 2), group=group, layout=Layout[layout], lengths=lengths, dropout_p=0.5)

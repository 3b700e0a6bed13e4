"""tests/python/distributed/others.py: halos, the trio, packed sequences, modules and refusals in the processes of pool.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from scenes import cut
from torch import Tensor

import window_matmul
from window_matmul import distributed, nn
from window_matmul.distributed import Layout, WindowParallel, halo_exchange
from window_matmul.distributed.layout import shards_of

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}  # scenes.py says why


# ---- what travels ----------------------------------------------------------------------------------------------------------------------
@dataclass
class Sent:
    batches: int = 0
    gathered: int = 0  # bytes that this rank gives to the first one
    told: int = 0  # bytes of the table that this one gives to all
    nbytes: int = 0  # sent from one rank to another
    peers: list[int] = field(default_factory=list)


@contextmanager
def counted() -> Iterator[Sent]:
    sent, batch, gather, broadcast = Sent(), dist.batch_isend_irecv, dist.gather, dist.broadcast

    def counting_batch(ops: list[Any]) -> Any:
        sent.batches += 1
        for op in ops:
            if op.op is dist.isend:
                sent.nbytes += op.tensor.nbytes
                sent.peers.append(op.group_peer)
        return batch(ops)

    def counting_gather(x: Tensor, *args: Any, **named: Any) -> Any:
        sent.gathered += x.nbytes
        return gather(x, *args, **named)

    def counting_broadcast(x: Tensor, *args: Any, **named: Any) -> Any:
        sent.told += x.nbytes
        return broadcast(x, *args, **named)

    dist.batch_isend_irecv, dist.gather, dist.broadcast = counting_batch, counting_gather, counting_broadcast
    try:
        yield sent
    finally:
        dist.batch_isend_irecv, dist.gather, dist.broadcast = batch, gather, broadcast


def traffic(group: Any, rows: int, window: tuple[int, int]) -> tuple[Sent, Sent]:
    """Of an attention with rows on each rank: forward, backward."""
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, heads, rows, 4, requires_grad=True) for heads in (4, 2, 2))
    lengths = [rows] * dist.get_world_size(group)
    with counted() as forward:
        out = distributed.window_attention(q, k, v, window, group=group, lengths=lengths)
    with counted() as backward:
        out.sum().backward()
    return forward, backward


# ---- halos -----------------------------------------------------------------------------------------------------------------------------
def halos(group: Any, lengths: tuple[int, ...], layout: str, left: int | None, right: int | None) -> int:
    """Of tensors of three dtypes, cut along different dims; values, sizes, gradients. How many batches were sent."""
    rank, shards = dist.get_rank(group), shards_of(Layout[layout], lengths)
    length = shards.length
    torch.manual_seed(2)
    whole = [torch.randn(2, length, 3, dtype=torch.float64), torch.randn(1, length, 2), torch.rand(4, length, 1) < 0.5]
    local = [cut(x, 1, shards, rank).requires_grad_(n == 0) for n, x in enumerate(whole)]
    with counted() as sent:
        found = halo_exchange(local, left, right, group, layout=Layout[layout], lengths=lengths)
    weights = []
    for (begin, end), (tensors, sizes) in zip(shards.chunks(rank), found if layout == "zigzag" else [found], strict=True):
        first = 0 if left is None else max(begin - left, 0)
        last = length if right is None else min(end + right, length)
        if begin == end:
            first, last = begin, begin
        assert sizes == (begin - first, last - end)
        for x, full in zip(tensors, whole, strict=True):
            assert torch.equal(x, full[:, first:last])
        weights.append((first, last))
    loss = sum(((x[0] * (rank + 1) ** 2).sum() for x, _ in (found if layout == "zigzag" else [found])), torch.zeros(()))
    loss.backward()
    want = torch.zeros(length)
    for other in range(dist.get_world_size(group)):
        for begin, end in shards.chunks(other):
            if begin < end:
                want[0 if left is None else max(begin - left, 0) : length if right is None else min(end + right, length)] += (
                    other + 1
                ) ** 2
    expected = cut(want[None, :, None].double().expand(2, length, 3), 1, shards, rank)
    assert torch.equal(local[0].grad, expected)  # small integers: sums are exact in any order
    return sent.batches


# ---- the trio --------------------------------------------------------------------------------------------------------------------------
def trio(group: Any, lengths: tuple[int, ...], layout: str, window: tuple[int, int], options: dict[str, Any]) -> None:
    """Results and derivatives of two orders."""
    rank, shards = dist.get_rank(group), shards_of(Layout[layout], lengths)
    torch.manual_seed(3)
    whole = [torch.randn(2, 2, shards.length, n, dtype=torch.float64) for n in (3, 3, 5)]
    cut_so = {"group": group, "layout": Layout[layout], "lengths": lengths}
    softmax = {name: x for name, x in options.items() if name != "fill"}

    def step(tensors: list[Tensor], module: Any, more: dict[str, Any]) -> list[Tensor]:
        q, k, v = (x.detach().requires_grad_() for x in tensors)
        a = module.window_matmul(q, k.mT, window, **options, **more)
        p = module.window_softmax(a, window, **softmax, **more)
        out = module.unwindow_matmul(p, v, window, **softmax, **more)
        first = torch.autograd.grad(out.square().sum(), (q, k, v), create_graph=True)
        second = torch.autograd.grad(sum((x.sin().sum() for x in first), torch.zeros(())), (q, k, v))
        return [a.nan_to_num(neginf=-1.0), p, out, *first, *second]

    alone = step(whole, window_matmul, {})
    together = step([cut(x, 2, shards, rank) for x in whole], distributed, cut_so)
    for n, (got, want) in enumerate(zip(together, alone, strict=True)):
        torch.testing.assert_close(got, cut(want, 2, shards, rank), **TOLERANCE, msg=lambda text, n=n: f"result {n}: {text}")


# ---- packed sequences ------------------------------------------------------------------------------------------------------------------
def packed(
    group: Any,
    lengths: tuple[int, ...],
    layout: str,
    cu: tuple[list[int], list[int]],
    window: Any,
    names: tuple[str, ...],
    options: dict[str, Any],
) -> None:
    """`cu` of queries and of keys; the rows of both are cut alike."""
    rank, shards = dist.get_rank(group), shards_of(Layout[layout], lengths)
    torch.manual_seed(4)
    total, width = shards.length, 0 if window is None else window[0] + 1 + window[1]
    tensors = {name: (torch.randn(total, heads, n, dtype=torch.float64), 0) for name, heads, n in (("q", 4, 3), ("k", 2, 3), ("v", 2, 5))}
    kinds = {
        "slots": ("bias", torch.randn(4, width, dtype=torch.float64), None),
        "bias": ("bias", torch.randn(4, total, width, dtype=torch.float64), 1),
        "sinks": ("sinks", torch.randn(4, dtype=torch.float64), None),
        "key_mask": ("key_mask", torch.rand(total) < 0.7, 0),
        "global_mask": ("global_tokens", torch.rand(total) < 0.3, 0),
    }
    tensors |= {kinds[name][0]: kinds[name][1:] for name in names}
    bounds = [torch.tensor(x) for x in cu]
    d_out, d_lse = torch.randn(total, 4, 5, dtype=torch.float64), torch.randn(4, total, dtype=torch.float64)

    def step(call: Any, given: dict[str, Tensor], d_out: Tensor, d_lse: Tensor, **more: Any) -> dict[str, Tensor]:
        leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in given.items()}
        torch.manual_seed(5)
        q, k, v = (leaves.pop(name) for name in "qkv")
        out, lse = call(q, k, v, *bounds, window, return_lse=True, **leaves, **options, **more)
        ((out * d_out).sum() + (lse.where(lse.isfinite(), 0.0) * d_lse).sum()).backward()
        leaves |= {"q": q, "k": k, "v": v}
        return {"out": out, "lse": lse} | {f"d_{name}": x.grad for name, x in leaves.items() if x.requires_grad}

    alone = step(window_matmul.window_attention_varlen, {name: x for name, (x, _) in tensors.items()}, d_out, d_lse)
    local = {name: x if dim is None else cut(x, dim, shards, rank) for name, (x, dim) in tensors.items()}
    rows = (cut(d_out, 0, shards, rank), cut(d_lse, 1, shards, rank))
    cut_so = {"group": group, "layout": Layout[layout], "lengths": lengths}
    together = step(distributed.window_attention_varlen, local, *rows, **cut_so)
    dims: dict[str, int | None] = {"out": 0, "lse": 1} | {f"d_{name}": dim for name, (_, dim) in tensors.items()}
    for name, got in together.items():
        dim, want = dims[name], alone[name]
        if dim is None:
            got = got.clone()
            dist.all_reduce(got, group=group)
        torch.testing.assert_close(
            got, want if dim is None else cut(want, dim, shards, rank), **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )


# ---- modules ---------------------------------------------------------------------------------------------------------------------------
def module(group: Any, lengths: tuple[int, ...], layout: str, options: dict[str, Any], masked: bool) -> None:
    """Output, gradients of x, and of parameters summed over ranks."""
    from copy import deepcopy

    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import parallelize_module

    rank, shards = dist.get_rank(group), shards_of(Layout[layout], lengths)
    torch.manual_seed(6)
    alone = nn.WindowAttention(16, 4, (3, 2), dtype=torch.float64, **options)
    for parameter in alone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, shards.length, 16, dtype=torch.float64)
    mask = torch.rand(2, shards.length) < 0.8 if masked else None
    style = WindowParallel(seq_dim=1, layout=Layout[layout], lengths=lengths)
    together = parallelize_module(deepcopy(alone), DeviceMesh.from_group(group, "cpu"), style)
    whole, local = x.clone().requires_grad_(), cut(x, 1, shards, rank).requires_grad_()
    torch.manual_seed(7)
    out = alone(whole, key_mask=mask)
    torch.manual_seed(7)
    got = together(local, key_mask=None if mask is None else cut(mask, 1, shards, rank))
    torch.testing.assert_close(got, cut(out, 1, shards, rank), **TOLERANCE)
    out.square().sum().backward()
    got.square().sum().backward()
    assert whole.grad is not None and local.grad is not None
    torch.testing.assert_close(local.grad, cut(whole.grad, 1, shards, rank), rtol=1e-11, atol=1e-11)  # three more sums of 16 terms
    for name, parameter in together.named_parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad, group=group)
        torch.testing.assert_close(parameter.grad, alone.get_parameter(name).grad, rtol=1e-11, atol=1e-11)
    assert together.state_dict().keys() == alone.state_dict().keys()


# ---- refusals --------------------------------------------------------------------------------------------------------------------------
def _inputs(rows: int = 6, heads: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(8)
    q, k, v = torch.randn(3, 1, heads, rows, 4).to(dtype)
    return q, k, v


CALLS: dict[str, Callable[[Any], Any]] = {
    "right": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group),
    "window": lambda group: distributed.window_attention(*_inputs(), (2, 3), group=group),
    "shape": lambda group: distributed.window_attention(*_inputs(heads=4), (2, 1), group=group),
    "dtype": lambda group: distributed.window_attention(*_inputs(dtype=torch.float64), (2, 1), group=group),
    "scale": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group, scale=0.3),
    "layout": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group, layout=Layout.zigzag),
    "lengths": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group, lengths=[6] * dist.get_world_size(group)),
    "gradient": lambda group: distributed.window_attention(*(x.requires_grad_() for x in _inputs()), (2, 1), group=group),
    "key_lengths": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group, key_lengths=torch.tensor([5])),
    "another": lambda group: halo_exchange(_inputs(), 2, 1, group),
    "negative": lambda group: distributed.window_attention(*_inputs(), (-2, 1), group=group),
    "type": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group, softcap="high"),
    "unknown": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group, droput_p=0.1),
    "mask": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group, key_mask=torch.ones(1, 5, dtype=torch.bool)),
    "rows": lambda group: distributed.window_attention(*_inputs(5), (2, 1), group=group, lengths=[6] * dist.get_world_size(group)),
    "odd": lambda group: distributed.window_attention(*_inputs(5), (2, 1), group=group, layout=Layout.zigzag),
    "check": lambda group: distributed.window_attention(*_inputs(), (2, 1), group=group, check=1),
    "trio": lambda group: distributed.window_matmul(_inputs()[0], _inputs()[1].mT, (2, 1), group=group),
    "wide trio": lambda group: distributed.window_matmul(_inputs()[0], _inputs()[1].mT, (2, 2), group=group),
    "halo": lambda group: halo_exchange(_inputs(), 2, 1, group),
    "wide halo": lambda group: halo_exchange(_inputs(), 3, 1, group),
}


def differ(group: Any, one: int, its_call: str, call: str) -> tuple[str, str]:
    """Rank `one` calls something else than the others: what each has raised; and the next right call works, with nothing in its way."""
    mine = its_call if dist.get_rank(group) == one else call
    try:
        CALLS[mine](group)
    except Exception as error:
        raised = (type(error).__name__, str(error))
    else:
        raised = ("", "")
    _works(group)
    return raised


def _works(group: Any) -> None:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    torch.manual_seed(9)
    q, k, v = torch.randn(3, 1, 2, 5 * size, 4)
    shards = shards_of(Layout.contiguous, (5,) * size)
    got = distributed.window_attention(*(cut(x, 2, shards, rank) for x in (q, k, v)), (7, 7), group=group)
    torch.testing.assert_close(got, cut(window_matmul.window_attention(q, k, v, (7, 7)), 2, shards, rank))


def another_number_of_calls(group: Any) -> tuple[str, str]:
    """The first rank has made one more call, without the check."""
    if dist.get_rank(group) == 0:
        with suppress(ValueError):  # before anything is sent
            halo_exchange([], 0, 0, group, lengths=[0] * dist.get_world_size(group), check=False)
    return differ(group, 0, "right", "right")

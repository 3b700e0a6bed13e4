# benchmarks/ranks/methods.py: three ways to attend over a sequence that ranks hold in parts; two on torch's own collectives.
"""Each gives local outputs (1, H, n, D) of local q, k, v, differentiable. `alone` is what a rank computes in it: the same call of
window_attention on numbers that are already there. What a step takes longer than that is exposed communication.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from window_matmul import distributed, window_attention

Window = tuple[int, int]
Alone = tuple[Callable[[], Tensor], list[Tensor]]
Attend = Callable[[Tensor, Tensor, Tensor, Window], Tensor]


class Method(NamedTuple):
    title: str
    attend: Attend
    alone: Callable[[Tensor, Window], Alone]  # local q -> a forward pass, and what it is differentiated by


# ---- halo exchange --------------------------------------------------------------------------------------------------------------------
def halo(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    out = distributed.window_attention(q, k, v, window, group=dist.group.WORLD)
    assert isinstance(out, Tensor)  # a pair with return_lse
    return out


def halo_alone(q: Tensor, window: Window) -> Alone:
    """The local keys and those of the neighbours that a window reaches."""
    rank, ranks, length = dist.get_rank(), dist.get_world_size(), q.shape[-2]
    before, after = min(window[0], rank * length), min(window[1], (ranks - 1 - rank) * length)
    return _local(q, before + length + after, window, before)


# ---- all keys and values gathered -----------------------------------------------------------------------------------------------------
class _Gather(torch.autograd.Function):
    """x (n, ...) of each rank -> (P * n, ...). Backward a rank adds up what all have for its rows, which moves as few bytes as can be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        whole = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(whole, x)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        of_mine = torch.empty_like(grad)
        dist.all_to_all_single(of_mine, grad)
        total: Tensor = of_mine.unflatten(0, (dist.get_world_size(), -1)).sum(0)
        return total


_gathered: Callable[[Tensor], Tensor] = _Gather.apply


def gather(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    both = torch.stack((k, v)).permute(3, 0, 1, 2, 4).contiguous()  # (n, 2, 1, H, D): one collective for both
    keys, values = _gathered(both).permute(1, 2, 3, 0, 4).unbind(0)
    return _plain(q, keys, values, window, dist.get_rank() * q.shape[-2])


def gather_alone(q: Tensor, window: Window) -> Alone:
    length = q.shape[-2]
    return _local(q, dist.get_world_size() * length, window, dist.get_rank() * length)


# ---- heads for lengths: DeepSpeed's Ulysses -------------------------------------------------------------------------------------------
class _Exchange(torch.autograd.Function):
    """x (P, ...): part p goes to rank p. Its own inverse, and its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _exchanged(grad.contiguous())


_exchanged: Callable[[Tensor], Tensor] = _Exchange.apply


def ulysses(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    ranks = dist.get_world_size()
    local = torch.stack((q, k, v)).unflatten(2, (ranks, -1)).movedim(2, 0).contiguous()  # (P, 3, 1, H / P, n, D)
    q, k, v = _exchanged(local).permute(1, 2, 3, 0, 4, 5).flatten(3, 4).unbind(0)  # (1, H / P, L, D)
    out = _plain(q, k, v, window, 0)
    of_all_heads = _exchanged(out.unflatten(2, (ranks, -1)).movedim(2, 0).contiguous())  # (P, 1, H / P, n, D)
    return of_all_heads.movedim(0, 1).flatten(1, 2)


def ulysses_alone(q: Tensor, window: Window) -> Alone:
    ranks = dist.get_world_size()
    mine = q.new_empty(1, q.shape[1] // ranks, ranks * q.shape[2], q.shape[3]).normal_().requires_grad_()
    return _local(mine, mine.shape[2], window, 0)


METHODS = {
    "halo": Method("halo exchange", halo, halo_alone),
    "gather": Method("all-gather of K and V", gather, gather_alone),
    "ulysses": Method("all-to-all (Ulysses)", ulysses, ulysses_alone),
}


def payload(name: str, rank: int, ranks: int, shape: tuple[int, int, int, int], window: Window, itemsize: int) -> int:
    """Bytes that a rank has to send in a step, forward and backward; shape (B, H, n, D) is local, n no less than a side of the window."""
    row, length = shape[0] * shape[1] * shape[3] * itemsize, shape[2]
    if name == "halo":  # k and v to those that see them, then gradients back to those that lent them
        lent = (window[0] if rank < ranks - 1 else 0) + (window[1] if rank > 0 else 0)
        borrowed = (window[0] if rank > 0 else 0) + (window[1] if rank < ranks - 1 else 0)
        return 2 * row * (lent + borrowed)
    if name == "gather":  # a ring forward; the gradients of everybody else's rows backward
        return 2 * 2 * row * length * (ranks - 1)
    return 2 * 4 * row * length * (ranks - 1) // ranks  # q, k, v and the output, all but the part that stays


def _plain(q: Tensor, k: Tensor, v: Tensor, window: Window, offset: int) -> Tensor:
    out = window_attention(q, k, v, window, query_offset=offset)
    assert isinstance(out, Tensor)  # a pair with return_lse
    return out


def _local(q: Tensor, num_keys: int, window: Window, offset: int) -> Alone:
    k, v = (q.new_empty(*q.shape[:2], num_keys, q.shape[3]).normal_().requires_grad_() for _ in range(2))
    return lambda: _plain(q, k, v, window, offset), [q, k, v]

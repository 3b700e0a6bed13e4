# python/window_matmul/distributed/halo.py: `halo_exchange`: the rows of the neighbours that a window needs.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._band.arguments import check_strided
from .._integers import as_int, as_side
from .agreement import Fields, Own, agree
from .exchange import Trip
from .faults import Link
from .layout import Layout, Plan, Ranges, halos_of, plan_of, union
from .routes import Rows

Extended = tuple[tuple[Tensor, ...], tuple[int, int]]


def halo_exchange(
    tensors: Sequence[Tensor],
    left: int | None,
    right: int | None,
    group: Any,
    *,
    seq_dim: int = -2,
    layout: Layout = Layout.contiguous,
    lengths: Sequence[int] | None = None,
    check: bool = True,
) -> Extended | list[Extended]:
    """This rank's rows with the last `left` rows before them and the first `right` rows behind them, wherever these are.

    One batch of point-to-point operations: rows come straight from the ranks that have them, from several where chunks are shorter than
    the halo. A rank sends each row at most once to each other rank.

    Args:
        tensors: local shards, with n_r rows each in dim `seq_dim`; any dtypes, shapes and strides, one device.
        left: how many rows before a chunk; None or -1 for all.
        right: how many rows behind it; likewise.
        group: a ProcessGroup, a DeviceMesh of one dim, or None for all processes. All its ranks need to call.
        seq_dim: the dim along which the sequence is cut.
        layout: how it is cut: `Layout.contiguous` or `Layout.zigzag`.
        lengths: of all chunks in the order of the sequence, P numbers, for zigzag 2P; 0 is allowed. By default each rank says how many
            rows it has, and in zigzag its two chunks are of one length.
        check: whether ranks first make sure that they mean the same call, by one all-gather of a few numbers.

    Returns:
        (extended tensors, (n_left, n_right)): the numbers of rows that were put before and behind, fewer than asked for where the
        sequence ends. For zigzag a list of two such pairs, one for each chunk. Differentiable once: gradients of rows that came from
        elsewhere go back and are added there, in the order of the ranks. All ranks need to run backward.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a wrong value or shape, or ranks that do not mean the same call.
        RuntimeError: another rank refused its arguments, or was waited for in vain.

    >>> import torch, torch.distributed
    >>> store = torch.distributed.HashStore()
    >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> (x,), sizes = halo_exchange([torch.zeros(1, 5, 4)], 2, 2, None)
    >>> tuple(x.shape), sizes  # one process has no neighbours
    ((1, 5, 4), (0, 0))
    >>> torch.distributed.destroy_process_group()

    Source: the domain decomposition of stencil codes; for windows, ecmwf/anemoi-core and NVIDIA/Megatron-LM (pull request 5597).
    """
    link = Link(group, "halo_exchange")

    def describe() -> tuple[Fields, Own]:
        fields, rows = _described(tensors, seq_dim)
        return fields | {"left": str(as_side("left", left)), "right": str(as_side("right", right))}, Own(rows, rows)

    shards = agree(link, layout, lengths, check, describe, ("tensors[0]", "tensors[0]")).of_keys
    halos = halos_of(shards, as_side("left", left), as_side("right", right))
    dims = [seq_dim % x.ndim for x in tensors]
    plan = plan_of(shards, tuple(union(x for chunk in of_rank for x in chunk) for of_rank in halos), link.rank)
    trip = Trip(link, plan, tensors, dims)
    rows = rows_after(trip, plan, dims, shards.runs(link.rank))
    pairs: list[Extended] = []
    for (begin, end), wide in zip(shards.chunks(link.rank), halos[link.rank], strict=True):
        first, last = wide[0] if wide else (begin, end)
        found = (x.take(((first, last),)) for x in rows)
        pairs.append((tuple(trip.tie(x) if x.requires_grad else x for x in found), (begin - first, last - end)))
    return pairs if layout is Layout.zigzag else pairs[0]


def rows_after(trip: Trip, plan: Plan, dims: Sequence[int], runs: Ranges) -> list[Rows]:
    """Of each tensor, when all have come."""
    of_peers = trip.arrive()
    rows = [Rows(dim, own, runs) for dim, own in zip(dims, trip.own, strict=True)]
    for n, of_tensor in enumerate(rows):
        of_tensor.add(plan, [pieces[n] for pieces in of_peers])
    return rows


def _described(tensors: object, seq_dim: object) -> tuple[Fields, int]:
    """What ranks need to have alike, and the number of rows here."""
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise TypeError(f"tensors is of type {type(tensors).__name__}; it needs to be a list or tuple of tensors")
    if not tensors:
        raise ValueError("tensors is empty; it needs to hold at least one")
    fields, dim, rows = {"seq_dim": str(seq_dim)}, as_int("seq_dim", seq_dim), 0
    for at, x in enumerate(tensors):
        check_strided(f"tensors[{at}]", x)
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"seq_dim is {dim} beside tensors[{at}] of {tuple(x.shape)}; it needs to be one of its dims")
        if at and x.shape[dim] != rows:
            raise ValueError(f"tensors[{at}] has {x.shape[dim]} rows in dim {dim}; it needs {rows} as tensors[0] has")
        if x.device != tensors[0].device:
            raise ValueError(f"tensors[{at}] is on {x.device}; it needs to be on {tensors[0].device}, where tensors[0] is")
        rows = x.shape[dim]
        fields |= described(f"tensors[{at}]", x, dim)
    return fields, rows


def described(name: str, x: Tensor | None, dim: int | None) -> Fields:
    """A tensor, but for its number of rows."""
    if x is None:
        return {name: "None"}
    shape = list(map(str, x.shape))
    if dim is not None:
        shape[dim] = "n"
    recorded = torch.is_grad_enabled() and x.requires_grad
    return {name: f"({', '.join(shape)}) of {x.dtype} on {x.device.type}, {'with' if recorded else 'without'} a gradient"}


def one_or_all(dilations: Sequence[int]) -> str:
    """A dilation as it is given: of all heads, or of each."""
    return str(dilations[0] if len(dilations) == 1 else tuple(dilations) or 1)

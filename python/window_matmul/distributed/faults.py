# python/window_matmul/distributed/faults.py: waiting for other ranks: none for ever, and an error says for whom.
"""Ranks are those of the group. A wait ends within the group's timeout, counted from the moment at which the messages were posted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_PROBE_TAG = (1 << 31) - 1  # above those of calls
# Of the timeout: what a collective may wait, and then the search for whom it waited in vain. The rest is for this process itself.
_FOR_ALL, _FOR_PROBES = 0.8, 0.1
_MAX_PROBE = 2.0  # seconds: those who are there have given up long before

_abandoned: list[Any] = []  # of calls that failed: what comes too late still has memory to go to


class Link:
    """One call of this rank: its group, the name by which errors call it, and its number among the calls on the group."""

    def __init__(self, group: Any, call: str) -> None:
        self.group, self.call, self.number = as_group(group), call, 0
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)

    @property
    def tag(self) -> int:
        """Messages of different calls never meet, in whatever order backward comes to them."""
        return self.number % _PROBE_TAG

    def device(self) -> torch.device:
        """Where collectives of numbers take place."""
        from torch.distributed.distributed_c10d import _get_object_coll_device

        return torch.device(_get_object_coll_device(self.group))

    def timeout(self) -> float:
        """Seconds."""
        backend = self.group._get_backend(self.device())
        return float(backend.options._timeout.total_seconds())


def as_group(group: Any, name: str = "group") -> Any:
    """A ProcessGroup, from one, from a mesh of one dim, or from None for all processes."""
    if group is None:
        group = dist.group.WORLD
        if group is None:
            raise ValueError(f"{name} is None before torch.distributed.init_process_group; it needs to be a process group")
    if isinstance(group, dist.ProcessGroup):
        return group
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{name} is one that this process is not in; only its members may call")
    if isinstance(group, dist.device_mesh.DeviceMesh):
        if group.ndim != 1:
            raise ValueError(f"{name} is a mesh of {group.ndim} dims; it needs one: name the dim, as in mesh['cp']")
        return group.get_group()
    raise TypeError(f"{name} is of type {type(group).__name__}; it needs to be a ProcessGroup, a DeviceMesh of one dim, or None")


def send_and_receive(link: Link, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]) -> Messages:
    """One batch of point-to-point operations. Messages without bytes are left out, on both sides."""
    ops, peers = [], []
    for op, messages in ((dist.irecv, receives), (dist.isend, sends)):
        for peer, buffer in messages:
            if buffer.numel():
                ops.append(dist.P2POp(op, buffer, group=link.group, tag=link.tag, group_peer=peer))
                peers.append(peer)
    try:
        works = dist.batch_isend_irecv(ops) if ops else []
    except RuntimeError as error:
        raise _lost(link, _unreachable(link) or peers, error) from error
    return Messages(link, peers, works, [op.tensor for op in ops])


class Messages:
    """On their way."""

    def __init__(self, link: Link, peers: Sequence[int], works: Sequence[Any], buffers: Sequence[Tensor]) -> None:
        self.link, self.peers, self.works, self.buffers = link, peers, works, buffers
        self.end = time.monotonic() + link.timeout() if works else 0.0

    def wait(self) -> None:
        """Until all have gone and come; a RuntimeError names the rank that did not do its part."""
        one_for_all = len(self.works) != len(self.peers)  # as NCCL gives
        for at, work in enumerate(self.works):
            try:
                work.wait(timedelta(seconds=max(self.end - time.monotonic(), 0.001)))
            except RuntimeError as error:
                _abandoned.append(self)
                raise _lost(self.link, self.peers if one_for_all else [self.peers[at]], error) from error
        self.works, self.buffers = (), ()


def all_gather(link: Link, numbers: Tensor) -> Tensor:
    """(n,) of each rank -> (P, n).

    gloo's own all-gather is a ring, P - 1 messages one after another. So the first rank gathers, which is one, and broadcasts, which is a
    tree of log2(P): each other rank sends its own numbers and hands the table on to at most log2(P) - 1.
    """
    gathered = numbers.new_empty(link.size, len(numbers))
    rows, end = list(gathered.unbind()), time.monotonic() + link.timeout() * _FOR_ALL
    if link.device().type == "cpu":
        first = link.rank == 0
        collectives: list[Any] = [
            lambda: dist.gather(numbers, rows if first else None, group=link.group, group_dst=0, async_op=True),
            lambda: dist.broadcast(gathered, group=link.group, group_src=0, async_op=True),
        ]
    else:
        collectives = [lambda: dist.all_gather(rows, numbers, group=link.group, async_op=True)]
    for start in collectives:
        work: Any = None
        try:
            work = start()
            work.wait(timedelta(seconds=max(end - time.monotonic(), 0.001)))
        except RuntimeError as error:
            _abandoned.append((work, gathered, numbers))
            others = [rank for rank in range(link.size) if rank != link.rank]
            raise _lost(link, _unreachable(link) or others, error) from error
    return gathered


def _lost(link: Link, peers: Sequence[int], error: RuntimeError) -> RuntimeError:
    who = ", ".join(f"rank {peer}" for peer in sorted(set(peers)))
    first_line = (str(error).splitlines() or [""])[0]
    return RuntimeError(
        f"{link.call} (call {link.number} on its group) waited in vain on rank {link.rank} for {who}: dead, late by more than the group's "
        f"timeout, or given up for the like reason. {first_line}"
    )


def _unreachable(link: Link) -> list[int]:
    """After a collective has failed: the ranks whose process is gone, or else those that do not answer, if that can be found out."""
    if link.device().type != "cpu":
        return []
    end = time.monotonic() + min(link.timeout() * _FOR_PROBES, _MAX_PROBE)
    gone: list[int] = []
    silent: list[int] = []
    probes: list[tuple[int, Any]] = []
    for peer in range(link.size):
        if peer == link.rank:
            continue
        try:
            asked, answer = torch.zeros(2, 1, dtype=torch.uint8)
            works: list[Any] = [
                dist.irecv(answer, group=link.group, tag=_PROBE_TAG, group_src=peer),
                dist.isend(asked, group=link.group, tag=_PROBE_TAG, group_dst=peer),
            ]
            _abandoned.append((asked, answer, works))
            probes.append((peer, works[0]))
        except RuntimeError:
            gone.append(peer)
    for peer, work in probes:
        try:
            work.wait(timedelta(seconds=max(end - time.monotonic(), 0.001)))
        except RuntimeError as error:
            (silent if "imed out" in str(error) else gone).append(peer)
    return gone or silent

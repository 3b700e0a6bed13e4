# examples/long_lm/ranks.py: the processes of a run, on a mesh of (sequence, data).
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.rendezvous import rendezvous

from .presence import Presence

T = TypeVar("T")


class RankLost(RuntimeError):
    """Another rank is gone; the message says which."""


@dataclass(frozen=True)
class Ranks:
    """This process among the others: `mesh` has the dims "sequence", along which a text is cut, and "data", which shares its rows out."""

    mesh: DeviceMesh
    presence: Presence

    @property
    def rank(self) -> int:
        return self.presence.rank

    @property
    def count(self) -> int:
        return self.presence.ranks

    def size(self, dim: str) -> int:
        return self.mesh[dim].size()

    def chunk(self, dim: str, length: int) -> slice:
        """This process's part of `length` places along a dim of the mesh."""
        place, parts = self.mesh.get_local_rank(dim), self.size(dim)
        return slice(length * place // parts, length * (place + 1) // parts)

    def sum(self, value: float) -> float:
        """Over all processes."""
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def gathered(self, value: T) -> list[T]:
        """Everybody's."""
        values: list[T] = [value] * self.count
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined(data: int, timeout: float) -> Iterator[Ranks]:
    """The ranks that torchrun started; this process alone without torchrun."""
    store: Any = dist.HashStore()  # type: ignore[attr-defined]
    rank, count = 0, 1
    if dist.is_torchelastic_launched() or "MASTER_ADDR" in os.environ:
        store, rank, count = next(rendezvous("env://"))
    if count % data:
        raise ValueError(f"--data-parallel {data}: {count} processes are no multiple of it")
    limit = timedelta(seconds=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=limit)
    presence = Presence(store, rank, count)
    try:
        yield Ranks(_mesh(count, data, limit), presence)
    except Exception as error:
        missing = presence.missing() if isinstance(error, RuntimeError) else None
        presence.give_up(missing or str(error))
        if missing is None:
            raise
        raise RankLost(f"rank {rank}: {missing} ({str(error).partition(chr(10))[0]})") from error
    finally:
        dist.destroy_process_group()


def _mesh(count: int, data: int, limit: timedelta) -> DeviceMesh:
    """Made from groups of our own: those that init_device_mesh makes wait half an hour for a lost rank."""
    layout = torch.arange(count).view(-1, data)
    groups = [dist.new_subgroups_by_enumeration(lists.tolist(), timeout=limit)[0] for lists in (layout.T, layout)]
    return DeviceMesh.from_group(groups, "cpu", mesh=layout, mesh_dim_names=("sequence", "data"))

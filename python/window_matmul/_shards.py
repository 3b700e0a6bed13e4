# python/window_matmul/_shards.py: over which ranks the sequences of a model are cut, as `distributed.context_parallel` says.
"""For doors to other libraries, which are handed tensors and cannot be handed a group. Nothing of torch.distributed is imported here.

A plain global: torch.compile guards it, and threads that compute a checkpoint again see it.
"""

from typing import Any, NamedTuple


class Cut(NamedTuple):
    group: Any
    layout: Any
    lengths: Any


current: Cut | None = None


def refuse(what: str) -> None:
    """Where a part of a model would take its rank's shard for the whole sequence."""
    if current is not None:
        raise RuntimeError(f"{what} is inside window_matmul.distributed.context_parallel; it needs the whole sequence on each rank")

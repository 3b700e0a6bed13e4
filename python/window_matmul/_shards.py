# python/window_matmul/_shards.py: over which ranks the sequences of a model are cut, as `distributed.context_parallel` says.
"""For doors to other libraries, which are handed tensors and cannot be handed a group. Nothing of torch.distributed is imported here."""

from contextvars import ContextVar
from typing import Any, NamedTuple


class Cut(NamedTuple):
    group: Any
    layout: Any
    lengths: Any


current: ContextVar[Cut | None] = ContextVar("current", default=None)


def refuse(what: str) -> None:
    """Where a part of a model would take its rank's shard for the whole sequence."""
    if current.get() is not None:
        raise RuntimeError(
            f"{what} inside window_matmul.distributed.context_parallel, where each rank has a part of the sequence: it needs the whole"
        )

# python/window_matmul/distributed/agreement.py: before the first byte of a call travels, all ranks learn whether they mean the same call.
"""One all-gather of eight numbers a call: the call's number, whether this rank refuses its own arguments, a digest of their description,
and what only this rank knows (lengths, seed). All ranks see the same table, so all decide alike; only where they differ a second one
gathers the descriptions themselves, to name rank, argument and values. Nothing is remembered but the number of calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .faults import Link, all_gather

_TEXT = 8192  # bytes of a description, in the second gathering
_calls: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # on each group

Fields = dict[str, str]


def listed(numbers: Sequence[int] | None) -> str:
    """All of them where they are few, else their digest too."""
    if numbers is None or len(numbers) <= 16:
        return str(numbers)
    digest = hashlib.blake2b(str(numbers).encode(), digest_size=8).hexdigest()
    return f"[{', '.join(map(str, numbers[:8]))}, ..., {numbers[-1]}] ({len(numbers)} numbers, digest {digest})"


class Own(NamedTuple):
    """What each rank knows for itself; the lengths are those of its shards."""

    queries: int = 0
    keys: int = 0
    seed: int = 0
    globals: int = 0


class Refused(Exception):
    """What is wrong with this rank's own arguments."""


def agree(link: Link, describe: Callable[[], tuple[Fields, Own]], check: bool, gather: bool) -> list[Own]:
    """`describe` checks this rank's arguments and describes what has to be alike. Returns what each rank knows for itself; without `check`
    and `gather` only what this one does, for nothing is sent.

    Raises what `describe` raises on a rank that refuses, a RuntimeError there where another one refuses, and a ValueError on all ranks
    where descriptions differ.
    """
    link.number = _calls[link.group] = _calls.get(link.group, 0) + 1
    fields, own, error = Fields(), Own(), None
    try:
        fields, own = describe()
    except Exception as raised:
        if not check and not gather:
            raise
        error = raised
    if not check and not gather:
        return [own]
    fields = {"call": link.call, **fields}
    table = all_gather(link, _row(link, fields, own, error)).tolist()
    if check:
        _calls[link.group] = max(row[0] for row in table)  # after a difference too, the next calls meet again
    differs = check and any(row[:4] != table[0][:4] for row in table)
    if differs or any(row[1] for row in table):
        _refuse(link, fields, error, [row[0] for row in table])
    return [Own(*row[4:]) for row in table]


def _row(link: Link, fields: Fields, own: Own, error: Exception | None) -> Tensor:
    digest = hashlib.blake2b(_text_of(fields).encode(), digest_size=16).digest()
    halves = (int.from_bytes(half, "little", signed=True) for half in (digest[:8], digest[8:]))
    return torch.tensor([link.number, int(error is not None), *halves, *own], dtype=torch.int64, device=link.device())


def _text_of(fields: Fields) -> str:
    return "\n".join(f"{name}\t{value}" for name, value in fields.items())


def _refuse(link: Link, fields: Fields, error: Exception | None, numbers: list[int]) -> None:
    """Raises, on every rank."""
    text = _text_of(fields) if error is None else f"!{type(error).__name__}: {error}"
    data = text.encode()[:_TEXT].ljust(_TEXT, b"\0")
    gathered = all_gather(link, torch.frombuffer(bytearray(data), dtype=torch.uint8).to(link.device())).cpu()
    texts = [bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore") for row in gathered]
    if error is not None:
        raise error
    for rank, of_rank in enumerate(texts):
        if of_rank.startswith("!"):
            raise RuntimeError(f"rank {rank} of the group refused its arguments of {link.call}, so no rank computes: {of_rank[1:]}")
    parsed = [dict(line.split("\t", 1) for line in of_rank.splitlines()) for of_rank in texts]
    for rank in range(1, link.size):
        for name in {**parsed[0], **parsed[rank]}:
            first, other = parsed[0].get(name, "not given"), parsed[rank].get(name, "not given")
            if first != other:
                raise ValueError(f"{name} is {other} on rank {rank} and {first} on rank 0; all ranks of the group need the same")
    rank = next((rank for rank in range(link.size) if numbers[rank] != numbers[0]), 0)
    raise ValueError(
        f"the number of calls is {numbers[rank]} on rank {rank} and {numbers[0]} on rank 0; all ranks of the group need to make the same "
        f"calls, this one being {link.call}"
    )

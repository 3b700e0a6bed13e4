# python/window_matmul/distributed/agreement.py: before the first byte of a call travels, all ranks learn whether they mean the same call.
"""One gathering of eight numbers a call: the call's number, whether this rank refuses its own arguments, a digest of their description,
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

from .._integers import as_flag
from .faults import Link, all_gather
from .layout import Layout, Shards, as_layout, as_lengths, check_rows, shards_from, shards_of

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


class Agreed(NamedTuple):
    """The call that all ranks mean."""

    of_queries: Shards
    of_keys: Shards
    owns: list[Own]  # of each rank


def is_alone(link: Link, layout: Layout, lengths: Sequence[int] | None, check: bool) -> bool:
    """Whether the plain call will do: in a group of one process, where nothing says how many rows it has."""
    if link.size > 1 or lengths is not None:
        return False
    as_layout(layout)
    as_flag("check", check)
    return True


def agree(
    link: Link,
    layout: Layout,
    lengths: Sequence[int] | None,
    check: bool,
    describe: Callable[[], tuple[Fields, Own]],
    names: tuple[str, str] = ("q", "k"),
    gathers: bool = False,
) -> Agreed:
    """`describe` checks this rank's arguments, and says what all ranks need to have alike and what each knows for itself; `names` are those
    of its shards. Without `check`, numbers are gathered where lengths are to be learned or the call `gathers` others.

    Raises what is wrong with the arguments on a rank that refuses, a RuntimeError there where another one does, and a ValueError on all
    ranks where they differ.
    """
    link.number = _calls[link.group] = _calls.get(link.group, 0) + 1
    own, error, numbers, fields = Own(), None, None, {"call": link.call}
    try:
        as_flag("check", check)
        numbers = as_lengths(lengths, as_layout(layout), link.size)
        more, own = describe()
        for name, rows in zip(names, own, strict=False):
            check_rows(name, rows, link.rank, layout, numbers)
        fields |= more | {"layout": str(layout), "lengths": listed(numbers)}
    except Exception as raised:
        error = raised
    check = check is not False
    table = [[0, int(error is not None), 0, 0, *own]]
    if link.size > 1 and (check or lengths is None or gathers):
        table = all_gather(link, _row(link, fields, own, error)).tolist()
        if check:
            _calls[link.group] = max(row[0] for row in table)  # after a difference too, the next calls meet again
    if (check and any(row[:4] != table[0][:4] for row in table)) or any(row[1] for row in table):
        _refuse(link, fields, error, [row[0] for row in table])
    owns = [Own(*row[4:]) for row in table]
    if numbers is not None:
        shards = shards_of(layout, numbers)
        return Agreed(shards, shards, owns)
    return Agreed(shards_from([x.queries for x in owns], layout), shards_from([x.keys for x in owns], layout), owns)


def _row(link: Link, fields: Fields, own: Own, error: Exception | None) -> Tensor:
    digest = hashlib.blake2b(_text_of(fields).encode(), digest_size=16).digest()
    halves = (int.from_bytes(half, "little", signed=True) for half in (digest[:8], digest[8:]))
    return torch.tensor([link.number, int(error is not None), *halves, *own], dtype=torch.int64, device=link.device())


def _text_of(fields: Fields) -> str:
    return "\n".join(f"{name}\t{value}" for name, value in fields.items())


def _refuse(link: Link, fields: Fields, error: Exception | None, numbers: list[int]) -> None:
    """Raises, on every rank."""
    if error is not None and len(numbers) == 1:  # nobody has been told
        raise error
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

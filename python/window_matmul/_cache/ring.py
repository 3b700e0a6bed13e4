# python/window_matmul/_cache/ring.py: `Ring`, where the tokens of a rolling cache lie.
"""The first tokens stay where they are, the others take turns: nothing is ever moved."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

Tokens = TypeVar("Tokens", int, Tensor)


@dataclass(frozen=True)
class Ring:
    """Token t < pinned lies in slot t for good. Token t >= pinned lies in slot pinned + (t - pinned) % size, until token t + size comes.

    So the first `slots` tokens lie in order, and what is in use is always the front of the slots.

    >>> ring = Ring(pinned=1, size=3)
    >>> [ring.slot(token) for token in range(8)]
    [0, 1, 2, 3, 1, 2, 3, 1]
    >>> list(ring.past(8))
    [(0, 0, 1), (6, 3, 1), (7, 1, 1)]
    """

    pinned: int
    size: int  # the reach of the window and one more, for the newest token, in a slot that no later query looks at; and `spare`
    spare: int = 0  # tokens that are kept though no query looks at them, until as many newer ones are forgotten

    @property
    def slots(self) -> int:
        return self.pinned + self.size

    @property
    def reach(self) -> int:
        return self.size - self.spare - 1

    def slot(self, token: int) -> int:
        return token if token < self.pinned else self.of_unpinned(token)

    def of_unpinned(self, token: Tokens) -> Tokens:
        return (token - self.pinned) % self.size + self.pinned

    def reached(self, slots: Tensor, newest: Tensor) -> Tensor:
        """Which of these slots the token in slot `newest` sees, where spare ones hold tokens that it does not."""
        return (slots < self.pinned) | ((newest - slots) % self.size <= self.reach)

    def seen(self, tokens: list[int], used: list[int], device: torch.device) -> Tensor | None:
        """Which slots token tokens[b] of row b sees, (B, most), of the used[b] in use; None for all."""
        most = max(used, default=0)
        slots = torch.arange(most, device=device) if self.spare or min(used, default=0) < most else None
        if slots is None:
            return None
        seen = slots < torch.tensor(used, device=device)[:, None]
        if self.spare:
            newest = torch.tensor([self.slot(token) for token in tokens], device=device)[:, None]
            seen &= self.reached(slots, newest)
        return seen

    def past(self, length: int) -> Iterator[tuple[int, int, int]]:
        """What queries from token `length` on may look at, in order: runs of neighbouring slots, (first token, first slot, count)."""
        yield from self._runs(0, min(self.pinned, length))
        yield from self._runs(max(self.pinned, length - self.reach), length)

    def kept(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """What stays of the tokens start .. stop - 1 when all have been appended, in runs as above."""
        yield from self._runs(start, min(self.pinned, stop))
        yield from self._runs(max(start, self.pinned, stop - self.size), stop)

    def _runs(self, token: int, stop: int) -> Iterator[tuple[int, int, int]]:
        while token < stop:
            slot = self.slot(token)
            count = min(stop - token, self.slots - slot)
            yield token, slot, count
            token += count


def equal_rows(lengths: list[int], counts: list[int]) -> list[tuple[slice, int, int]]:
    """Neighbouring rows of equal length and number of new tokens; without rows, none of them."""
    alike = list(zip(lengths, counts, strict=True))
    runs = [list(run) for _, run in groupby(range(len(alike)), key=alike.__getitem__)]
    return [(slice(run[0], run[-1] + 1), *alike[run[0]]) for run in runs] or [(slice(0, 0), 0, 0)]

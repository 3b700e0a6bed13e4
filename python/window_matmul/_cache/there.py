# python/window_matmul/_cache/there.py: `Lengths`, those of a cache on a GPU: they stay there, and where tokens lie is computed there.
"""A step reads nothing back, and the shapes of all that it makes are those of its arguments: it can be recorded in a CUDA graph, whose
replays are further steps. So nothing may depend on how many tokens there are: past tokens are taken by index, and a mask hides those that
do not exist. One new token attends over the memory as it lies, as on the CPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .._attention.arguments import as_form
from .._attention.autograd import attention
from .._band.arguments import UNBOUNDED, as_window
from ..window import Window
from .ring import Ring

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Past:
    """What queries may look at, in order: pinned tokens, as many as the window reaches back, and the new ones."""

    keys: Tensor
    values: Tensor
    exist: Tensor | None = None  # which do, (B, tokens)
    pinned: Tensor | None = None  # likewise


class Lengths:
    """Of each row the tokens appended so far, and those that were cropped (cache.py)."""

    def __init__(self, ring: Ring, batch_size: int, device: torch.device) -> None:
        self._ring = ring
        with torch.inference_mode(False):  # as the memory
            self.tokens, self._cropped = (torch.zeros(batch_size, dtype=torch.int64, device=device) for _ in range(2))
        self._is_empty: bool | None = True  # None for good once a step was recorded: replays do not come by here

    def read(self) -> tuple[list[int], list[int]]:
        """Waits for the GPU."""
        return self.tokens.tolist(), self._cropped.tolist()

    def write(self, tokens: list[int], cropped: list[int]) -> None:
        self.tokens.copy_(torch.tensor(tokens, dtype=torch.int64))
        self._cropped.copy_(torch.tensor(cropped, dtype=torch.int64))
        self._is_empty = None if self._is_empty is None else False

    def clear(self) -> None:
        self.tokens.zero_()
        self._cropped.zero_()
        self._is_empty = None if self._is_empty is None else True

    def attend(
        self,
        window: Window,
        memories: Pair,
        qkv: tuple[Tensor, Tensor, Tensor],
        sinks: Tensor | None,
        bias: Tensor | None,
        reals: tuple[float, ...],
        counts: Tensor | None,
    ) -> Tensor:
        """Appends the first counts[b] new tokens of row b, or all, and lets their queries attend."""
        q, k, v = qkv
        new, form = (k, v), as_form(q, None)
        if q.shape[2] == 1 and bias is None and window.dilation == 1:
            self._append(memories, new, counts)
            band, used = (UNBOUNDED, UNBOUNDED, form), self.tokens.clamp(max=self._ring.slots)
            tensors: tuple[Tensor | None, ...] = (None, sinks, self._seen_by_newest(), None, None, None, None, used, None)
            out, _ = attention(q, *memories, *tensors, band, self._ring.slots - 1, 0, reals)
        else:
            past = self._past(memories, new)
            left, _, taps = as_window(window, 1)
            tensors = (bias, sinks, past.exist, past.pinned, None, None, None, None, None)
            pinned = self._ring.pinned if past.exist is None else 0
            shift = past.keys.shape[2] - q.shape[2]
            out, _ = attention(q, past.keys, past.values, *tensors, (left, 0, form, *taps), shift, pinned, reals)
            self._append(memories, new, counts)
        return out if counts is None else out.masked_fill(_of_rows(self._up_to(q.shape[2]) >= counts[:, None]), 0.0)

    def _append(self, memories: Pair, new: Pair, counts: Tensor | None) -> None:
        """The first counts[b] new tokens of row b into their slots, or all; those that no slot is left for are left out."""
        added = new[0].shape[2] if counts is None else counts
        if new[0].shape[2] > 0:
            for memory, x in zip(memories, new, strict=True):
                self._write(memory, x, counts)
            self.tokens.add_(added)
            self._cropped.sub_(added).clamp_(min=0)
            self._is_empty = None if self._is_empty is None or _is_recorded() else False

    def _write(self, memory: Tensor, x: Tensor, counts: Tensor | None) -> None:
        ring, new, start = self._ring, x.shape[2], self.tokens[:, None]
        end = new if counts is None else counts[:, None]
        if ring.pinned:
            token = self._up_to(ring.pinned) - start
            front = memory[:, :, : ring.pinned]
            front.copy_(torch.where(_of_rows((token >= 0) & (token < end)), _take(x, token.clamp(0, new - 1)), front))
        most = min(new, ring.size)
        token = start + end - most + self._up_to(most)  # never two of them in one slot
        if most < new or counts is not None:
            x = _take(x, (token - start).clamp(min=0))
        slots = _index(ring.of_unpinned(token), memory)
        if ring.pinned or counts is not None:
            x = torch.where(_of_rows((token >= start) & (token >= ring.pinned)), x, memory.gather(2, slots))
        memory.scatter_(2, slots, x)

    def _seen_by_newest(self) -> Tensor | None:
        """Which slots the newest token of each row sees, of those in use, (B, slots); None for all of them."""
        ring = self._ring
        if not ring.spare:
            return None
        tokens = self.tokens[:, None]
        return ring.reached(self._up_to(ring.slots), ring.of_unpinned(tokens - 1)) | (tokens <= ring.pinned)

    def _past(self, memories: Pair, new: Pair) -> Past:
        """Before the new tokens are appended. A pinned token stands where the window reaches it, or else in front."""
        if self._is_empty and not _is_recorded():
            return Past(*new)
        ring, start = self._ring, self.tokens[:, None]
        token = start - ring.reach + self._up_to(ring.reach)
        slots = torch.where(token < ring.pinned, token.clamp(min=0), ring.of_unpinned(token))
        keys, values = (
            torch.cat([memory[:, :, : ring.pinned], _take(memory, slots), x], 2) for memory, x in zip(memories, new, strict=True)
        )
        front = self._up_to(ring.pinned) < start - ring.reach
        back = start + self._up_to(new[0].shape[2])
        exist = torch.cat([front, token >= 0, back >= 0], 1)
        pinned = torch.cat([front, token < ring.pinned, back < ring.pinned], 1) if ring.pinned else None
        return Past(keys, values, exist, pinned)

    def _up_to(self, count: int) -> Tensor:
        return torch.arange(count, device=self.tokens.device)


def _is_recorded() -> bool:
    return torch.version.cuda is not None and torch.cuda.is_current_stream_capturing()


def _of_rows(x: Tensor) -> Tensor:
    """(B, n) beside (B, H, n, D)."""
    return x[:, None, :, None]


def _index(places: Tensor, like: Tensor) -> Tensor:
    return _of_rows(places).expand(like.shape[0], like.shape[1], places.shape[1], like.shape[3])


def _take(x: Tensor, places: Tensor) -> Tensor:
    """places[b, n] of x[b], along its tokens."""
    return x.gather(2, _index(places, x))

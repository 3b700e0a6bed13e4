# python/window_matmul/hf/_cache.py: `WindowCache`, a cache of transformers that does not copy a window for each token.
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from .._attention.ops import empty_of
from .._integers import as_int
from . import _versions


class WindowCache(DynamicCache):
    """transformers' `DynamicCache(config=config)`, with layers of sliding windows that write in place.

    Each holds twice its window, plus `spare` tokens: new tokens are written behind the old ones, and once in a window what is still seen
    moves to the front. So keys and values always are one view in order, for every attention implementation. Layers of full attention are
    those of `DynamicCache`. `generate(..., past_key_values=WindowCache(model.config))`, for one call or to be continued; after `reset()`
    for another text, of any batch.

    Args:
        config: the model's configuration.
        spare: how many tokens beyond the window are kept, for `crop`. Assisted generation of transformers 5.x asks for what it needs by
            itself (`activate_past_recording`); with 4.57 it needs as many as candidates can be rejected at once, plus one.

    Raises:
        TypeError: config is no configuration, or spare no int.
        ValueError: spare is negative; transformers is 4.x, and its model has a cache of its own for layers that are not attention.
    """

    def __init__(self, config: Any, *, spare: int = 0) -> None:
        if not hasattr(config, "get_text_config"):
            raise TypeError(f"config is of type {type(config).__name__}; it needs to be the configuration of a model")
        if as_int("spare", spare) < 0:
            raise ValueError(f"spare is {spare}; it needs to be an int of at least 0")
        _versions.check_layers(config)
        super().__init__(config=config)
        for n, layer in enumerate(self.layers):
            if type(layer) is DynamicSlidingWindowLayer:
                self.layers[n] = WindowLayer(layer.sliding_window, spare)

    def reset(self) -> None:
        """Forgets everything; what comes next may be of another batch."""
        super().reset()
        _versions.forget(self.layers)


class WindowLayer(DynamicSlidingWindowLayer):
    """One layer: memory (B, Hkv, 2 W + spare, D) of which the tokens from `_start` to `_end` are kept, the last W - 1 and `spare` more."""

    def __init__(self, sliding_window: int, spare: int = 0) -> None:
        self._memory: tuple[Tensor, Tensor] | None = None
        self._start = self._end = 0
        self._spare = spare
        self._had_gradient = False
        self.record_past = False
        super().__init__(sliding_window)

    # ---- what is kept -------------------------------------------------------------------------------------------------------------------
    @property
    def keys(self) -> Tensor | None:
        return None if self._memory is None else self._memory[0][:, :, self._start : self._end]

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        self._adopt(0, keys)

    @property
    def values(self) -> Tensor | None:
        return None if self._memory is None else self._memory[1][:, :, self._start : self._end]

    @values.setter
    def values(self, values: Tensor | None) -> None:
        self._adopt(1, values)

    def _adopt(self, place: int, states: Tensor | None) -> None:
        """transformers moves the layers of a cache to another device by setting keys, then values."""
        if states is None:
            self._memory, self._start, self._end = None, 0, 0
            return
        keys, values = self._memory or (states, states)
        self._memory = (states, values) if place == 0 else (keys, states)
        if place == 1:
            self._start, self._end = 0, states.shape[2]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._allocate(key_states, key_states if value_states is None else value_states, 2 * self.sliding_window + self._spare)
        self.is_initialized = True

    def _allocate(self, keys: Tensor, values: Tensor, tokens: int) -> None:
        with torch.inference_mode(False):  # else nobody could write into it outside inference mode
            new_k, new_v = (empty_of(x, (*x.shape[:2], tokens, x.shape[3]), 0, x.dtype) for x in (keys, values))
        self._memory = new_k, new_v

    # ---- new tokens ---------------------------------------------------------------------------------------------------------------------
    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends (B, Hkv, n, D) and returns what the n queries can see: the last W - 1 tokens before them, and theirs.

        What is returned are views, which later tokens overwrite.
        """
        if not self.is_initialized or not self._fits(key_states, value_states):
            self._start = self._end = 0
            self.lazy_initialization(key_states, value_states)
        records = torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad)
        if self._had_gradient and torch.is_grad_enabled() and self._end > self._start:
            raise RuntimeError(
                "WindowCache keeps no gradients of earlier tokens: call the model under torch.no_grad(), or use DynamicCache"
            )
        self._had_gradient = records
        new, past = key_states.shape[2], min(self._end - self._start, self.sliding_window - 1)
        self.cumulative_length += new
        if records or not self._make_room(new):
            return self._update_by_copy(key_states, value_states, past)
        assert self._memory is not None
        keys, values = self._memory
        keys[:, :, self._end : self._end + new] = key_states
        values[:, :, self._end : self._end + new] = value_states
        self._end += new
        if not self.record_past:
            self._start = max(self._start, self._end - self._kept)
        first = self._end - new - past
        return keys[:, :, first : self._end], values[:, :, first : self._end]

    @property
    def _kept(self) -> int:
        return int(self.sliding_window) - 1 + self._spare

    def _fits(self, keys: Tensor, values: Tensor) -> bool:
        """Another batch, or dtype, may come where there is no past. Beside one, what is copied would be repeated or rounded in silence."""
        if self._memory is None:
            return False
        for name, states, memory in zip(("key_states", "value_states"), (keys, values), self._memory, strict=True):
            if states.shape[:2] == memory.shape[:2] and states.shape[3] == memory.shape[3] and states.dtype is memory.dtype:
                continue
            if self._end > self._start:
                need = (*memory.shape[:2], "n", memory.shape[3])
                raise ValueError(
                    f"{name} is {tuple(states.shape)} of {states.dtype}; beside earlier tokens it needs to be {need} of {memory.dtype}"
                )
            return False
        return True

    def _make_room(self, new: int) -> bool:
        """Moves what is kept to the front where the new tokens do not fit behind it; False where they do not fit at all."""
        assert self._memory is not None
        slots, used = self._memory[0].shape[2], self._end - self._start
        if self._end + new <= slots:
            return True
        if used + new > slots:
            return False
        for memory in self._memory:
            memory[:, :, :used] = memory[:, :, self._start : self._end].clone()
        self._start, self._end = 0, used
        return True

    def _update_by_copy(self, key_states: Tensor, value_states: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """More tokens than there is room for, or tokens with a gradient."""
        used = self._end - self._start
        old = (self.keys, self.values)
        full = [x if used == 0 else torch.cat([y, x], 2) for x, y in zip((key_states, value_states), old, strict=True) if y is not None]
        total = used + key_states.shape[2]
        kept = total if self.record_past else min(total, self._kept)
        assert self._memory is not None
        if kept > self._memory[0].shape[2]:
            self._allocate(key_states, value_states, kept + self.sliding_window)
        for memory, states in zip(self._memory, full, strict=True):
            memory[:, :, :kept] = states[:, :, total - kept :].detach()
        self._start, self._end = 0, kept
        return full[0][:, :, used - past :], full[1][:, :, used - past :]

    # ---- back, and other rows -----------------------------------------------------------------------------------------------------------
    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last tokens: -n for n of them; with transformers 4.x also the length that is to stay.

        Raises:
            ValueError: a token is asked back that is no longer kept.
        """
        length, used = self.cumulative_length, self._end - self._start
        removed = min(_versions.num_removed(tokens_to_remove, length), length)
        most = length if used == length else max(used - self.sliding_window + 1, 0)
        if removed > most:
            raise ValueError(
                f"crop is asked to remove {removed} of {length} tokens, and {most} can be removed; it needs "
                f"WindowCache(config, spare={removed}) or activate_past_recording() before the tokens come"
            )
        self.cumulative_length -= removed
        self._end -= removed
        self._start = max(self._start, self._end - self._kept)

    def reset(self) -> None:
        self.cumulative_length = self._start = self._end = 0
        self._had_gradient = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._take(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._take(indices.nonzero()[:, 0] if indices.dtype is torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self._memory is not None:
            self._take(torch.arange(self._memory[0].shape[0]).repeat_interleave(repeats))

    def _take(self, rows: Tensor) -> None:
        """Row b becomes what row rows[b] was."""
        if self._memory is None:
            return
        used = self._end - self._start
        old, slots = self._memory, self._memory[0].shape[2]
        rows = rows.to(old[0].device)
        self._allocate(old[0][:1].expand(rows.shape[0], -1, -1, -1), old[1][:1].expand(rows.shape[0], -1, -1, -1), slots)
        for memory, source in zip(self._memory, old, strict=True):
            memory[:, :, :used] = source[:, :, self._start : self._end].index_select(0, rows)
        self._start, self._end = 0, used

# python/window_matmul/cache.py: `RollingCache`, the keys and values that causal windows still see while a sequence is decoded.
"""Memory of constant size, written in place. See `_cache/ring.py` for where a token lies.

A query that sees every token in the cache needs them in no order: one new token is written first, and attends over the memory as it lies.
A few new tokens attend over each run of slots in place, and the parts are joined by their maxima and sums. For many, a copy of the past in
order is cheap. docs/design.md has the reasons. On a GPU all of it is computed there (`_cache/there.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ._attention.arguments import as_form, as_options, as_reals
from ._attention.autograd import attention
from ._attention.ops import SPLIT_LSE, WIDE_OUT, empty_of
from ._band.arguments import UNBOUNDED, as_window
from ._cache.arguments import Sizes, as_causal, as_crops, as_device, as_lengths, as_lengths_there, as_rows, check_attend, check_state
from ._cache.merge import merge
from ._cache.ring import Ring, equal_rows
from ._cache.there import Lengths
from .functional import WindowSize
from .window import Window

_FEW = 16  # queries up to which copying the past costs more than the calls over its parts
_COUNTED_THERE = ("cuda",)  # devices that keep the lengths


class RollingCache:
    """Keys and values of the last tokens of each row of a batch, as many as a causal window sees, and of the first ones for good.

    `attend` appends tokens and returns what `window_attention` gives for them over the whole past, with
    ``global_tokens=num_pinned``; the tokens may come one by one, or in chunks of any sizes.

    Args:
        batch_size: B.
        num_kv_heads: Hkv.
        head_dim: D.
        window_size: a pair (left, 0), or a `Window` (with its dilation); left bounded.
        value_head_dim: Dv; by default D.
        num_pinned: how many of the first tokens stay visible for good (attention sinks).
        spare: how many of the last tokens `crop` may forget again; so many more are kept.
        dtype: of keys and values; by default torch's default dtype.
        device: where they lie; by default torch's default device. On a GPU a call of `attend` can be recorded in a CUDA graph.

    Raises:
        TypeError: an argument of a wrong type, or a dtype without kernels.
        ValueError: a negative size, a window with a right side or without a bounded left one, a device without kernels.

    >>> import torch
    >>> cache = RollingCache(batch_size=1, num_kv_heads=2, head_dim=4, window_size=(3, 0), num_pinned=1)
    >>> prompt, token = torch.randn(1, 2, 10, 4), torch.randn(1, 2, 1, 4)
    >>> cache.attend(prompt, prompt, prompt).shape
    torch.Size([1, 2, 10, 4])
    >>> cache.attend(token, token, token).shape
    torch.Size([1, 2, 1, 4])
    >>> cache
    RollingCache(batch_size=1, num_kv_heads=2, head_dim=4, value_head_dim=4, window=(3, 0), num_pinned=1, length=11, nbytes=320)

    Source: the rolling buffer cache of Jiang et al., "Mistral 7B" (arXiv:2310.06825); pinned tokens are the attention sinks of Xiao et al.,
    "Efficient Streaming Language Models with Attention Sinks" (arXiv:2309.17453).
    """

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        head_dim: int,
        window_size: WindowSize,
        *,
        value_head_dim: int | None = None,
        num_pinned: int = 0,
        spare: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        value_head_dim = head_dim if value_head_dim is None else value_head_dim
        dtype = torch.get_default_dtype() if dtype is None else dtype
        sizes = Sizes(batch_size, num_kv_heads, head_dim, value_head_dim, as_causal(window_size), num_pinned, spare, dtype)
        self._sizes = sizes
        device = as_device(device)
        self._ring = Ring(sizes.num_pinned, sizes.reach + 1 + sizes.spare, sizes.spare)
        with torch.inference_mode(False):  # else no call outside of inference mode could write it
            slots, like = (sizes.batch_size, sizes.num_kv_heads, self._ring.slots), torch.empty(0, dtype=sizes.dtype, device=device)
            self._keys = empty_of(like, (*slots, sizes.head_dim), 0, sizes.dtype).zero_()
            self._values = empty_of(like, (*slots, sizes.value_head_dim), 0, sizes.dtype).zero_()
        self._lengths = [0] * sizes.batch_size
        self._cropped = [0] * sizes.batch_size  # tokens behind these lengths that were appended once, and took the slots of older ones
        self._there = Lengths(self._ring, sizes.batch_size, self._keys.device) if device.type in _COUNTED_THERE else None

    @property
    def window(self) -> Window:
        """(left, 0), with its dilation."""
        return self._sizes.window

    @property
    def num_pinned(self) -> int:
        return self._sizes.num_pinned

    @property
    def length(self) -> int | list[int]:
        """The tokens appended so far: a number, or one for each row after a reset of some rows. On a GPU, reading it waits for the GPU."""
        lengths, _ = self._numbers()
        return (lengths[0] if lengths else 0) if len(set(lengths)) <= 1 else list(lengths)

    @property
    def nbytes(self) -> int:
        """The memory of keys and values, whatever the length: B * Hkv * (left * dilation + 1 + spare + num_pinned) * (D + Dv) elements."""
        return self._keys.nbytes + self._values.nbytes

    @property
    def _first_position(self) -> int | list[int] | Tensor:
        """Of the tokens to come; (B,) on a GPU."""
        return self.length if self._there is None else self._there.tokens

    def _numbers(self) -> tuple[list[int], list[int]]:
        return (self._lengths, self._cropped) if self._there is None else self._there.read()

    def _set_numbers(self, lengths: list[int], cropped: list[int]) -> None:
        if self._there is None:
            self._lengths, self._cropped = lengths, cropped
        else:
            self._there.write(lengths, cropped)

    def __repr__(self) -> str:
        return f"RollingCache({self._sizes}, length={self.length}, nbytes={self.nbytes})"

    # ---- decoding -----------------------------------------------------------------------------------------------------------------------
    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        softcap: float = 0.0,
        sinks: Tensor | None = None,
        bias: Tensor | None = None,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> Tensor:
        """Appends n tokens and lets their queries attend; one token does it without copying the cache.

        Args:
            q: (B, H, n, D), of the cache's dtype and device, any strides; H a multiple of Hkv.
            k: (B, Hkv, n, D).
            v: (B, Hkv, n, Dv).
            scale, softcap, sinks, bias: as in `window_attention`; bias is (H, left + 1) or (B, H, n, left + 1).
            lengths: (B,) ints: of row b only the first lengths[b] tokens are appended; the outputs of its others are 0. By default all n.
                A tensor on a GPU is not read: its numbers are cut to what there is.

        Returns:
            (B, H, n, Dv). n may be 0, and larger than the window. Under torch.compile each length is a new graph: better left outside.

        Raises:
            TypeError: an argument of a wrong type, or of another dtype than the cache's.
            ValueError: a shape, device or value that does not fit; a tensor that requires grad while gradients are recorded.
            After an error the cache is as it was.
        """
        q, k, v, sinks = check_attend(self._sizes, self._keys.device, (q, k, v), sinks, bias)
        new = q.shape[2]
        reals = as_reals(scale, softcap, 0.0, q.shape[3])
        if self._there is not None:
            there = None if lengths is None else as_lengths_there(lengths, len(self._lengths), new, q.device)
            bias = as_options(q, k, (self._sizes.left, 0), bias, None, None, None).bias
            return self._there.attend(self.window, (self._keys, self._values), (q, k, v), sinks, bias, reals, there)
        counts = [new] * len(self._lengths) if lengths is None else as_lengths(lengths, len(self._lengths), new)
        if new == 1 and bias is None and self.window.dilation == 1:
            return self._attend_one(q, k, v, sinks, reals, counts)
        bias = as_options(q, k, (self._sizes.left, 0), bias, None, None, None).bias
        outs = []
        for rows, length, count in equal_rows(self._lengths, counts):
            few = tuple(x[rows, :, :count] for x in (q, k, v))
            row_bias = bias[rows, :, :count] if bias is not None and bias.ndim == 4 else bias
            attend = self._attend_in_place if count <= _FEW else self._attend_to_copy
            out = attend(rows, length, few, sinks, row_bias, reals)
            outs.append(out if count == new else pad(out, (0, 0, 0, new - count)))
        self._append(k, v, counts)
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _attend_one(self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, reals: tuple[float, ...], counts: list[int]) -> Tensor:
        """The new token takes its slot, whose token no later query looks at, and its query sees what is in use then. Every argument has
        been checked: past the checks of `window_attention`, which cost as much as attending to some hundred tokens."""
        self._write(k, v, counts)
        used = [min(length + count, self._ring.slots) for length, count in zip(self._lengths, counts, strict=True)]
        most = max(used, default=0)
        mask = self._ring.seen(self._lengths, used, q.device)
        keys, values = self._keys, self._values
        if most < self._ring.slots:
            keys, values = keys.narrow(2, 0, most), values.narrow(2, 0, most)
        band = (UNBOUNDED, UNBOUNDED, as_form(q, None))
        out, _ = attention(q, keys, values, None, sinks, mask, None, None, None, None, None, None, band, most - 1, 0, reals)
        self._count(counts)
        if 0 in counts:
            out = out.masked_fill(torch.tensor(counts, device=q.device)[:, None, None, None] == 0, 0.0)
        return out

    def _write(self, k: Tensor, v: Tensor, counts: list[int]) -> None:
        """One token (B, Hkv, 1, D) a row into its slot, in the rows that have one."""
        slots = [self._ring.slot(length) for length, count in zip(self._lengths, counts, strict=True) if count]
        if len(slots) == len(counts) and len(set(slots)) == 1:
            self._keys.narrow(2, slots[0], 1).copy_(k)
            self._values.narrow(2, slots[0], 1).copy_(v)
        else:
            rows = [row for row, count in enumerate(counts) if count]
            self._keys[rows, :, slots], self._values[rows, :, slots] = k[rows, :, 0], v[rows, :, 0]

    def _attend_in_place(
        self, rows: slice, length: int, qkv: tuple[Tensor, ...], sinks: Tensor | None, bias: Tensor | None, reals: tuple[float, ...]
    ) -> Tensor:
        """Part by part, rounded when they have been joined."""
        q, k, v = qkv
        left, _, taps = as_window(self.window, 1)
        band = (left, 0, as_form(q, None) | WIDE_OUT | SPLIT_LSE, *taps)

        def part(token: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            """Of keys from `token` on; queries are those from token `length` on."""
            pinned = max(self.num_pinned - token, 0)
            out, lse = attention(q, keys, values, bias, None, None, None, None, None, None, None, None, band, length - token, pinned, reals)
            return out, lse

        parts = []
        for token, slot, count in self._ring.past(length) if q.shape[2] else ():
            run = slice(slot, slot + count)
            parts.append(part(token, self._keys[rows, :, run], self._values[rows, :, run]))
        parts.append(part(length, k, v))
        return merge(parts, sinks, q.dtype)

    def _attend_to_copy(
        self, rows: slice, length: int, qkv: tuple[Tensor, ...], sinks: Tensor | None, bias: Tensor | None, reals: tuple[float, ...]
    ) -> Tensor:
        """Between the pinned tokens and the ring's, tokens may be missing: pinned ones come nearer, but never into a window."""
        q, k, v = qkv
        past = [slice(slot, slot + count) for _, slot, count in self._ring.past(length)]
        keys = torch.cat([*(self._keys[rows, :, run] for run in past), k], 2) if past else k
        values = torch.cat([*(self._values[rows, :, run] for run in past), v], 2) if past else v
        left, _, taps = as_window(self.window, 1)
        band, shift = (left, 0, as_form(q, None), *taps), keys.shape[2] - q.shape[2]
        out, _ = attention(q, keys, values, bias, sinks, None, None, None, None, None, None, None, band, shift, self.num_pinned, reals)
        return out

    def _append(self, k: Tensor, v: Tensor, counts: list[int]) -> None:
        for rows, length, new in equal_rows(self._lengths, counts):
            for token, slot, count in self._ring.kept(length, length + new):
                tokens, slots = slice(token - length, token - length + count), slice(slot, slot + count)
                self._keys[rows, :, slots] = k[rows, :, tokens]
                self._values[rows, :, slots] = v[rows, :, tokens]
        self._count(counts)

    def _count(self, counts: list[int]) -> None:
        self._lengths = [length + count for length, count in zip(self._lengths, counts, strict=True)]
        self._cropped = [max(cropped - count, 0) for cropped, count in zip(self._cropped, counts, strict=True)]

    # ---- rows and states ----------------------------------------------------------------------------------------------------------------
    def reset(self, rows: int | Sequence[int] | Tensor | None = None) -> None:
        """Forgets the tokens of these rows: numbers of rows or a bool tensor (B,); by default of all."""
        if rows is None and self._there is not None:
            return self._there.clear()
        forgotten = range(len(self._lengths)) if rows is None else as_rows("rows", rows, len(self._lengths))
        self._set_numbers(*([0 if row in forgotten else n for row, n in enumerate(numbers)] for numbers in self._numbers()))

    def crop(self, n: int | Sequence[int] | Tensor) -> None:
        """Forgets the last n tokens of every row, or n[b] of row b, as if they had not been appended: tokens of a draft that were refused.

        Possible for the last `spare` tokens that were appended, the constructor's argument; more are a ValueError, and change nothing.
        """
        lengths, cropped = self._numbers()
        counts = as_crops(n, lengths, cropped, self._sizes.spare)
        self._set_numbers([a - b for a, b in zip(lengths, counts, strict=True)], [a + b for a, b in zip(cropped, counts, strict=True)])

    def reorder(self, indices: Sequence[int] | Tensor) -> None:
        """Row b becomes what row indices[b] was, as beam search asks for; B numbers. Rows that stay are not copied."""
        batch = len(self._lengths)
        sources = as_rows("indices", indices, batch)
        if len(sources) != batch or (isinstance(indices, Tensor) and indices.dtype is torch.bool):
            raise ValueError(f"indices is {indices!r}; it needs a number of a row for each of the {batch} rows")
        moved = [row for row, source in enumerate(sources) if row != source]
        if moved:
            used = min(max(self._numbers()[0]), self._ring.slots)
            for memory in (self._keys, self._values):
                memory[moved, :, :used] = memory[[sources[row] for row in moved], :, :used]
        self._set_numbers(*([numbers[source] for source in sources] for numbers in self._numbers()))

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything, for `load_state_dict` of a cache made with the same arguments. torch.save takes it."""
        return {name: x.clone() if isinstance(x, Tensor) else x for name, x in self._state().items()}

    def _state(self) -> dict[str, Any]:
        lengths, cropped = self._numbers()
        state = {"keys": self._keys, "values": self._values, "lengths": list(lengths), "cropped": list(cropped)}
        window = {"left": self.window.left, "dilation": self.window.dilation}
        return state | window | {"num_pinned": self.num_pinned, "spare": self._sizes.spare}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state; one that does not fit is a TypeError or ValueError, and changes nothing."""
        keys, values, lengths, cropped = check_state(state, self._state())
        self._keys.copy_(keys)
        self._values.copy_(values)
        self._set_numbers(lengths, cropped)

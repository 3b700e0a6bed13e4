# python/window_matmul/cache.py: `RollingCache`, the keys and values that causal windows still see while a sequence is decoded.
"""Memory of constant size, written in place. See `_cache/ring.py` for where a token lies.

A query that sees every token in the cache needs them in no order: one new token is written first, and attends over the memory as it lies.
A few new tokens attend over each run of slots in place, and the parts are merged by their log-sum-exps. For many, a copy of the past in
order is cheap. docs/design.md has the reasons.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ._attention.arguments import as_reals
from ._attention.autograd import attention
from ._band.arguments import UNBOUNDED
from ._cache.arguments import Sizes, as_causal, as_device, as_rows, check_attend, check_state
from ._cache.merge import merge
from ._cache.ring import Ring
from .attention import window_attention
from .functional import WindowSize
from .window import Window

_FEW = 16  # queries up to which copying the past costs more than the calls over its parts


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
        dtype: of keys and values; by default torch's default dtype.
        device: where they lie; by default torch's default device.

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
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        value_head_dim = head_dim if value_head_dim is None else value_head_dim
        dtype = torch.get_default_dtype() if dtype is None else dtype
        sizes = Sizes(batch_size, num_kv_heads, head_dim, value_head_dim, as_causal(window_size), num_pinned, dtype)
        self._sizes = sizes
        device = as_device(device)
        self._ring = Ring(sizes.num_pinned, sizes.reach + 1)
        with torch.inference_mode(False):  # else no call outside of inference mode could write it
            slots = sizes.batch_size, sizes.num_kv_heads, self._ring.slots
            self._keys = torch.zeros(*slots, sizes.head_dim, dtype=sizes.dtype, device=device)
            self._values = torch.zeros(*slots, sizes.value_head_dim, dtype=sizes.dtype, device=device)
        self._lengths = [0] * sizes.batch_size

    @property
    def window(self) -> Window:
        return self._sizes.window

    @property
    def num_pinned(self) -> int:
        return self._sizes.num_pinned

    @property
    def length(self) -> int | list[int]:
        """The tokens appended so far: a number, or one for each row after a reset of some rows."""
        return (self._lengths[0] if self._lengths else 0) if len(set(self._lengths)) <= 1 else list(self._lengths)

    @property
    def nbytes(self) -> int:
        """The memory of keys and values, whatever the length: B * Hkv * (left * dilation + 1 + num_pinned) * (D + Dv) elements."""
        return self._keys.nbytes + self._values.nbytes

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
    ) -> Tensor:
        """Appends n tokens and lets their queries attend; one token does it without copying the cache.

        Args:
            q: (B, H, n, D), of the cache's dtype and device, any strides; H a multiple of Hkv.
            k: (B, Hkv, n, D).
            v: (B, Hkv, n, Dv).
            scale, softcap, sinks, bias: as in `window_attention`; bias is (H, left + 1) or (B, H, n, left + 1).

        Returns:
            (B, H, n, Dv). n may be 0, and larger than the window. Under torch.compile each length is a new graph: better left outside.

        Raises:
            TypeError: an argument of a wrong type, or of another dtype than the cache's.
            ValueError: a shape, device or value that does not fit; a tensor that requires grad while gradients are recorded.
            After an error the cache is as it was.
        """
        q, k, v = check_attend(self._sizes, self._keys.device, (q, k, v), sinks, bias)
        if q.shape[2] == 1 and bias is None and self.window.dilation == 1:
            return self._attend_one(q, k, v, sinks, as_reals(scale, softcap, 0.0, q.shape[3]))
        attend = self._attend_in_place if q.shape[2] <= _FEW else self._attend_to_copy
        outs = []
        for rows, length in self._equal_rows():
            row_bias = bias[rows] if bias is not None and bias.ndim == 4 else bias
            options = {"scale": scale, "softcap": softcap, "sinks": sinks, "bias": row_bias}
            outs.append(attend(rows, length, (q[rows], k[rows], v[rows]), options))
        self._append(k, v)
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _attend_one(self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, reals: tuple[float, ...]) -> Tensor:
        """The new token takes its slot, whose token no later query looks at, and its query sees all that is in use then. Every argument has
        been checked: past the checks of `window_attention`, which cost as much as attending to some hundred tokens."""
        self._write(k, v)
        used = [min(length + 1, self._ring.slots) for length in self._lengths]
        most = max(used, default=0)
        mask = torch.arange(most, device=q.device) < torch.tensor(used, device=q.device)[:, None] if min(used, default=0) < most else None
        keys, values = self._keys, self._values
        if most < self._ring.slots:
            keys, values = keys.narrow(2, 0, most), values.narrow(2, 0, most)
        band = (UNBOUNDED, UNBOUNDED, int(q.stride(1) < q.stride(2)))
        out, _ = attention(q, keys, values, None, sinks, mask, None, None, None, None, None, None, band, most - 1, 0, reals)
        self._lengths = [length + 1 for length in self._lengths]
        return out

    def _write(self, k: Tensor, v: Tensor) -> None:
        """One token (B, Hkv, 1, D) a row into its slot."""
        slots = [self._ring.slot(length) for length in self._lengths]
        if len(set(slots)) == 1:
            self._keys.narrow(2, slots[0], 1).copy_(k)
            self._values.narrow(2, slots[0], 1).copy_(v)
        else:
            rows = range(len(slots))
            self._keys[rows, :, slots], self._values[rows, :, slots] = k[:, :, 0], v[:, :, 0]

    def _attend_in_place(self, rows: slice, length: int, qkv: tuple[Tensor, Tensor, Tensor], options: dict[str, Any]) -> Tensor:
        """Part by part."""
        q, k, v = qkv
        sinks = options.pop("sinks")
        parts = []
        for token, slot, count in self._ring.past(length) if q.shape[2] else ():
            run = slice(slot, slot + count)
            keys, values = self._keys[rows, :, run], self._values[rows, :, run]
            parts.append(_attention_with_lse(q, keys, values, self.window, options | self._place(token, length)))
        parts.append(_attention_with_lse(q, k, v, self.window, options | self._place(length, length)))
        return merge(parts, sinks)

    def _place(self, token: int, length: int) -> dict[str, Any]:
        """How keys from `token` on lie to queries from token `length` on."""
        return {"query_offset": length - token, "global_tokens": max(self.num_pinned - token, 0)}

    def _attend_to_copy(self, rows: slice, length: int, qkv: tuple[Tensor, Tensor, Tensor], options: dict[str, Any]) -> Tensor:
        """Between the pinned tokens and the ring's, tokens may be missing: pinned ones come nearer, but never into a window."""
        q, k, v = qkv
        past = [slice(slot, slot + count) for _, slot, count in self._ring.past(length)]
        keys = torch.cat([*(self._keys[rows, :, run] for run in past), k], 2) if past else k
        values = torch.cat([*(self._values[rows, :, run] for run in past), v], 2) if past else v
        out = window_attention(q, keys, values, self.window, global_tokens=self.num_pinned, **options)
        assert isinstance(out, Tensor)
        return out

    def _append(self, k: Tensor, v: Tensor) -> None:
        new = k.shape[2]
        for rows, length in self._equal_rows():
            for token, slot, count in self._ring.kept(length, length + new):
                tokens, slots = slice(token - length, token - length + count), slice(slot, slot + count)
                self._keys[rows, :, slots] = k[rows, :, tokens]
                self._values[rows, :, slots] = v[rows, :, tokens]
        self._lengths = [length + new for length in self._lengths]

    def _equal_rows(self) -> list[tuple[slice, int]]:
        """Neighbouring rows of equal length; without rows, none of them."""
        runs = [list(run) for _, run in groupby(range(len(self._lengths)), key=self._lengths.__getitem__)]
        return [(slice(run[0], run[-1] + 1), self._lengths[run[0]]) for run in runs] or [(slice(0, 0), 0)]

    # ---- rows and states ----------------------------------------------------------------------------------------------------------------
    def reset(self, rows: int | Sequence[int] | Tensor | None = None) -> None:
        """Forgets the tokens of these rows: numbers of rows or a bool tensor (B,); by default of all."""
        for row in range(len(self._lengths)) if rows is None else as_rows("rows", rows, len(self._lengths)):
            self._lengths[row] = 0

    def reorder(self, indices: Sequence[int] | Tensor) -> None:
        """Row b becomes what row indices[b] was, as beam search asks for; B numbers. Rows that stay are not copied."""
        batch = len(self._lengths)
        sources = as_rows("indices", indices, batch)
        if len(sources) != batch or (isinstance(indices, Tensor) and indices.dtype is torch.bool):
            raise ValueError(f"indices is {indices!r}; it needs a number of a row for each of the {batch} rows")
        moved = [row for row, source in enumerate(sources) if row != source]
        if moved:
            used = min(max(self._lengths), self._ring.slots)
            for memory in (self._keys, self._values):
                memory[moved, :, :used] = memory[[sources[row] for row in moved], :, :used]
        self._lengths = [self._lengths[source] for source in sources]

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything, for `load_state_dict` of a cache made with the same arguments. torch.save takes it."""
        return {name: x.clone() if isinstance(x, Tensor) else x for name, x in self._state().items()}

    def _state(self) -> dict[str, Any]:
        state = {"keys": self._keys, "values": self._values, "lengths": list(self._lengths)}
        return state | {"left": self.window.left, "dilation": self.window.dilation, "num_pinned": self.num_pinned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state; one that does not fit is a TypeError or ValueError, and changes nothing."""
        keys, values, lengths = check_state(state, self._state())
        self._keys.copy_(keys)
        self._values.copy_(values)
        self._lengths = lengths


def _attention_with_lse(q: Tensor, k: Tensor, v: Tensor, window: Window, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    part = window_attention(q, k, v, window, return_lse=True, **options)
    assert isinstance(part, tuple)
    return part

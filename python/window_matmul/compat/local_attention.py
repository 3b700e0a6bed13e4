# python/window_matmul/compat/local_attention.py: lucidrains' LocalAttention, constructor and call, on fused attention.
"""Exact windows without attn_bias or xpos are one call over the tensors as they lie. Otherwise each bucket of queries is an entry of the
batch, beside the keys of its neighbours, as in the original: it sees all of these, or each query its exact window.

Kept as it is there: with look_forward and rotary embedding queries are rotated look_forward * window_size places too late; autopad's zeros
are keys like others where no mask says otherwise; a query whose keys are all masked has the mean of all values of its buckets, with
values of -1 beyond the ends. Dropout drops with the same probability, by other random numbers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._attention.arguments import as_probability, as_real
from .._band.arguments import check_strided
from .._integers import as_flag, as_int, as_positive
from .._rotary import turn
from ..attention import window_attention

__all__ = ["LocalAttention"]

_FILLER = -1.0  # the value of keys beyond the ends


class _Rotary(nn.Module):
    """Frequencies under the names they have in a state_dict there. Angles are taken in float64: positions may be large."""

    inv_freq: Tensor
    scale: Tensor

    def __init__(self, dim: int, scale_base: float | None) -> None:
        super().__init__()
        even = torch.arange(0, dim, 2)
        self.scale_base = scale_base
        self.register_buffer("inv_freq", 1.0 / (10000 ** (even.float() / dim)))
        self.register_buffer("scale", (even + 0.4 * dim) / (1.4 * dim), persistent=False)

    def forward(self, x: Tensor, first: int, sign: int, middle: int) -> Tensor:
        """x (..., n, d) turned by the angles of places first, first + 1, ...; with xpos scaled by powers of the distance from `middle`."""
        if x.shape[-1] != 2 * self.inv_freq.shape[0]:
            raise ValueError(f"q and k have a head dim of {x.shape[-1]}; rotary embedding needs dim, {2 * self.inv_freq.shape[0]}")
        places = torch.arange(first, first + x.shape[-2], device=x.device, dtype=torch.float64)[:, None]
        angles = places * self.inv_freq.double()
        factor = 1.0 if self.scale_base is None else self.scale.double() ** (sign * (places - middle) / self.scale_base)
        cos, sin = ((part * factor).to(torch.promote_types(x.dtype, torch.float32)) for part in (angles.cos(), angles.sin()))
        return turn(x, cos, sin)


class LocalAttention(nn.Module):
    """Attention within windows, with the arguments, defaults and state_dict of local-attention 1.11.

    Args:
        window_size: of a bucket; a query sees look_backward of them before and look_forward after its own.
        causal: no keys after the query.
        look_backward: see window_size.
        look_forward: likewise; by default 0 if causal, else 1.
        dropout: probability to drop a weight, in training.
        shared_qk: keys are normalised, and a query sees itself only where it sees nothing else.
        rel_pos_emb_config: dim as the first entry of a tuple, of old.
        dim: the head dim, for rotary embedding; without it there is none.
        autopad: pad lengths to a multiple of window_size.
        exact_windowsize: see exactly window_size * look_backward keys before and window_size * look_forward after the query.
        scale: factor of the scores; by default 1 / sqrt(head dim).
        use_rotary_pos_emb: False for none in spite of dim.
        use_xpos: scale queries and keys by their distance as well.
        xpos_scale_base: by default window_size // 2.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: look_forward with causal; a size or a base of xpos that is not positive; a dropout that is no probability.
    """

    def __init__(
        self,
        window_size: int,
        causal: bool = False,
        look_backward: int = 1,
        look_forward: int | None = None,
        dropout: float = 0.0,
        shared_qk: bool = False,
        rel_pos_emb_config: tuple[int, ...] | None = None,
        dim: int | None = None,
        autopad: bool = False,
        exact_windowsize: bool = False,
        scale: float | None = None,
        use_rotary_pos_emb: bool = True,
        use_xpos: bool = False,
        xpos_scale_base: float | None = None,
    ) -> None:
        super().__init__()
        flags = {"causal": causal, "shared_qk": shared_qk, "autopad": autopad, "exact_windowsize": exact_windowsize}
        for name, flag in (flags | {"use_rotary_pos_emb": use_rotary_pos_emb, "use_xpos": use_xpos}).items():
            as_flag(name, flag)
        look_forward = (0 if causal else 1) if look_forward is None else look_forward
        for name, size, least in (("window_size", window_size, 1), ("look_backward", look_backward, 0), ("look_forward", look_forward, 0)):
            if as_int(name, size) < least:
                raise ValueError(f"{name} is {size}; it needs to be at least {least}")
        if causal and look_forward > 0:
            raise ValueError(f"look_forward is {look_forward} with causal=True; it needs to be 0")
        self.window_size, self.causal, self.shared_qk, self.scale = window_size, causal, shared_qk, scale
        self.look_backward, self.look_forward = look_backward, look_forward
        self.autopad, self.exact_windowsize, self.use_xpos = autopad, exact_windowsize, use_xpos
        self.dropout = nn.Dropout(as_probability("dropout", dropout))
        dim = _dim(dim, rel_pos_emb_config)
        base = _xpos_base(window_size, xpos_scale_base) if use_xpos or xpos_scale_base is not None else None
        self.rel_pos = _Rotary(dim, base if use_xpos else None) if use_rotary_pos_emb and dim is not None else None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        input_mask: Tensor | None = None,
        attn_bias: Tensor | None = None,
        window_size: int | None = None,
    ) -> Tensor:
        """Attention of q to k and v, all (..., n, d).

        Args:
            q: n a multiple of the window, unless autopad.
            k: likewise.
            v: likewise.
            mask: (b, n) bool; True for keys that may be seen. The leading dims are b times the heads.
            input_mask: an old name of mask.
            attn_bias: (h, window_size, (look_backward + 1 + look_forward) * window_size): added to the scores of each bucket.
            window_size: of the buckets of this call; with use_xpos only.

        Returns:
            (..., n, d) as q.

        Raises:
            TypeError: an argument of a wrong type, a mask that is not bool.
            ValueError: shapes that do not fit.
        """
        for name, x in (("mask", mask), ("input_mask", input_mask), ("attn_bias", attn_bias)):
            if x is not None:
                _check_given(name, x)
        mask = input_mask if mask is None else mask
        if window_size is not None and not self.use_xpos:
            raise ValueError(f"window_size is {window_size}; it needs to be None without use_xpos=True")
        size = self.window_size if window_size is None else as_positive("window_size", window_size)
        q, k, v, shape = _flat(q, k, v)
        length = q.shape[1]
        if self.autopad:
            missing = -length % self.window_size
            q, k, v = (functional.pad(x, (0, 0, 0, missing)) for x in (q, k, v))
            mask = None if mask is None else functional.pad(mask, (0, -mask.shape[-1] % size), value=False)
        if q.shape[1] % size:
            raise ValueError(f"q has {q.shape[1]} places; their number needs to be a multiple of window_size, {size}, or autopad=True")
        if length == 0:
            return v.reshape(*shape[:-1], v.shape[-1])
        batch = _batch(q.shape[0], q.shape[1], mask, attn_bias, size * self._buckets, size)
        if self.shared_qk:
            k = functional.normalize(k, dim=-1)
        if self.exact_windowsize and attn_bias is None and not (self.use_xpos and self.rel_pos):
            out, lse = self._exact(q, k, v, mask, batch)
        else:
            out, lse = self._by_buckets(q, k, v, mask, batch, attn_bias, size)
        if mask is not None or self.shared_qk:
            out = self._without_keys(out, lse, v, mask, size)
        return out[:, :length].reshape(*shape[:-1], v.shape[-1])

    @property
    def _buckets(self) -> int:
        return self.look_backward + 1 + self.look_forward

    def _bias(self, bias: Tensor | None, heads: int, sides: tuple[int, int], like: Tensor) -> Tensor | None:
        """With shared_qk, -inf in the slot of the query itself."""
        if not self.shared_qk:
            return bias
        bias = like.new_zeros(heads, sum(sides) + 1) if bias is None else bias
        return bias.index_fill(-1, torch.tensor([sides[0]], device=bias.device), -torch.inf)

    def _exact(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        sides = (self.window_size * self.look_backward, self.window_size * self.look_forward)
        if self.rel_pos is not None:
            q, k = self.rel_pos(q, sides[1], 1, 0), self.rel_pos(k, 0, -1, 0)
        q, k, v = (x.unflatten(0, (batch, -1)) for x in (q, k, v))
        dropout = self.dropout.p if self.training else 0.0
        bias = self._bias(None, q.shape[1], sides, q)
        out, lse = window_attention(q, k, v, sides, scale=self.scale, key_mask=mask, bias=bias, dropout_p=dropout, return_lse=True)
        return out.flatten(0, 1), lse.flatten(0, 1)

    def _by_buckets(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, batch: int, attn_bias: Tensor | None, size: int
    ) -> tuple[Tensor, Tensor]:
        sides = self._sides(size)
        q, k, v = q.unflatten(1, (-1, size)), self._around(k, size), self._around(v, size)
        if self.rel_pos is not None:
            span = k.shape[2]
            q, k = self.rel_pos(q, span - size, 1, span // 2), self.rel_pos(k, 0, -1, span // 2)
        entries, count = q.shape[:2]
        heads = entries // batch
        seen = torch.ones(batch, count * size, dtype=torch.bool, device=q.device) if mask is None else mask
        seen = self._around(seen[:, :, None], size).flatten(2).flatten(0, 1)
        q, k, v = (x.unflatten(0, (batch, heads)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (batch * count, heads, ...)
        bias = None if attn_bias is None else _slots(attn_bias, sides, self.look_backward * size)
        if bias is not None and len(bias) == heads:
            bias = bias.expand(batch * count, -1, -1, -1)
        elif bias is not None:
            of_entry = torch.arange(entries, device=q.device) % len(bias)
            bias = bias[of_entry].view(batch, 1, heads, size, -1).expand(-1, count, -1, -1, -1).flatten(0, 1)
        out, lse = window_attention(
            q, k, v, sides, scale=self.scale, key_mask=seen, bias=self._bias(bias, heads, sides, q), return_lse=True,
            dropout_p=self.dropout.p if self.training else 0.0, query_offset=self.look_backward * size,
        )  # fmt: skip
        out, lse = (x.unflatten(0, (batch, count)).transpose(1, 2).flatten(2, 3).flatten(0, 1) for x in (out, lse))
        return out, lse

    def _sides(self, size: int) -> tuple[int, int]:
        """Of a query among the keys of its buckets."""
        if self.exact_windowsize:
            left, right = self.window_size * self.look_backward, self.window_size * self.look_forward
        else:
            left, right = self.look_backward * size + size - 1, self.look_forward * size + size - 1
        return min(left, self._buckets * size), 0 if self.causal else min(right, self._buckets * size)

    def _around(self, x: Tensor, size: int, filler: float = 0.0) -> Tensor:
        """(b, n, d) -> (b, n / size, buckets * size, d): each bucket beside its neighbours."""
        x = functional.pad(x.unflatten(1, (-1, size)), (0, 0, 0, 0, self.look_backward, self.look_forward), value=filler)
        return x.unfold(1, self._buckets, 1).movedim(-1, 2).flatten(2, 3)

    def _without_keys(self, out: Tensor, lse: Tensor, v: Tensor, mask: Tensor | None, size: int) -> Tensor:
        """A query that sees nothing: with shared_qk itself if it may, else the mean of all values of its buckets."""
        nothing = (lse == -torch.inf)[:, :, None]
        if not nothing.any():
            return out
        instead = self._around(v, size, _FILLER).mean(2).repeat_interleave(size, 1)
        if self.shared_qk:
            seen = torch.ones_like(nothing) if mask is None else mask.repeat_interleave(len(v) // len(mask), 0)[:, :, None]
            instead = torch.where(seen, v, instead)
        return torch.where(nothing, instead, out)


# ---- arguments -----------------------------------------------------------------------------------------------------------------------
def _dim(dim: int | None, rel_pos_emb_config: tuple[int, ...] | None) -> int | None:
    if rel_pos_emb_config is None:
        return None if dim is None else as_positive("dim", dim)
    if not isinstance(rel_pos_emb_config, tuple | list) or not rel_pos_emb_config:
        raise TypeError(f"rel_pos_emb_config is {rel_pos_emb_config!r}; it needs to be a tuple with dim as its first entry, or None")
    return as_positive("rel_pos_emb_config[0]", rel_pos_emb_config[0])


def _xpos_base(window_size: int, given: float | None) -> float:
    base = window_size // 2 if given is None else as_real("xpos_scale_base", given, "a number above 0, or None")
    if not 0 < base < float("inf"):
        raise ValueError(f"xpos_scale_base is {given!r} with window_size {window_size}; it, or half of that, needs to be a number above 0")
    return base


def _check_given(name: str, x: Tensor) -> None:
    check_strided(name, x)
    if name != "attn_bias" and x.dtype is not torch.bool:
        raise TypeError(f"{name} is {x.dtype}; it needs to be bool")


def _flat(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_strided(name, x)
        if x.ndim < 2 or x.shape[:-1] != q.shape[:-1]:
            raise ValueError(f"{name} is {tuple(x.shape)} beside q of {tuple(q.shape)}; it needs to be (..., n, d), all dims but d as q's")
    q_rows, k_rows, v_rows = (x[None].flatten(0, -3) for x in (q, k, v))
    return q_rows, k_rows, v_rows, q.shape


def _batch(entries: int, length: int, mask: Tensor | None, attn_bias: Tensor | None, span: int, size: int) -> int:
    """How many entries have a mask of their own; what lies between are heads."""
    if attn_bias is not None and (attn_bias.ndim != 3 or attn_bias.shape[1:] != (size, span) or entries % max(len(attn_bias), 1)):
        raise ValueError(f"attn_bias is {tuple(attn_bias.shape)}; it needs to be (h, {size}, {span}), h dividing {entries}")
    if mask is None:
        return entries // len(attn_bias) if attn_bias is not None and len(attn_bias) else 1
    if mask.ndim != 2 or mask.shape[1] != length or entries % max(len(mask), 1):
        raise ValueError(f"mask is {tuple(mask.shape)}; it needs to be (b, {length}), b dividing {entries}")
    return len(mask)


def _slots(attn_bias: Tensor, sides: tuple[int, int], aligned: int) -> Tensor:
    """(h, size, buckets * size) -> (h, size, slots); slots of keys that do not exist hold something."""
    size, span = attn_bias.shape[1:]
    places = torch.arange(size, device=attn_bias.device)[:, None] + aligned + torch.arange(-sides[0], sides[1] + 1, device=attn_bias.device)
    return attn_bias.gather(-1, places.clamp(0, span - 1).expand(len(attn_bias), -1, -1))

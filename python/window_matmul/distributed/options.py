# python/window_matmul/distributed/options.py: the arguments of fused attention over shards, checked and described for the other ranks.
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._attention.arguments import Options, as_entries, as_flag, as_form, as_operands, as_options, as_reals, check_heads_of, draw_seed
from .._band.arguments import UNBOUNDED, as_window
from ..attention import AnyWindow
from .agreement import Fields, Own
from .halo import described, one_or_all

_DEFAULTS: dict[str, Any] = {
    "dilation": 1,
    "scale": None,
    "key_mask": None,
    "key_lengths": None,
    "bias": None,
    "softcap": 0.0,
    "sinks": None,
    "global_tokens": None,
    "dropout_p": 0.0,
    "query_offset": None,
    "return_lse": False,
    "out_dtype": None,
}


class Sides(NamedTuple):
    """How far windows reach, dilation included: rows before and behind the aligned one."""

    before: int
    behind: int


@dataclass
class Arguments:
    """Of one call, this rank's shards; as the private operators take them."""

    q: Tensor
    k: Tensor
    v: Tensor
    left: int
    right: int
    taps: tuple[int, ...]
    reals: tuple[float, ...]
    bias: Tensor | None
    sinks: Tensor | None
    key_mask: Tensor | None
    global_mask: Tensor | None
    global_tokens: int
    key_lengths: Tensor | None
    offsets: Tensor | None
    shift: int | None  # None: all keys less all queries
    out_dtype: torch.dtype | None
    with_lse: bool
    seed: Tensor | None
    lengths: list[int] = field(default_factory=list)  # the values of key_lengths, where they are given
    shifts: list[int] = field(default_factory=list)  # those of offsets
    sequence: int | None = None  # of packed sequences, which one this is

    @property
    def sides(self) -> Sides:
        reach = max(self.taps, default=1)
        return Sides(self.left * reach, self.right * reach)

    @property
    def has_globals(self) -> bool:
        return self.global_mask is not None or self.global_tokens > 0

    def take_seed(self, of_first_rank: int) -> None:
        if self.seed is not None:
            self.seed = torch.tensor([of_first_rank], device=self.q.device)

    def band(self, q: Tensor, wide: bool = False) -> tuple[int, ...]:
        """Of a call on some of the rows."""
        return self.left, self.right, as_form(q, torch.float32 if wide and q.dtype is not torch.float64 else self.out_dtype), *self.taps


def as_arguments(
    q: Tensor, k: Tensor, v: Tensor, window_size: AnyWindow, options: dict[str, Any], seed: Tensor | None, dims: int = 4
) -> Arguments:
    """Everything that can be wrong with this rank's arguments alone is said here. Of packed sequences, 3 dims, a batch of 1 is made."""
    known = _DEFAULTS if dims == 4 else {name: x for name, x in _DEFAULTS.items() if name not in ("key_lengths", "query_offset")}
    for name in options:
        if name not in known:
            raise TypeError(f"{name} is no argument of attention over shards; it needs to be one of {', '.join(known)}")
    given = {**_DEFAULTS, **options}
    left, right, taps = as_window(window_size, given["dilation"])
    q, k, v = as_operands(q, k, v, dims)
    check_heads_of(given["dilation"], q)
    reals = as_reals(given["scale"], given["softcap"], given["dropout_p"], q.shape[-1])
    tensors = as_options(q, k, (left, right), given["bias"], given["sinks"], given["key_mask"], given["global_tokens"])
    if dims == 3:
        q, k, v = (x[None].transpose(1, 2) for x in (q, k, v))
        tensors = _in_batch(tensors)
    lengths, offsets, shift = as_entries(given["key_lengths"], given["query_offset"], q, k)
    as_form(q, given["out_dtype"])
    by_default = given["query_offset"] is None
    return Arguments(
        q,
        k,
        v,
        left,
        right,
        taps,
        reals,
        *tensors,
        key_lengths=lengths,
        offsets=None if by_default else offsets,
        shift=None if by_default or offsets is not None else shift,
        out_dtype=given["out_dtype"],
        with_lse=as_flag("return_lse", given["return_lse"]),
        seed=draw_seed(reals[1], q.device) if seed is None else seed,
        lengths=_values("key_lengths", lengths, 0),
        shifts=[] if by_default else _values("query_offset", offsets, None),
    )


def _in_batch(options: Options) -> Options:
    bias, _, key_mask, global_mask, _ = options
    return options._replace(
        bias=bias[None] if bias is not None and bias.ndim == 3 else bias,
        key_mask=None if key_mask is None else key_mask[None],
        global_mask=None if global_mask is None else global_mask[None],
    )


def _values(name: str, numbers: Tensor | None, least: int | None) -> list[int]:
    values = [] if numbers is None else numbers.tolist()
    for at, value in enumerate(values):
        if least is not None and value < least:
            raise ValueError(f"{name}[{at}] is {value}; it needs to be at least {least}")
        if abs(value) > UNBOUNDED:
            raise ValueError(f"{name}[{at}] is {value}; it needs to be from -2**60 to 2**60")
    return values


def own_of(a: Arguments) -> Own:
    global_rows = 0 if a.global_mask is None else int(a.global_mask.any(0).sum())
    return Own(a.q.shape[2], a.k.shape[2], 0 if a.seed is None else int(a.seed), global_rows)


def needs_numbers(options: dict[str, Any]) -> bool:
    """Whether a call needs more of the other ranks than the lengths: a seed, or how many global tokens they have."""
    p = options.get("dropout_p", 0.0)
    return not (isinstance(p, int | float) and p == 0) or isinstance(options.get("global_tokens"), Tensor)


def describe(a: Arguments) -> Fields:
    """What ranks need to have alike. Parameters, as sinks, are described by their shape."""
    softcap, dropout_p, *scale = a.reals
    return {
        "window_size": f"({_side(a.left)}, {_side(a.right)})",
        "dilation": one_or_all(a.taps),
        **described("q", a.q, 2),
        **described("k", a.k, 2),
        **described("v", a.v, 2),
        "scale": str(scale[0] if scale else None),
        "softcap": str(softcap),
        "dropout_p": str(dropout_p),
        **described("bias", a.bias, 2 if a.bias is not None and a.bias.ndim == 4 else None),
        **described("sinks", a.sinks, None),
        **described("key_mask", a.key_mask, 1),
        "global_tokens": str(a.global_tokens) if a.global_mask is None else "a mask",
        "key_lengths": str(a.lengths) if a.key_lengths is not None else "None",
        "query_offset": str(a.shifts) if a.offsets is not None else str(a.shift),
        "return_lse": str(a.with_lse),
        "out_dtype": str(a.out_dtype),
    }


def _side(side: int) -> str:
    return "None" if side == UNBOUNDED else str(side)

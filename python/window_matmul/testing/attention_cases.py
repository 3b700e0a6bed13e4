# python/window_matmul/testing/attention_cases.py: calls of fused attention with options, and how one is compared with its definition.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import attention as fused
from . import definition
from .definition import Dense, Rule

DIFFERENTIABLE = ("q", "k", "v", "bias", "sinks")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    rule: Rule
    queries: int = 7
    keys: int = 9
    batch: int = 2
    heads: int = 2
    kv_heads: int = 2
    dim: int = 4
    value_dim: int = 3
    scale: float | None = None
    softcap: float = 0.0
    bias: str = ""  # "", "slots" or "full"
    wide_bias: bool = False  # bias and sinks in float32, whatever q's dtype
    hides: bool = False  # some of the bias is -inf
    sinks: bool = False
    key_mask: bool = False
    global_tokens: int | None = None
    global_mask: bool = False
    key_lengths: bool = False
    offsets: bool = False  # a query_offset of each entry

    def __str__(self) -> str:
        rule = self.rule
        parts = [f"{self.batch}x{self.heads}/{self.kv_heads}:{self.queries}x{self.keys}x{self.dim}->{self.value_dim}"]
        parts += [f"window={rule.left}+{rule.right}"]
        parts += [f"dilation={rule.dilation}"] * (rule.dilation != 1) + [f"offset={rule.query_offset}"] * (rule.query_offset is not None)
        names = ("scale", "softcap", "bias", "wide_bias", "hides", "sinks", "key_mask", "global_tokens", "global_mask", "key_lengths")
        for name in (*names, "offsets"):
            value = getattr(self, name)
            parts += [name if value is True else f"{name}={value}"] * (value not in (None, "", False) and value != 0.0)
        return ",".join(parts)

    @property
    def window(self) -> tuple[int | None, int | None]:
        return self.rule.left, self.rule.right

    def tensors(self, dtype: torch.dtype = torch.float64, random: torch.Generator | None = None) -> dict[str, Tensor]:
        """q, k, v and the options that are tensors, on the CPU; by torch's own generator unless another is given."""

        def normal(*shape: int, of: torch.dtype = dtype) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=random).to(of)

        def mostly(share: float, *shape: int) -> Tensor:
            return torch.rand(shape, generator=random) < share

        tensors = {
            "q": normal(self.batch, self.heads, self.queries, self.dim),
            "k": normal(self.batch, self.kv_heads, self.keys, self.dim),
            "v": normal(self.batch, self.kv_heads, self.keys, self.value_dim),
        }
        logits = torch.float32 if self.wide_bias else dtype
        if self.bias:
            shape = (self.heads,) if self.bias == "slots" else (self.batch, self.heads, self.queries)
            bias = normal(*shape, self.rule.width, of=logits)
            tensors["bias"] = bias.masked_fill(mostly(0.3, *bias.shape), -torch.inf) if self.hides else bias
        if self.sinks:
            tensors["sinks"] = normal(self.heads, of=logits)
        if self.key_mask:
            tensors["key_mask"] = mostly(0.7, self.batch, self.keys)
        if self.global_mask:
            tensors["global_tokens"] = mostly(0.25, self.batch, self.keys)
        if self.key_lengths:  # the first entry has as many keys as queries where it can
            lengths = torch.randint(self.keys + 1, (self.batch,), generator=random)
            tensors["key_lengths"] = lengths.index_fill(0, torch.arange(min(self.batch, 1)), min(self.queries, self.keys)).int()
        if self.offsets:  # and is aligned with these
            offsets = torch.randint(-self.queries - 2, self.keys + 3, (self.batch,), generator=random)
            tensors["query_offset"] = offsets.index_fill(0, torch.arange(min(self.batch, 1)), 0)
        return tensors

    def numbers(self) -> dict[str, Any]:
        """The options that are no tensors."""
        options = {"scale": self.scale, "global_tokens": self.global_tokens, "query_offset": self.rule.query_offset}
        options = {name: value for name, value in options.items() if value is not None}
        if self.softcap:
            options["softcap"] = self.softcap
        return options if self.rule.dilation == 1 else options | {"dilation": self.rule.dilation}

    def ours(self, tensors: dict[str, Tensor], **more: Any) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = tensors | self.numbers() | more
        out, lse = fused.window_attention(**options, window_size=self.window, return_lse=True)
        return out, lse

    def exact(self, tensors: dict[str, Tensor], kept: Tensor | None = None) -> Dense:
        numbers = {name: value for name, value in self.numbers().items() if name not in ("dilation", "query_offset")}
        return definition.attend(**tensors, rule=self.rule, kept=kept, **numbers)


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, those with a gradient as leaves."""
    return {name: x.detach().requires_grad_() if name in DIFFERENTIABLE else x for name, x in tensors.items()}


def gradients(results: tuple[Tensor, ...], tensors: dict[str, Tensor], cotangents: tuple[Tensor, ...]) -> dict[str, Tensor]:
    names = [name for name in DIFFERENTIABLE if name in tensors]
    return dict(zip(names, torch.autograd.grad(results, [tensors[name] for name in names], cotangents), strict=True))


class Compared(NamedTuple):
    name: str
    actual: Tensor
    exact: Tensor
    bound: Tensor
    dtype: torch.dtype


def compared(
    case: Case,
    dtype: torch.dtype,
    layout: Callable[[Tensor], Tensor] = lambda x: x,
    kept: Tensor | None = None,
    through_lse: bool = True,
    call: Callable[..., tuple[Tensor, Tensor]] | None = None,
    out_dtype: torch.dtype | None = None,
    device: torch.device = CPU,
    random: torch.Generator | None = None,
) -> list[Compared]:
    """Results and all gradients on the device, the exact ones and their bounds. `call` stands for case.ours, whose output is of
    `out_dtype`; `layout` is how q, k, v and d_out lie in memory."""
    plain = case.tensors(dtype, random)
    ours = leaves({name: layout(x.to(device)) if name in "qkv" else x.to(device) for name, x in plain.items()})
    out, lse = (call or case.ours)(ours)
    exact = leaves({name: x.double() if name in DIFFERENTIABLE else x for name, x in plain.items()})
    dense = case.exact(exact, kept)
    d_out, d_lse = (torch.randn(x.shape, dtype=torch.float64, generator=random).to(x.dtype) for x in (out, lse))
    count = 2 if through_lse else 1
    scale = case.dim**-0.5 if case.scale is None else case.scale
    known: dict[str, Any] = plain | {"scale_value": scale}
    by = definition.rounded_by(device, dtype)
    allowed = definition.bounds(dense, d_out, d_lse if through_lse else None, known, case.rule, kept, by)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    found = [
        Compared("output", out, dense.out, allowed.out, out_dtype or dtype),
        Compared("log-sum-exp", lse, dense.lse, allowed.lse, sums),
    ]
    got = gradients((out, lse)[:count], ours, (layout(d_out.to(device)), d_lse.to(device))[:count])
    finite = torch.where(dense.lse.isfinite(), dense.lse, 0.0)
    want = gradients((dense.out, finite)[:count], exact, (d_out.double(), d_lse.double())[:count])
    return found + [Compared(f"gradient of {n}", x, want[n], getattr(allowed, n), plain[n].dtype) for n, x in got.items()]

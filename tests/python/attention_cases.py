"""tests/python/attention_cases.py: calls of fused attention that the tests go through, and how one is compared with its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import attention_oracle
from attention_oracle import Dense, Rule
from oracle import check
from window_matmul import window_attention

DIFFERENTIABLE = ("q", "k", "v", "bias", "sinks")


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

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """q, k, v and the options that are tensors. A test's seed is its own, so these are always the same."""

        def normal(*shape: int, of: torch.dtype = dtype) -> Tensor:
            return torch.randn(shape, dtype=torch.float64).to(of)

        tensors = {
            "q": normal(self.batch, self.heads, self.queries, self.dim),
            "k": normal(self.batch, self.kv_heads, self.keys, self.dim),
            "v": normal(self.batch, self.kv_heads, self.keys, self.value_dim),
        }
        logits = torch.float32 if self.wide_bias else dtype
        if self.bias:
            shape = (self.heads,) if self.bias == "slots" else (self.batch, self.heads, self.queries)
            bias = normal(*shape, self.rule.width, of=logits)
            tensors["bias"] = bias.masked_fill(torch.rand(bias.shape) < 0.3, -torch.inf) if self.hides else bias
        if self.sinks:
            tensors["sinks"] = normal(self.heads, of=logits)
        if self.key_mask:
            tensors["key_mask"] = torch.rand(self.batch, self.keys) < 0.7
        if self.global_mask:
            tensors["global_tokens"] = torch.rand(self.batch, self.keys) < 0.25
        if self.key_lengths:  # the first entry has as many keys as queries where it can
            lengths = torch.randint(self.keys + 1, (self.batch,))
            tensors["key_lengths"] = lengths.index_fill(0, torch.arange(min(self.batch, 1)), min(self.queries, self.keys)).int()
        if self.offsets:  # and is aligned with these
            offsets = torch.randint(-self.queries - 2, self.keys + 3, (self.batch,))
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
        return window_attention(**tensors, **self.numbers(), **more, window_size=self.window, return_lse=True)

    def exact(self, tensors: dict[str, Tensor], kept: Tensor | None = None) -> Dense:
        numbers = {name: value for name, value in self.numbers().items() if name not in ("dilation", "query_offset")}
        return attention_oracle.attend(**tensors, rule=self.rule, kept=kept, **numbers)


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, those with a gradient as leaves."""
    return {name: x.detach().requires_grad_() if name in DIFFERENTIABLE else x for name, x in tensors.items()}


def gradients(results: tuple[Tensor, ...], tensors: dict[str, Tensor], cotangents: tuple[Tensor, ...]) -> dict[str, Tensor]:
    names = [name for name in DIFFERENTIABLE if name in tensors]
    return dict(zip(names, torch.autograd.grad(results, [tensors[name] for name in names], cotangents), strict=True))


def check_case(
    case: Case,
    dtype: torch.dtype,
    layout: Callable[[Tensor], Tensor] = lambda x: x,
    kept: Tensor | None = None,
    through_lse: bool = True,
    call: Callable[..., tuple[Tensor, Tensor]] | None = None,
    out_dtype: torch.dtype | None = None,
) -> None:
    """Results and all gradients within their bounds. `call` stands for case.ours, whose output is of `out_dtype`; `layout` is how q, k, v
    and d_out lie in memory."""
    plain = case.tensors(dtype)
    ours = leaves({name: layout(x) if name in "qkv" else x for name, x in plain.items()})
    out, lse = (call or case.ours)(ours)
    exact = leaves({name: x.double() if name in DIFFERENTIABLE else x for name, x in plain.items()})
    dense = case.exact(exact, kept)
    d_out, d_lse = torch.randn_like(out, memory_format=torch.contiguous_format), torch.randn_like(lse) if through_lse else None
    scale = case.dim**-0.5 if case.scale is None else case.scale
    known: dict[str, Any] = plain | {"scale_value": scale}
    allowed = attention_oracle.bounds(dense, d_out, d_lse, known, case.rule, kept)
    check(out, dense.out.detach(), allowed.out, out_dtype or dtype)
    check(lse, dense.lse.detach(), allowed.lse, torch.float64 if dtype == torch.float64 else torch.float32)
    count = 2 if through_lse else 1
    got = gradients((out, lse)[:count], ours, (layout(d_out), d_lse)[:count])
    finite = torch.where(dense.lse.isfinite(), dense.lse, 0.0)
    want = gradients((dense.out, finite)[:count], exact, (d_out.double(), None if d_lse is None else d_lse.double())[:count])
    for name, gradient in got.items():
        check(gradient, want[name], getattr(allowed, name), plain[name].dtype)


# ---- each option alone, then some together ---------------------------------------------------------------------------------------------
def _cases() -> list[Case]:
    windows = [(2, 1), (0, 0), (3, 0), (0, 3), (100, 100), (None, None), (None, 0), (2, None), (None, 1)]
    cases = [Case(Rule(*window)) for window in windows]
    cases += [Case(Rule(2, 1, dilation)) for dilation in (2, 3, 50, 2**60, (1, 3), (2, 2))]
    cases += [Case(Rule(None, None, 2)), Case(Rule(None, 0, (1, 3)))]
    cases += [Case(Rule(2, 1, query_offset=offset)) for offset in (0, 5, -3, 9, -8, 2**60, -(2**60))]
    cases += [Case(Rule(2, 1, 2**60, query_offset=2**60)), Case(Rule(2, 1, 2**60, query_offset=-(2**60)), 9, 12)]
    cases += [Case(Rule(None, 0, query_offset=2**60)), Case(Rule(0, None, 2, query_offset=-(2**60)))]
    cases += [Case(Rule(2**58, 2**58)), Case(Rule(2**58, 2**40, (3, 2**50)), global_tokens=2)]
    cases += [Case(Rule(3, 0, query_offset=-2)), Case(Rule(None, 0, query_offset=4)), Case(Rule(2, 2, 2, query_offset=1))]
    base = Case(Rule(2, 1))
    cases += [replace(base, scale=scale) for scale in (0.0, 1.0, -0.3, 8.0)] + [replace(base, softcap=cap) for cap in (0.5, 30.0)]
    cases += [replace(base, key_mask=True), replace(base, sinks=True), replace(base, sinks=True, wide_bias=True)]
    for bias in ("slots", "full"):
        cases += [replace(base, bias=bias), replace(base, bias=bias, hides=True), replace(base, bias=bias, wide_bias=True)]
        cases += [replace(base, bias=bias, rule=Rule(2, 1, (1, 3))), replace(base, bias=bias, rule=Rule(20, 30))]
    for lengths in ({}, {"queries": 9}, {"queries": 9, "rule": Rule(2, 0)}, {"rule": Rule(2, 0)}, {"queries": 9, "rule": Rule(1, 1, 3)}):
        cases += [replace(base, global_tokens=g, **lengths) for g in (1, 3, 2**40)] + [replace(base, global_mask=True, **lengths)]
    same = replace(base, queries=9)
    cases += [replace(same, global_tokens=2, rule=Rule(2, 1, query_offset=offset)) for offset in (0, 1, -2)]
    cases += [replace(same, global_mask=True, rule=Rule(0, 0, query_offset=offset)) for offset in (0, 2, -2)]
    cases += [
        replace(same, global_mask=True, rule=Rule(None, None)),
        replace(same, global_tokens=4, bias="slots", hides=True, key_mask=True),
    ]
    for own in ({"key_lengths": True}, {"offsets": True}, {"key_lengths": True, "offsets": True}):
        cases += [replace(base, batch=3, bias=bias, **own) for bias in ("", "slots", "full")]
        cases += [replace(base, batch=3, rule=rule, global_tokens=2, **own) for rule in (Rule(2, 1), Rule(None, 0), Rule(1, 1, (1, 3)))]
        cases += [replace(base, batch=3, queries=2, kv_heads=1, rule=Rule(None, None), sinks=True, key_mask=True, global_mask=True, **own)]
    cases += [replace(base, key_lengths=True, rule=Rule(2, 1, query_offset=1))]
    cases += [replace(base, kv_heads=1), replace(base, heads=6, kv_heads=2), replace(base, heads=6, kv_heads=3, sinks=True, bias="slots")]
    cases += [replace(base, dim=d, value_dim=dv) for d, dv in ((1, 1), (17, 5), (64, 64), (5, 33), (130, 96))]
    everything = Case(Rule(2, 1, (1, 2)), 9, 9, 2, 2, 1, 5, 6, 0.7, 2.0, "full", False, True, True, True, None, True)
    cases += [everything, replace(everything, bias="slots", queries=5), replace(everything, rule=Rule(3, 0)), replace(everything, keys=40)]
    cases += [
        Case(Rule(9, 4), 70, 70, 1, 2, 1, 33, 32),
        Case(Rule(16, 16), 130, 130, 1, 1, 1, 64, 64),
        Case(Rule(40, 0), 33, 97, 1, 2, 2, 8, 8),
    ]
    return cases


# Few, for what is costly to test and does not depend on the kernel.
OPTIONS_TOGETHER = [
    Case(Rule(2, 1)),
    Case(Rule(None, 0), 9, 9, heads=4, kv_heads=2, sinks=True, softcap=2.0),
    Case(Rule(1, 2, (1, 3)), bias="full", key_mask=True),
    Case(Rule(2, 1), 9, 9, bias="slots", sinks=True, global_mask=True, scale=0.5),
    Case(Rule(2, 1), 9, 9, global_tokens=3),
    Case(Rule(None, 1), batch=3, key_lengths=True, offsets=True),
]
CASES = _cases()
EMPTY = [
    replace(Case(Rule(2, 1), bias="slots", sinks=True, key_mask=True, global_tokens=1), **{name: 0})
    for name in ("queries", "keys", "batch", "dim", "value_dim")
]
EMPTY = [replace(case, scale=0.5) for case in EMPTY] + [
    replace(EMPTY[0], heads=0, kv_heads=0),
    replace(EMPTY[0], queries=3, keys=0, bias="full"),
]


# ---- all together --------------------------------------------------------------------------------------------------------------------
lengths = st.integers(0, 12) | st.sampled_from([15, 16, 17, 31, 33])
dims = st.integers(0, 9) | st.sampled_from([15, 16, 17, 31, 32, 33, 64, 65])
sides = st.integers(0, 6) | st.sampled_from([15, 16, 40])
distances = st.integers(1, 4) | st.sampled_from([1, 1, 1, 20])


@st.composite
def random_cases(draw: st.DrawFn) -> Case:
    bias = draw(st.sampled_from(["", "", "slots", "full"]))
    side = sides if bias else st.none() | sides | sides | sides
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries = draw(lengths)
    keys = draw(st.just(queries) | lengths)
    dilation = draw(distances) if draw(st.booleans()) else tuple(draw(distances) for _ in range(kv_heads * group))
    offset = draw(st.none() | st.none() | st.integers(-queries - 4, keys + 4))
    dim = draw(dims)
    own = draw(st.sampled_from(["", "", "key_lengths", "offsets", "both"]))
    what_is_global = draw(st.sampled_from(["", "", "number", "mask"]))
    return Case(
        Rule(draw(side), draw(st.just(0) | side), dilation, None if own in ("offsets", "both") else offset),
        queries,
        keys,
        batch=draw(st.integers(1, 3)),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        dim=dim,
        value_dim=draw(dims),
        scale=draw((st.none() if dim else st.nothing()) | st.sampled_from([0.5, -0.2, 1.0, 3.0])),
        softcap=draw(st.sampled_from([0.0, 0.0, 1.5, 20.0])),
        bias=bias,
        wide_bias=draw(st.booleans()),
        hides=draw(st.booleans()),
        sinks=draw(st.booleans()),
        key_mask=draw(st.booleans()),
        global_tokens=draw(st.integers(0, keys + 2)) if what_is_global == "number" else None,
        global_mask=what_is_global == "mask",
        key_lengths=own in ("key_lengths", "both"),
        offsets=own in ("offsets", "both"),
    )

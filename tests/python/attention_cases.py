"""tests/python/attention_cases.py: calls of fused attention that the tests go through, and how one is compared with its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

from attention_oracle import Rule
from oracle import check
from window_matmul.testing.attention_cases import DIFFERENTIABLE, Case, compared, gradients, leaves

__all__ = ["CASES", "DIFFERENTIABLE", "EMPTY", "OPTIONS_TOGETHER", "Case", "check_case", "gradients", "leaves", "random_cases"]


def check_case(case: Case, dtype: torch.dtype, *arguments: Any, **options: Any) -> None:
    """Results and all gradients within their bounds; the arguments are those of `compared`."""
    for found in compared(case, dtype, *arguments, **options):
        check(found.actual, found.exact.detach(), found.bound, found.dtype)


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

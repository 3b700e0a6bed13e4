# python/window_matmul/testing/fused_values.py: checks of fused attention's results and gradients, with every option, by the definition.
from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from ..cache import RollingCache
from . import definition
from .attention_cases import Case, Compared, compared, gradients, leaves
from .bounds import DTYPES
from .definition import Rule
from .outcome import Budget, Outcome


def add(outcome: Outcome, where: str, found: list[Compared]) -> None:
    for c in found:
        outcome.close(f"{c.name}, {where}", c.actual, c.exact, c.bound, c.dtype)


def check(outcome: Outcome, case: Case, dtype: torch.dtype, device: torch.device, random: torch.Generator, **options: Any) -> None:
    add(outcome, f"{case}, {dtype}", compared(case, dtype, device=device, random=random, **options))


# ---- options ------------------------------------------------------------------------------------------------------------------------
def each(queries: int, keys: int, left: int, right: int) -> list[Case]:
    """Each option alone."""
    base = Case(Rule(left, right), queries, keys, dim=24, value_dim=16)
    rules = [Rule(left, 0), Rule(None, right), Rule(left, None), Rule(None, None), Rule(left, right, 3), Rule(left, right, (1, 3))]
    found = [base, *(replace(base, rule=rule) for rule in [*rules, Rule(left, right, query_offset=-4)])]
    more: list[dict[str, Any]] = [
        {"scale": 0.7}, {"scale": -0.4}, {"softcap": 1.5}, {"key_mask": True}, {"kv_heads": 1}, {"sinks": True},
        {"sinks": True, "wide_bias": True}, {"bias": "slots"}, {"bias": "full"}, {"bias": "slots", "hides": True},
        {"bias": "full", "hides": True}, {"bias": "full", "wide_bias": True}, {"key_lengths": True}, {"offsets": True},
    ]  # fmt: skip
    for own in ({"global_tokens": 3}, {"global_mask": True}):
        more += [own, own | {"keys": queries}, own | {"rule": Rule(left, 0)}]
    return found + [replace(base, **changes) for changes in more]


def each_option(device: torch.device, budget: Budget) -> Outcome:
    """Every option alone, on more than a block of rows and several tiles; each dtype; all gradients, that of the log-sum-exp too."""
    outcome, random = Outcome("fused attention, each option"), budget.random()
    for case in each(140, 150, 20, 9) if budget.thorough else each(17, 21, 4, 2):
        for dtype in DTYPES if budget.thorough else DTYPES[:3]:
            check(outcome, case, dtype, device, random)
    shared = Case(Rule(20, 9, (1, 3)), 60, 70, kv_heads=1, dim=24, value_dim=16)  # on a GPU sums of parts, in halves rounded once more
    for dtype in (torch.float64, torch.float32):
        check(outcome, shared, dtype, device, random)
    return outcome


def _together(n: int) -> list[Case]:
    everything = Case(Rule(9, 4, (1, 2)), n, n, 2, 2, 2, 24, 16, 0.7, 2.0, "full", False, True, True, True, None, True)
    return [
        everything,
        replace(everything, bias="slots", queries=n - 7, kv_heads=1, rule=Rule(9, 4, 2)),
        replace(everything, rule=Rule(9, 0), kv_heads=1, key_lengths=True, offsets=True),
        Case(Rule(None, 0), n, n, heads=4, kv_heads=2, sinks=True, softcap=2.0, key_lengths=True),
        Case(Rule(6, 6), n, n, global_tokens=3, key_mask=True, bias="slots", hides=True, wide_bias=True),
    ]


def random_case(random: torch.Generator, largest: int) -> Case:
    """Any options together; heads of their own dilation have keys of their own."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=random))

    def now_and_then(of: int = 3) -> bool:
        return number(1, of) == 1

    queries, kv_heads, group = number(1, largest), number(1, 2), number(1, 2)
    bias = ("", "", "slots", "full")[number(0, 3)]
    sides = [None if not bias and now_and_then(5) else number(0, largest // 2) for _ in range(2)]
    dilation: int | tuple[int, ...] = 1 if number(0, 1) else number(2, 4)
    if group == 1 and now_and_then():
        dilation = tuple(number(1, 4) for _ in range(kv_heads))
    keys = queries if number(0, 1) else number(1, largest)
    offset = number(-queries, keys) if now_and_then(4) else None
    which = number(0, 3)
    return Case(
        Rule(sides[0], 0 if now_and_then() else sides[1], dilation, offset), queries, keys, number(1, 2), kv_heads * group, kv_heads,
        number(1, 64), number(1, 64), 0.5 if now_and_then() else None, 3.0 if now_and_then() else 0.0, bias, now_and_then(),
        now_and_then(), now_and_then(), now_and_then(), number(0, 4) if which == 1 else None, which == 2, now_and_then(4),
        offset is None and now_and_then(4),
    )  # fmt: skip


def options_together(device: torch.device, budget: Budget) -> Outcome:
    """Some chosen, then anything, until the time is up; twelve cases in any case."""
    outcome, random, end = Outcome("fused attention, options together"), budget.random(), time.perf_counter() + budget.seconds
    for case in _together(133 if budget.thorough else 19):
        for dtype in DTYPES:
            check(outcome, case, dtype, device, random)
    number = 0
    while number < 12 or time.perf_counter() < end:
        check(outcome, random_case(random, 150 if budget.thorough else 20), DTYPES[number % 4], device, random)
        number += 1
    return outcome


# ---- sizes --------------------------------------------------------------------------------------------------------------------------
def sizes(device: torch.device, budget: Budget) -> Outcome:
    """Lengths around the sizes of blocks, windows narrower and wider than these, head dims up to the largest, empty sizes; then rows and
    keys here and there of long sequences."""
    outcome, random = Outcome("fused attention, sizes"), budget.random()
    chosen = [Case(Rule(*w), n, n, 1, dim=24, value_dim=16) for n in (1, 63, 130, 200) for w in ((0, 0), (16, 3), (64, 64), (300, 300))]
    chosen += [Case(Rule(20, 20), 40, 90, 1, dim=d, value_dim=dv) for d, dv in ((64, 64), (65, 40), (40, 128), (128, 128))]
    for case in chosen if budget.thorough else chosen[2:12:3] + chosen[-3:]:
        for dtype in DTYPES:
            if _is_too_long(device, case, dtype):
                outcome.left_out.append(f"head dim {max(case.dim, case.value_dim)} in {dtype}, this GPU has no room for its tiles")
                continue
            check(outcome, case, dtype, device, random)
    for dtype in (torch.bfloat16, torch.float16):
        check(outcome, Case(Rule(20, 20), 40, 90, 1, dim=256, value_dim=256), dtype, device, random)
    for lq, lk, d, dv in ((0, 5, 3, 2), (5, 0, 3, 2), (5, 5, 0, 2), (5, 5, 3, 0)):
        check(outcome, Case(Rule(2, 1), lq, lk, dim=d, value_dim=dv, scale=0.5), torch.float32, device, random)
    long = [(4096, 128, 128, 64), (3000, 512, 0, 128)] if budget.thorough else [(700, 40, 9, 16)]
    for length, left, right, dim in long:
        for dtype in DTYPES if dim <= 64 else DTYPES[1:]:
            _check_pieces(outcome, Rule(left, right), length, dim, dtype, device, random)
    return outcome


def _is_too_long(device: torch.device, case: Case, dtype: torch.dtype) -> bool:
    """fp64 beyond 64 needs 160 KiB of shared memory."""
    if device.type != "cuda" or dtype != torch.float64 or max(case.dim, case.value_dim) <= 64:
        return False
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)) < 160 << 10


def _check_pieces(
    outcome: Outcome, rule: Rule, length: int, dim: int, dtype: torch.dtype, device: torch.device, random: torch.Generator
) -> None:
    """Of self attention: 32 rows and as many keys at the ends and in the middle, from the queries that see these keys and all that those
    see."""
    assert rule.left is not None and rule.right is not None
    case = Case(rule, length, length, 1, 4, 2, dim, dim)
    plain = case.tensors(dtype, random)
    ours = leaves({name: x.to(device) for name, x in plain.items()})
    out, lse = case.ours(ours)
    d_out, d_lse = (torch.randn(x.shape, generator=random).to(x.dtype) for x in (out, lse))
    got = {"out": out, "lse": lse} | gradients((out, lse), ours, (d_out.to(device), d_lse.to(device)))
    for first in (0, length // 2, length - 32):
        i, j = (max(0, first - n) for n in (rule.right, rule.right + rule.left))
        rows = slice(i, min(length, first + 32 + rule.left))
        keys = slice(j, min(length, rows.stop + rule.right))
        own = replace(rule, query_offset=i - j)
        given = {"q": plain["q"][:, :, rows], "k": plain["k"][:, :, keys], "v": plain["v"][:, :, keys]}
        exact = leaves({name: x.double() for name, x in given.items()})
        dense = definition.attend(**exact, rule=own)
        cotangents = d_out[:, :, rows], d_lse[:, :, rows]
        known: dict[str, Any] = given | {"scale_value": dim**-0.5}
        bounds = definition.bounds(dense, *cotangents, known, own, None, definition.rounded_by(device, dtype))
        want = {"out": dense.out, "lse": dense.lse}
        want |= gradients((dense.out, dense.lse), exact, (cotangents[0].double(), cotangents[1].double()))
        for name, x in want.items():
            begin = first - (j if name in "kv" else i)
            where, there = slice(first, first + 32), slice(begin, begin + 32)
            sums = got[name].dtype if name == "lse" else dtype
            text = f"{name}, rows from {first} of {length}, window {rule.left}+{rule.right}, {dtype}"
            outcome.close(text, got[name][:, :, where], x[:, :, there], getattr(bounds, name)[:, :, there], sums)


def few_queries(device: torch.device, budget: Budget) -> Outcome:
    """Up to 16 queries at the end of many keys, and a cache that is given them one after another."""
    outcome, random = Outcome("fused attention, few queries"), budget.random()
    keys = 1100 if budget.thorough else 150
    for queries in (1, 3, 16):
        base = Case(Rule(keys // 2, 0), queries, keys, 2, 4, 2, 24, 16)
        chosen = [base, replace(base, rule=Rule(None, 0), sinks=True, softcap=2.0), replace(base, key_lengths=True, global_tokens=2)]
        chosen += [replace(base, bias="slots"), replace(base, key_mask=True, offsets=True, rule=Rule(None, None))]
        for case in chosen:
            for dtype in DTYPES if budget.thorough else DTYPES[:2]:
                check(outcome, case, dtype, device, random)
    for dtype in (torch.float32, torch.bfloat16):
        _check_cache(outcome, dtype, device, random)
    return outcome


def _check_cache(outcome: Outcome, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> None:
    case = Case(Rule(16, 0), 60, 60, 2, 4, 2, 32, 16)
    plain = case.tensors(dtype, random)
    dense = case.exact(plain)
    known: dict[str, Any] = plain | {"scale_value": case.dim**-0.5}
    bounds = definition.bounds(dense, torch.zeros_like(dense.out), None, known, case.rule, None, definition.rounded_by(device, dtype))
    cache = RollingCache(2, 2, 32, (16, 0), value_head_dim=16, dtype=dtype, device=device)
    begin = 0
    for count in (40, 1, 1, 3, 15):
        rows = slice(begin, begin + count)
        out = cache.attend(*(plain[name][:, :, rows].to(device) for name in "qkv"))
        outcome.close(f"cache, queries from {begin}, {dtype}", out, dense.out[:, :, rows], bounds.out[:, :, rows], dtype)
        begin += count


def matmul_precision(device: torch.device, budget: Budget) -> Outcome:
    """torch's float32 precision: plain products for "highest"; "high" and "medium" may split factors in two, no less."""
    outcome, before = Outcome("fused attention, float32 matmul precision"), torch.get_float32_matmul_precision()
    n = 140 if budget.thorough else 40
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            for case in (
                Case(Rule(20, 9), n, n, 1, dim=64, value_dim=64),
                Case(Rule(9, 40), n, n + 20, 1, dim=33, value_dim=100, softcap=3.0),
            ):
                add(outcome, f"{case}, {precision}", compared(case, torch.float32, device=device, random=budget.random()))
    finally:
        torch.set_float32_matmul_precision(before)
    return outcome


def under_tools(device: torch.device, budget: Budget) -> Outcome:
    """A few small cases in each dtype, with gradients: plain, with options, few queries."""
    outcome, random = Outcome("fused attention, few"), budget.random()
    plain = Case(Rule(9, 4), 70, 75, 1, dim=33, value_dim=20)
    for case in (plain, replace(plain, queries=3, keys=600, rule=Rule(None, 0)), _together(40)[1]):
        for dtype in DTYPES:
            check(outcome, case, dtype, device, random)
    return outcome

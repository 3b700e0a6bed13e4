"""tests/python/test_attention_confinement.py: what a query does not see never influences its row, NaN and infinities included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attention_cases import Case, gradients, leaves
from attention_oracle import Rule
from oracle import DTYPES
from window_matmul import window_attention_varlen

OPERATOR = "attention"
GARBAGE = (torch.nan, torch.inf, -torch.inf)
CASES = [
    Case(Rule(2, 1), 9, 9),
    Case(Rule(3, 0), 9, 12, heads=4, kv_heads=2, softcap=2.0),
    Case(Rule(1, 2, (1, 3)), 12, 12, bias="slots", sinks=True),
    Case(Rule(2, 2), 40, 40, dim=17, value_dim=9, key_mask=True),
    Case(Rule(1, 1), 9, 9, global_tokens=1, bias="full", hides=True),
    Case(Rule(1, 0), 12, 12, global_mask=True),
    Case(Rule(2, 1, query_offset=3), 9, 9),
    Case(Rule(17, 3), 70, 66, batch=1, dim=8),
]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_case = pytest.mark.parametrize("case", CASES, ids=str)


def everything(case: Case, tensors: dict[str, Tensor], d_out: Tensor) -> dict[str, Tensor]:
    leaf = leaves(tensors)
    out, lse = case.ours(leaf)
    return {"out": out, "lse": lse} | {f"d_{name}": g for name, g in gradients((out,), leaf, (d_out,)).items()}


def same_where(clean: Tensor, dirty: Tensor, unaffected: Tensor) -> None:
    assert torch.equal(clean[unaffected], dirty[unaffected])


@by_dtype
@by_case
def test_a_key_or_value_reaches_only_queries_that_see_it(backend: str, case: Case, dtype: torch.dtype) -> None:
    """Nor, through these, more than the keys that such queries see."""
    tensors = case.tensors(dtype)
    d_out = torch.randn(case.batch, case.heads, case.queries, case.value_dim).to(dtype)
    clean = everything(case, tensors, d_out)
    visible = case.exact(tensors).visible
    group = case.heads // case.kv_heads
    for n, j in enumerate({0, 1, case.keys // 2, case.keys - 1}):
        for name in "kv":
            poisoned = tensors[name].clone()
            poisoned[-1, 0, j, n % poisoned.shape[-1]] = GARBAGE[n % 3]
            dirty = everything(case, tensors | {name: poisoned}, d_out)
            hit = torch.zeros_like(visible[..., 0])
            hit[-1, :group] = visible[-1, :group, :, j]
            for result in ("out", "d_q") if name == "k" else ("out",):
                same_where(clean[result], dirty[result], ~hit)
            same_where(clean["lse"], dirty["lse"], ~hit)
            same_where(clean["d_q"], dirty["d_q"], ~hit)
            reached = (hit[..., None] & visible).any(-2).unflatten(1, (case.kv_heads, group)).any(2)
            reached[-1, 0, j] = True
            same_where(clean["d_k"], dirty["d_k"], ~reached)
            same_where(clean["d_v"], dirty["d_v"], ~reached)


@by_dtype
@by_case
def test_a_query_reaches_only_keys_that_it_sees(backend: str, case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    d_out = torch.randn(case.batch, case.heads, case.queries, case.value_dim).to(dtype)
    clean = everything(case, tensors, d_out)
    visible = case.exact(tensors).visible
    group = case.heads // case.kv_heads
    for n, i in enumerate({0, case.queries // 2, case.queries - 1}):
        own = torch.zeros_like(visible[..., 0])
        own[0, -1, i] = True
        reached = (own[..., None] & visible).any(-2).unflatten(1, (case.kv_heads, group)).any(2)
        for x in (tensors["q"], d_out):
            poisoned = x.clone()
            poisoned[0, -1, i, -1] = GARBAGE[n % 3]
            dirty = everything(case, tensors | {"q": poisoned}, d_out) if x is not d_out else everything(case, tensors, poisoned)
            for result in ("out", "lse", "d_q"):
                same_where(clean[result], dirty[result], ~own)
            for result in ("d_k", "d_v"):
                same_where(clean[result], dirty[result], ~reached)


@by_dtype
def test_padding(backend: str, dtype: torch.dtype) -> None:
    """Keys that nobody may see, by the mask or a bias of -inf, hold anything: the same bits as with zeros, and no gradient."""
    for case in (CASES[3], replace(CASES[3], rule=Rule(None, None)), replace(CASES[0], key_mask=True, global_mask=True, sinks=True)):
        tensors = case.tensors(dtype)
        d_out = torch.randn(case.batch, case.heads, case.queries, case.value_dim).to(dtype)
        hidden = ~tensors["key_mask"][:, None, :, None]
        clean = everything(case, {n: x.masked_fill(hidden, 0) if n in "kv" else x for n, x in tensors.items()}, d_out)
        for garbage in GARBAGE:
            dirty = everything(case, {n: x.masked_fill(hidden, garbage) if n in "kv" else x for n, x in tensors.items()}, d_out)
            assert all(torch.equal(clean[name], dirty[name]) for name in clean)
        assert not clean["d_k"][hidden.expand_as(clean["d_k"])].any() and not clean["d_v"][hidden.expand_as(clean["d_v"])].any()
    for options in ({"global_mask": True, "sinks": True}, {"offsets": True, "bias": "slots", "key_mask": True}):
        case = replace(CASES[0], batch=3, keys=40, key_lengths=True, **options)
        tensors = case.tensors(dtype)
        d_out = torch.randn(case.batch, case.heads, case.queries, case.value_dim).to(dtype)
        behind = torch.arange(case.keys) >= tensors["key_lengths"][:, None]
        clean = everything(case, tensors, d_out)
        masks = {n: x ^ behind for n, x in tensors.items() if x.dtype == torch.bool}
        for garbage in GARBAGE:
            poisoned = {n: tensors[n].masked_fill(behind[:, None, :, None], garbage) for n in "kv"}
            dirty = everything(case, tensors | masks | poisoned, d_out)
            assert all(torch.equal(clean[name], dirty[name]) for name in clean)
        assert not any(clean[f"d_{n}"].transpose(1, 2)[behind].any() for n in "kv")
    case = Case(Rule(2, 1), 9, 9, batch=1, heads=1, kv_heads=1, bias="full")
    tensors = case.tensors(dtype)
    inside, tap = case.rule.taps(1, 9, 9)
    for i in range(9):  # key 4 is hidden from each query, slot by slot
        if inside[0, i, 4]:
            tensors["bias"][0, 0, i, tap[0, i, 4] + 2] = -torch.inf
    d_out = torch.randn(1, 1, 9, 3).to(dtype)
    clean = everything(case, tensors, d_out)
    for garbage in GARBAGE:
        dirty = everything(case, {n: x.index_fill(2, torch.tensor(4), garbage) if n in "kv" else x for n, x in tensors.items()}, d_out)
        assert all(torch.equal(clean[name], dirty[name]) for name in clean)


@by_dtype
@pytest.mark.parametrize("kind", ["slots", "full"])
def test_slots_outside_the_sequence_are_ignored(backend: str, kind: str, dtype: torch.dtype) -> None:
    for case in (Case(Rule(4, 3), 6, 6, bias=kind), Case(Rule(2, 5, 3), 9, 12, bias=kind, global_tokens=2)):
        tensors = case.tensors(dtype)
        inside, tap = case.rule.taps(case.heads, case.queries, case.keys)
        slot = torch.where(inside, tap + case.rule.left, case.rule.width)
        used = torch.zeros(case.heads, case.queries, case.rule.width + 1, dtype=torch.bool).scatter(-1, slot, True)[..., :-1]
        unused = ~used.any(1) if kind == "slots" else ~used.expand(tensors["bias"].shape)
        if kind == "full":
            assert unused.any()
        d_out = torch.randn(case.batch, case.heads, case.queries, case.value_dim).to(dtype)
        clean = everything(case, tensors, d_out)
        assert not clean["d_bias"][unused].any()
        for garbage in (*GARBAGE, 1e4):
            dirty = everything(case, tensors | {"bias": tensors["bias"].masked_fill(unused, garbage)}, d_out)
            assert all(torch.equal(clean[name], dirty[name]) for name in clean)


@by_dtype
def test_packed_sequences_know_nothing_of_each_other(backend: str, dtype: torch.dtype) -> None:
    lengths = [5, 9, 3, 17]
    cu = torch.tensor([0, *lengths]).cumsum(0)
    tensors = [torch.randn(34, 2, 4).to(dtype) for _ in range(3)]
    d_out = torch.randn(34, 2, 4).to(dtype)

    def results(tensors: list[Tensor]) -> list[Tensor]:
        leaf = [x.clone().requires_grad_() for x in tensors]
        out = window_attention_varlen(*leaf, cu, cu, (None, 2), global_tokens=1)
        return [out, *torch.autograd.grad(out, leaf, d_out)]

    clean = results(tensors)
    other = torch.ones(34, dtype=torch.bool)
    other[5:14] = False
    for n in range(3):
        for garbage in GARBAGE:
            dirty = results([x.masked_fill(~other[:, None, None], garbage) if m == n else x for m, x in enumerate(tensors)])
            assert all(torch.equal(x[other], y[other]) for x, y in zip(clean, dirty, strict=True))

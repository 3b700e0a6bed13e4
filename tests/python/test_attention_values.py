"""tests/python/test_attention_values.py: window_attention and all its gradients against the definition: options, dtypes, layouts, sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attention_cases import CASES, EMPTY, Case, check_case, gradients, leaves
from attention_oracle import Rule
from cases import LAYOUTS
from oracle import DTYPES
from window_matmul import Window, window_attention

OPERATOR = "attention"
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@by_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_gradients(backend: str, case: Case, dtype: torch.dtype) -> None:
    check_case(case, dtype)


@by_dtype
@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_zero_sizes(backend: str, case: Case, dtype: torch.dtype) -> None:
    check_case(case, dtype)


@by_dtype
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_layouts(backend: str, layout: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """The memory around the elements is NaN. The same bits, whatever the layout."""
    for case in (CASES[0], Case(Rule(5, 3, 2), 40, 33, heads=4, dim=9, value_dim=17, bias="full", key_mask=True)):
        tensors = case.tensors(dtype)
        expected = case.ours(tensors)
        moved = {name: layout(x) if x.ndim > 1 else x for name, x in tensors.items() if x.dtype != torch.bool}
        for got, want in zip(case.ours(tensors | moved), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
        check_case(case, dtype, layout)


LONG = [
    Case(Rule(60, 43), 700, 700, batch=1, heads=4, dim=16, value_dim=20),
    Case(Rule(50, 50, 3), 900, 890, batch=1, dim=9, value_dim=16, global_tokens=3, sinks=True),
    Case(Rule(120, 0), 600, 620, batch=1, heads=4, kv_heads=2, dim=16, value_dim=32, key_mask=True),
]


@by_dtype
@pytest.mark.parametrize("case", LONG, ids=str)
def test_heads_inside_a_row(backend: str, case: Case, dtype: torch.dtype) -> None:
    """(B, L, H, D) seen transposed: keys are copied into a ring, which these go around several times; or k or v alone. The same bits."""
    tensors = case.tensors(dtype)
    cotangents = tuple(torch.randn_like(x) for x in case.ours(tensors))
    found = []
    for moved in ("", "qkv", "k", "v"):
        inside = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in tensors.items() if name in tuple(moved)}
        given = leaves(tensors | inside)
        results = case.ours(given)
        found.append((*results, *gradients(results, given, cotangents).values()))
    assert found[1][0].stride() != found[0][0].stride()  # results lie as q lies
    for want, *others in zip(*found, strict=True):
        for got in others:
            torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_masks_may_be_views(backend: str) -> None:
    case = Case(Rule(2, 1), key_mask=True, global_mask=True, queries=9)
    tensors = case.tensors()
    expected = case.ours(tensors)
    moved = dict(tensors)
    for name in ("key_mask", "global_tokens"):
        mask = tensors[name]
        moved[name] = torch.stack([~mask, mask, ~mask], -1)[..., 1]
    assert all(torch.equal(x, y) for x, y in zip(case.ours(moved), expected, strict=True))
    for name in ("key_mask", "global_tokens"):
        row = tensors[name][:1]
        expanded, copied = (case.ours(tensors | {name: x}) for x in (row.expand(2, -1), row.repeat(2, 1)))
        assert torch.equal(expanded[0], copied[0])


def test_every_way_to_write_a_window(backend: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 8, 4)
    for same in (
        [2, (2, 2), [2, 2], Window(2, 2)],
        [(2, None), (2, -1), (2, 2**62), (2, 2**200), Window(2, None), (2, 7)],
        [None, (None, None), (-1, -1), (None, -1), 2**62, Window(None, None), 7],
        [(2**70, 0), (None, 0), (-1, 0)],
    ):
        results = [window_attention(q, k, v, window) for window in same]
        assert all(torch.equal(result, results[0]) for result in results)
    dilated = window_attention(q, k, v, (2, 1), dilation=3)
    for window, options in ((Window(2, 1, 3), {}), (Window(2, 1, 3), {"dilation": 3}), ((2, 1), {"dilation": (3, 3)})):
        assert torch.equal(window_attention(q, k, v, window, **options), dilated)


@by_dtype
@pytest.mark.parametrize(
    "case",
    [
        Case(Rule(None, None), 40, 700, batch=3, key_lengths=True, offsets=True, global_tokens=3),
        Case(Rule(9, None, 2), 70, 70, batch=3, heads=4, key_lengths=True, global_mask=True, sinks=True),
        Case(Rule(None, 0), 3, 1600, batch=3, heads=4, key_lengths=True, softcap=2.0),
        Case(Rule(4, 3), 30, 30, batch=3, key_lengths=True, offsets=True, bias="full"),
    ],
    ids=str,
)
def test_entries_are_calls_of_their_own(backend: str, case: Case, dtype: torch.dtype) -> None:
    """With as many keys and the offset as an int: bit for bit."""
    tensors = leaves(case.tensors(dtype))
    lengths = tensors["key_lengths"].tolist()
    offsets = tensors["query_offset"].tolist() if case.offsets else [None] * case.batch
    out, lse = case.ours(tensors)
    got = gradients((out,), tensors, (torch.ones_like(out),))
    for b, (length, offset) in enumerate(zip(lengths, offsets, strict=True)):
        one = {
            n: x.detach() if n == "sinks" else x[b : b + 1].detach() for n, x in tensors.items() if n not in ("key_lengths", "query_offset")
        }
        one = leaves({n: x[:, :, :length] if n in "kv" else x[:, :length] if x.dtype == torch.bool else x for n, x in one.items()})
        alone = case.ours(one, query_offset=offset)
        assert torch.equal(out[b], alone[0][0]) and torch.equal(lse[b], alone[1][0])
        for name, x in gradients((alone[0],), one, (torch.ones_like(alone[0]),)).items():
            if name != "sinks":
                assert torch.equal(got[name][b, :, : x.shape[2]], x[0]), name


def test_full_attention_is_that_of_torch(backend: str) -> None:
    q, k, v = torch.randn(3, 2, 3, 20, 8, dtype=torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(window_attention(q, k, v, None), expected)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(window_attention(q, k, v, (None, 0)), expected)


# ---- how results lie in memory -------------------------------------------------------------------------------------------------------
def test_results_lie_as_q_does(backend: str) -> None:
    def ours(transposed: bool) -> list[Tensor]:
        shapes = ((2, 7, 4, 5), (2, 9, 2, 5), (2, 9, 2, 3)) if transposed else ((2, 4, 7, 5), (2, 2, 9, 5), (2, 2, 9, 3))
        q, k, v = (torch.randn(shape, requires_grad=True) for shape in shapes)
        views = [x.transpose(1, 2) if transposed else x for x in (q, k, v)]
        out, lse = window_attention(*views, 2, return_lse=True)
        return [out, *torch.autograd.grad(out.sum() + lse.sum(), views), lse]

    *contiguous, lse = ours(False)
    assert all(x.is_contiguous() for x in (*contiguous, lse))
    *transposed, lse = ours(True)
    assert all(x.transpose(1, 2).is_contiguous() for x in transposed) and lse.is_contiguous()
    assert [x.shape for x in transposed] == [x.shape for x in contiguous]


@pytest.mark.best_backend
def test_q_k_and_v_are_not_copied(backend: str) -> None:
    """Neither as (B, L, H, D) transposed nor as parts of one projection: the most that is allocated is the result."""
    x = torch.randn(1, 64, 3, 4, 16)
    q, k, v = x.transpose(1, 3).unbind(2)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        window_attention(q, k, v, 2)
    grown = sum(event.self_cpu_memory_usage for event in profile.key_averages() if event.self_cpu_memory_usage > 0)
    assert 0 < grown <= 4 * (64 * 4 * 16 + 64 * 4) + 4096


# ---- queries that see nothing --------------------------------------------------------------------------------------------------------
@by_dtype
@pytest.mark.parametrize(
    "case",
    [
        Case(Rule(2, 1, query_offset=20)),
        Case(Rule(2, 1, query_offset=-20), sinks=True, bias="slots"),
        Case(Rule(1, 0, query_offset=-3), sinks=True),
        Case(Rule(0, 0), 20, 9),
        Case(Rule(None, 0), 12, 5, sinks=True, softcap=3.0),
    ],
    ids=str,
)
def test_queries_without_keys(backend: str, case: Case, dtype: torch.dtype) -> None:
    blind = ~case.exact(case.tensors(dtype)).visible.any(-1)
    assert blind.any()
    tensors = leaves(case.tensors(dtype))
    out, lse = case.ours(tensors)
    assert not out[blind].any() and (lse[blind] == -torch.inf).all() and lse[~blind].isfinite().all()
    got = gradients((out, lse), tensors, (torch.full_like(out, 1e3), torch.full_like(lse, 1e3)))
    assert all(gradient.isfinite().all() for gradient in got.values()) and not got["q"][blind].any()
    check_case(case, dtype)


@by_dtype
def test_everything_masked(backend: str, dtype: torch.dtype) -> None:
    """By the key mask, or by a bias of -inf: of one batch entry, of one head, of one query."""
    case = Case(Rule(2, 1), key_mask=True, sinks=True, bias="full")
    tensors = case.tensors(dtype)
    tensors["key_mask"][0] = False
    tensors["key_mask"][1] = True
    tensors["bias"][1, 0] = -torch.inf
    tensors["bias"][1, 1, 3] = -torch.inf
    tensors = leaves(tensors)
    out, lse = case.ours(tensors)
    blind = torch.zeros(2, 2, 7, dtype=torch.bool)
    blind[0], blind[1, 0], blind[1, 1, 3] = True, True, True
    assert not out[blind].any() and torch.equal(lse == -torch.inf, blind)
    got = gradients((out, lse), tensors, (torch.randn_like(out), torch.randn_like(lse)))
    assert all(gradient.isfinite().all() for gradient in got.values())
    assert not got["q"][blind].any() and not got["bias"][blind].any() and not got["k"][0].any() and not got["v"][0].any()

"""tests/python/doors/test_compat_flash_cache.py: flash_attn_with_kvcache against its documentation, entry by entry, dense in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flash_formula import SLOPES, allowed, assert_close, formula, uniform
from oracle import DTYPES, ROUNDING
from window_matmul.compat.flash_attn import flash_attn_with_kvcache

pytestmark = pytest.mark.best_backend

BATCH, ROWS, ROOM, HEADS, KV_HEADS, DIM = 2, 5, 16, 4, 2, 8
LENGTHS = torch.tensor([3, 9], dtype=torch.int32)
ROW_OF = torch.tensor([4, 1], dtype=torch.int32)
LEFTPAD = torch.tensor([2, 0], dtype=torch.int32)


def caches(rows: int = BATCH, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return uniform(rows, ROOM, KV_HEADS, DIM, dtype=dtype), uniform(rows, ROOM, KV_HEADS, DIM, dtype=dtype)


def angles(features: int, places: int = ROOM + 4) -> tuple[Tensor, Tensor]:
    turns = 6.3 * torch.rand(places, features // 2, dtype=torch.float64)
    return turns.cos(), turns.sin()


def turned(x: Tensor, at: list[int], cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x (L, H, D), token by token and pair by pair."""
    result, half = x.clone(), cos.shape[1]
    for token, place in enumerate(at):
        for pair in range(half):
            i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
            c, s = cos[place, pair], sin[place, pair]
            result[token, :, i] = x[token, :, i] * c - x[token, :, j] * s
            result[token, :, j] = x[token, :, i] * s + x[token, :, j] * c
    return result


def by_entry(q: Tensor, k_cache: Tensor, v_cache: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, lse and the caches afterwards."""
    k_cache, v_cache = k_cache.clone(), v_cache.clone()
    k, v, cos, sin = (options.pop(name, None) for name in ("k", "v", "rotary_cos", "rotary_sin"))
    lengths, rows, pads = (options.pop(f"cache_{name}", None) for name in ("seqlens", "batch_idx", "leftpad"))
    interleaved, slopes = options.pop("rotary_interleaved", True), options.pop("alibi_slopes", None)
    own_places = options.get("causal", False) or options.get("window_size", (-1, -1)) != (-1, -1)
    outs, lses = [], []
    for b in range(len(q)):
        row = b if rows is None else int(rows[b])
        used = ROOM if lengths is None else int(lengths if isinstance(lengths, int) else lengths[b])
        pad = 0 if pads is None else int(pads[b])
        query, total = q[b], used
        if k is not None:
            total = used + k.shape[1]
            key = k[b]
            if cos is not None:
                key = turned(key, list(range(used, total)), cos, sin, interleaved)
                places = [used + i if own_places else used for i in range(len(query))]
                query = turned(query, places, cos, sin, interleaved)
            k_cache[row, used:total], v_cache[row, used:total] = key, v[b]
        mine = slopes if slopes is None or slopes.ndim == 1 else slopes[b]
        seen = k_cache[None, row, pad:total], v_cache[None, row, pad:total]
        out, lse, _ = formula(query[None], *seen, **options, alibi_slopes=mine)
        outs.append(out[0])
        lses.append(lse[0])
    return torch.stack(outs), torch.stack(lses), k_cache, v_cache


def check(q: Tensor, k_cache: Tensor, v_cache: Tensor, **options: Any) -> None:
    expected = by_entry(q, k_cache, v_cache, **options)
    out, lse = flash_attn_with_kvcache(q, k_cache, v_cache, **options, return_softmax_lse=True)
    for result, want in zip((out, lse, k_cache, v_cache), expected, strict=True):
        assert_close(result, want)
    again = flash_attn_with_kvcache(q, k_cache, v_cache, **options)
    assert out.is_contiguous() and torch.equal(again, out)  # type: ignore[arg-type]  # the same tokens at the same places


PLACES: dict[str, dict[str, Any]] = {
    "all": {},
    "int": {"cache_seqlens": 7},
    "none in use": {"cache_seqlens": 0},
    "lengths": {"cache_seqlens": LENGTHS},
    "rows": {"cache_seqlens": LENGTHS, "cache_batch_idx": ROW_OF},
    "int, rows": {"cache_seqlens": 5, "cache_batch_idx": ROW_OF.long()},
    "all, rows, padding": {"cache_batch_idx": ROW_OF, "cache_leftpad": LEFTPAD},
    "padding": {"cache_seqlens": LENGTHS, "cache_leftpad": LEFTPAD},
    "int, padding": {"cache_seqlens": 6, "cache_leftpad": LEFTPAD.long()},
    "all of it": {"cache_seqlens": LENGTHS.long(), "cache_batch_idx": ROW_OF, "cache_leftpad": torch.tensor([3, 1])},
}
PATTERNS: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"window_size": (4, 0)},
    {"window_size": (2, 1)},
    {"window_size": (3, -1), "softcap": 1.5, "softmax_scale": 0.7},
]


@pytest.mark.parametrize("queries", [1, 3, 12])
@pytest.mark.parametrize("slopes", SLOPES)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("places", PLACES)
def test_a_cache_is_read(places: str, pattern: dict[str, Any], slopes: str, queries: int) -> None:
    q = uniform(BATCH, queries, HEADS, DIM)
    check(q, *caches(ROWS), alibi_slopes=SLOPES[slopes], **pattern, **PLACES[places])


@pytest.mark.parametrize("new", [(1, 1), (3, 3), (2, 4), (5, 2), (3, 0)], ids=lambda new: f"{new[0]} queries, {new[1]} keys")
@pytest.mark.parametrize("rotary", ["", "interleaved", "halves"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("places", [name for name, options in PLACES.items() if "cache_seqlens" in options])
def test_tokens_are_appended(places: str, pattern: dict[str, Any], rotary: str, new: tuple[int, int]) -> None:
    queries, keys = new
    options = PLACES[places] | pattern
    if rotary:
        cos, sin = angles(6 if queries == 3 else DIM)
        options = options | {"rotary_cos": cos, "rotary_sin": sin, "rotary_interleaved": rotary == "interleaved"}
    q, k, v = (uniform(BATCH, n, heads, DIM) for n, heads in ((queries, HEADS), (keys, KV_HEADS), (keys, KV_HEADS)))
    check(q, *caches(ROWS), k=k, v=v, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    for table in {dtype, torch.float32}:
        cos, sin = (x.to(table) for x in angles(DIM))
        q, k, v = (uniform(BATCH, 3, heads, DIM, dtype=dtype) for heads in (HEADS, KV_HEADS, KV_HEADS))
        options: dict[str, Any] = PLACES["all of it"] | {"rotary_cos": cos, "rotary_sin": sin, "causal": True, "window_size": (5, 0)}
        k_cache, v_cache = caches(ROWS, dtype)
        right = by_entry(*(x.double() for x in (q, k_cache, v_cache)), **options | {"k": k.double(), "v": v.double()})
        out = flash_attn_with_kvcache(q, k_cache, v_cache, k, v, **options)
        assert isinstance(out, Tensor) and out.dtype is dtype
        # queries and keys are rounded once more where they are turned: their scores err by that, and weights by no more than twice as much
        torch.testing.assert_close(out.double(), right[0], rtol=0, atol=allowed(dtype) + 4 * DIM * ROUNDING[dtype])
        sums = 4 * ROUNDING[torch.float64 if dtype is torch.float64 else torch.float32]  # two products below 1, and their sum
        torch.testing.assert_close(k_cache.double(), right[2], rtol=1.01 * ROUNDING[dtype], atol=sums)


def test_garbage_behind_the_tokens_and_before_them_is_not_seen() -> None:
    q = uniform(BATCH, 2, HEADS, DIM)
    clean = caches()
    dirty = [x.clone() for x in clean]
    for cache in dirty:
        for b in range(BATCH):
            cache[b, int(LENGTHS[b]) :], cache[b, : int(LEFTPAD[b])] = torch.nan, torch.inf
    for options in ({}, {"alibi_slopes": SLOPES["(B, H)"]}):
        results = (flash_attn_with_kvcache(q, *x, cache_seqlens=LENGTHS, cache_leftpad=LEFTPAD, **options) for x in (clean, dirty))
        assert torch.equal(*results)  # type: ignore[arg-type]


def test_step_by_step_is_all_at_once() -> None:
    q, k, v = (uniform(BATCH, 9, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    cos, sin = angles(DIM)
    options: dict[str, Any] = {"rotary_cos": cos, "rotary_sin": sin, "causal": True, "window_size": (4, 0)}
    once = flash_attn_with_kvcache(q, *caches(), k, v, cache_seqlens=0, **options)
    k_cache, v_cache = (torch.full_like(x, torch.nan) for x in caches())
    steps = []
    for i in range(9):
        token = (x[:, i : i + 1] for x in (k, v))
        steps.append(flash_attn_with_kvcache(q[:, i : i + 1], k_cache, v_cache, *token, cache_seqlens=torch.full((BATCH,), i), **options))
    torch.testing.assert_close(torch.cat(steps, 1), once, rtol=0, atol=allowed())  # type: ignore[arg-type]


def test_a_cache_seen_through_a_view_and_an_empty_batch() -> None:
    whole = uniform(ROWS, KV_HEADS, ROOM, DIM + 3)
    k_cache = whole[..., :DIM].transpose(1, 2)
    before = whole.clone()
    k, v = (uniform(BATCH, 1, KV_HEADS, DIM) for _ in range(2))
    flash_attn_with_kvcache(uniform(BATCH, 1, HEADS, DIM), k_cache, caches(ROWS)[1], k, v, cache_seqlens=LENGTHS, cache_batch_idx=ROW_OF)
    for b in range(BATCH):
        before[int(ROW_OF[b]), :, int(LENGTHS[b]), :DIM] = k[b, 0]
    assert torch.equal(whole, before)
    none = torch.empty(0, dtype=torch.int32)
    out = flash_attn_with_kvcache(uniform(0, 1, HEADS, DIM), *caches(ROWS), cache_seqlens=none, cache_batch_idx=none)
    assert isinstance(out, Tensor) and out.shape == (0, 1, HEADS, DIM)


def test_for_inference() -> None:
    q, (k_cache, v_cache) = uniform(BATCH, 1, HEADS, DIM).requires_grad_(), caches()
    with pytest.raises(ValueError, match=r"q requires grad while gradients are recorded.*no_grad"):
        flash_attn_with_kvcache(q, k_cache, v_cache)
    with pytest.raises(ValueError, match="k requires grad"):
        key, value = uniform(BATCH, 1, KV_HEADS, DIM).requires_grad_(), uniform(BATCH, 1, KV_HEADS, DIM)
        flash_attn_with_kvcache(q.detach(), k_cache, v_cache, key, value, cache_seqlens=1)
    with torch.no_grad():
        assert not flash_attn_with_kvcache(q, k_cache, v_cache).requires_grad  # type: ignore[union-attr]


COS, SIN = angles(DIM)
NEW = {"k": torch.ones(BATCH, 2, KV_HEADS, DIM).double(), "v": torch.ones(BATCH, 2, KV_HEADS, DIM).double(), "cache_seqlens": 4}
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q": torch.ones(BATCH, HEADS, DIM).double()}, ValueError, r"q is \(2, 4, 8\); it needs to be \(B, Lq, H, D\)"),
    ({"k_cache": torch.ones(BATCH, ROOM, 3, DIM).double()}, ValueError, "k_cache is .*needs to divide 4"),
    ({"v_cache": torch.ones(BATCH, 9, KV_HEADS, DIM).double()}, ValueError, r"v_cache is .* beside k_cache"),
    ({"v_cache": torch.ones(BATCH, ROOM, KV_HEADS, DIM)}, TypeError, "v_cache is torch.float32 beside q of torch.float64"),
    ({"q": torch.ones(3, 1, HEADS, DIM).double(), "k": None, "v": None}, ValueError, "k_cache is .* beside q .*a row for each entry"),
    ({"v": None}, ValueError, "k is given without the other"),
    ({"k": None}, ValueError, "v is given without the other"),
    ({"k": NEW["k"].float()}, TypeError, "k is torch.float32"),
    ({"k": NEW["k"][:1]}, ValueError, r"k is \(1, 2, 2, 8\); .* here \(2, 2, 2, 8\)"),
    ({"v": NEW["v"][:, :1]}, ValueError, r"v is \(2, 1, 2, 8\); .* here \(2, 2, 2, 8\)"),
    ({"cache_seqlens": None}, ValueError, "cache_seqlens is None beside k"),
    ({"cache_seqlens": 15}, ValueError, "cache_seqlens is 15; it needs to be from 0 to 14.* beside 2 new tokens"),
    ({"cache_seqlens": -1}, ValueError, "cache_seqlens is -1"),
    ({"cache_seqlens": 1.5}, TypeError, "cache_seqlens is 1.5"),
    ({"cache_seqlens": torch.tensor([3, 15])}, ValueError, r"cache_seqlens is \[3, 15\]; each needs to be from 0 to 14"),
    ({"cache_seqlens": torch.tensor([3, -1])}, ValueError, r"cache_seqlens is \[3, -1\]"),
    ({"cache_seqlens": torch.tensor([3])}, ValueError, r"cache_seqlens is \(1,\); it needs to be \(B,\)"),
    ({"cache_seqlens": torch.tensor([3.0, 4.0])}, TypeError, "cache_seqlens is torch.float32"),
    ({"cache_batch_idx": torch.tensor([0, 2])}, ValueError, r"cache_batch_idx is \[0, 2\]; each needs to be from 0 to 1"),
    ({"cache_batch_idx": [0, 1]}, TypeError, "cache_batch_idx is of type list"),
    ({"cache_leftpad": torch.tensor([0, 5])}, ValueError, r"cache_leftpad is \[0, 5\]; each needs to be from 0 to cache_seqlens"),
    ({"block_table": torch.zeros(BATCH, 1, dtype=torch.int32)}, ValueError, "block_table is given"),
    ({"rotary_cos": COS}, ValueError, "rotary_sin is None"),
    ({"rotary_sin": SIN}, ValueError, "rotary_cos is None"),
    ({"rotary_cos": COS, "rotary_sin": SIN, "k": None, "v": None}, ValueError, "rotary_cos is given without k"),
    ({"rotary_cos": COS, "rotary_sin": SIN[:, :2]}, ValueError, r"rotary_sin is \(20, 2\) beside rotary_cos"),
    ({"rotary_cos": COS.half(), "rotary_sin": SIN}, TypeError, "rotary_cos is torch.float16"),
    ({"rotary_cos": COS[:9], "rotary_sin": SIN[:9]}, ValueError, r"rotary_cos is \(9, 4\); it needs to be \(at least 16"),
    ({"rotary_cos": torch.cat([COS, COS], 1), "rotary_sin": torch.cat([SIN, SIN], 1)}, ValueError, "with R up to 8"),
    (
        {"rotary_cos": COS[:17], "rotary_sin": SIN[:17], "causal": True, "q": torch.ones(BATCH, 14, HEADS, DIM).double()},
        ValueError, "rotary_cos has 17 rows; it needs to have 18",
    ),
    ({"rotary_interleaved": None}, TypeError, "rotary_interleaved is None"),
    ({"num_splits": -1}, ValueError, "num_splits is -1"),
    ({"num_splits": 1.0}, TypeError, "num_splits is 1.0"),
    ({"return_softmax_lse": 1}, TypeError, "return_softmax_lse is 1"),
    ({"softmax_scale": "a"}, TypeError, "softmax_scale is 'a'"),
    ({"causal": None}, TypeError, "causal is None"),
    ({"window_size": (-3, 0)}, ValueError, r"window_size\[0\] is -3"),
    ({"alibi_slopes": torch.ones(3, HEADS)}, ValueError, r"alibi_slopes is \(3, 4\)"),
    ({"softcap": float("nan")}, ValueError, "softcap is nan"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), REFUSED, ids=lambda x: str(x)[:40] if isinstance(x, str) else None)
def test_refusals_name_the_argument_and_leave_the_cache(change: dict[str, Any], error: type[Exception], message: str) -> None:
    k_cache, v_cache = caches()
    call = {"q": uniform(BATCH, 2, HEADS, DIM), "k_cache": k_cache, "v_cache": v_cache} | NEW | change
    before = [call[name].clone() for name in ("k_cache", "v_cache")]
    with pytest.raises(error, match=message):
        flash_attn_with_kvcache(**call)
    assert all(torch.equal(call[name], x) for name, x in zip(("k_cache", "v_cache"), before, strict=True))

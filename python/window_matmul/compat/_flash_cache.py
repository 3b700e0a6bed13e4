# python/window_matmul/compat/_flash_cache.py: flash-attn's attention over a cache that it appends to.
from typing import NamedTuple

import torch
from torch import Tensor

from .._band.arguments import check_beside, check_dense, check_device, check_strided
from .._integers import as_flag, as_int
from .._rotary import turn
from ._flash_call import Call, as_call, as_theirs, attend, can_read, check_shapes, refuse_pages


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """q (B, Lq, H, D) attends to a cache, to which k and v are appended first, in place. The last query is aligned with the last key.

    For inference: a tensor that requires grad while gradients are recorded is refused. A refused call leaves the cache as it was.
    Numbers in tensors are checked where they can be read without waiting, on the CPU. What is not listed here is said at the head of
    `window_matmul.compat.flash_attn`.

    Args:
        q: of the dtype of all others, any strides.
        k_cache: (rows, Lc, Hkv, D), rows being at least B, the first of which are those of the batch.
        v_cache: (rows, Lc, Hkv, Dv).
        k: (B, n, Hkv, D): written behind the tokens in use; n need not be Lq.
        v: (B, n, Hkv, Dv).
        rotary_cos: (at least Lc, R / 2), R up to D, q's dtype or float32: turns the first R features of k by its places in the cache, and
            those of q by the places from cache_seqlens on, or by cache_seqlens alone where there is neither causal nor a window. Needs k.
        rotary_sin: likewise.
        cache_seqlens: tokens in use before this call, an int or (B,), int32 or int64; without it, and without k, all of them.
        cache_batch_idx: (B,), int32 or int64: the row of the cache of each entry. These rows are copied for the call.
        cache_leftpad: (B,), int32 or int64: keys before it are not seen. Places are counted from the cache's first as ever.
        block_table: None. Paged keys are refused.
        rotary_interleaved: pairs are features 2 i and 2 i + 1; otherwise i and i + R / 2.
        num_splits: any number; how keys are split over threads depends on shapes alone.
        return_softmax_lse: also return the log-sum-exp (B, H, Lq).

    >>> import torch
    >>> k_cache, v_cache = torch.zeros(2, 1, 8, 1, 2)
    >>> q, k, v = torch.zeros(2, 1, 1, 1, 2).unbind() + (torch.ones(1, 1, 1, 2),)
    >>> flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=3).flatten()
    tensor([0.2500, 0.2500])
    """
    refuse_pages(block_table)
    check_shapes(q, k_cache, v_cache, ("(B, Lq, H, D)", "(rows, Lc, Hkv, D)", "(rows, Lc, Hkv, Dv)"), ("q", "k_cache", "v_cache"))
    _check_tensors(q, {"k_cache": k_cache, "v_cache": v_cache}, {"k": k, "v": v})
    if as_int("num_splits", num_splits) < 0:
        raise ValueError(f"num_splits is {num_splits}; it needs to be at least 0")
    with_lse, interleaved = as_flag("return_softmax_lse", return_softmax_lse), as_flag("rotary_interleaved", rotary_interleaved)
    places = _as_places(q, k_cache, k, cache_seqlens, cache_batch_idx, cache_leftpad)
    call = as_call(q, len(q), 0.0, softmax_scale, causal, window_size, softcap, alibi_slopes, False, False)
    if rotary_cos is not None or rotary_sin is not None:
        turns = q.shape[1] if call.window != (None, None) else 1
        cos, sin = _as_tables(rotary_cos, rotary_sin, q, k_cache, k, places.most_used + turns)
        q = _turned(q, cos, sin, places.behind(turns), interleaved)
        k = None if k is None else _turned(k, cos, sin, places.behind(k.shape[1]), interleaved)
    if k is not None and v is not None:
        at = places.rows[:, None], places.behind(k.shape[1])
        k_cache[at], v_cache[at] = k, v
    out, lse = _attend(q, k_cache, v_cache, places, call)
    return (out, as_theirs(lse)) if with_lse else out


# ---- places in the cache -------------------------------------------------------------------------------------------------------------
class _Places(NamedTuple):
    """The row of the cache of each entry, tokens in use before the call, keys that are not seen, and tokens that are appended."""

    rows: Tensor
    are_first: bool  # rows are 0, 1, ...
    used: int | Tensor
    leftpad: Tensor | None
    new: int

    @property
    def most_used(self) -> int:
        """0 where it cannot be read."""
        if isinstance(self.used, int):
            return self.used
        return int(self.used.max()) if can_read(self.used) and len(self.used) else 0

    def behind(self, count: int) -> Tensor:
        """The places of `count` tokens behind those in use, (B or 1, count)."""
        device = self.rows.device
        return torch.as_tensor(self.used, device=device).reshape(-1, 1) + torch.arange(count, device=device)


def _as_places(
    q: Tensor, cache: Tensor, k: Tensor | None, cache_seqlens: int | Tensor | None, idx: Tensor | None, leftpad: Tensor | None
) -> _Places:
    rows, room = cache.shape[:2]
    new = 0 if k is None else k.shape[1]
    if idx is None and rows < len(q):
        raise ValueError(
            f"k_cache is {tuple(cache.shape)} beside q of {tuple(q.shape)}; it needs to have a row for each entry, or cache_batch_idx"
        )
    of_entry = torch.arange(len(q), device=q.device) if idx is None else _as_numbers("cache_batch_idx", idx, q, rows - 1, f"{rows - 1}")
    most = f"{room - new}, what the cache has room for" + f" beside {new} new tokens" * (new > 0)
    used: int | Tensor
    if cache_seqlens is None:
        if k is not None:
            raise ValueError("cache_seqlens is None beside k; it needs to say where k is written")
        used = room
    elif isinstance(cache_seqlens, Tensor) and cache_seqlens.ndim > 0:
        used = _as_numbers("cache_seqlens", cache_seqlens, q, room - new, most)
    else:
        used = as_int("cache_seqlens", cache_seqlens, "an int, a tensor (B,) of ints, or None")
        if not 0 <= used <= room - new:
            raise ValueError(f"cache_seqlens is {used}; it needs to be from 0 to {most}")
    pad = None if leftpad is None else _as_numbers("cache_leftpad", leftpad, q, used, "cache_seqlens")
    return _Places(of_entry, idx is None, used, pad, new)


def _as_numbers(name: str, numbers: Tensor, q: Tensor, most: int | Tensor, say: str) -> Tensor:
    """One for each entry, from 0 to `most`."""
    check_strided(name, numbers)
    if numbers.dtype is not torch.int32 and numbers.dtype is not torch.int64:
        raise TypeError(f"{name} is {numbers.dtype}; it needs to be int32 or int64")
    if tuple(numbers.shape) != (len(q),):
        raise ValueError(f"{name} is {tuple(numbers.shape)}; it needs to be (B,), here ({len(q)},)")
    check_device(name, numbers, "q", q)
    if can_read(numbers) and bool(((numbers < 0) | (numbers > most)).any()):
        raise ValueError(f"{name} is {numbers.tolist()}; each needs to be from 0 to {say}")
    return numbers.long()


# ---- tensors -------------------------------------------------------------------------------------------------------------------------
def _check_tensors(q: Tensor, caches: dict[str, Tensor], news: dict[str, Tensor | None]) -> None:
    """Beside q and the caches, whose shapes fit."""
    given = {name: x for name, x in news.items() if x is not None}
    if len(given) == 1:
        raise ValueError(f"{next(iter(given))} is given without the other of k and v; both need to be given, or none")
    for name, x in ({"q": q} | caches | given).items():
        check_dense(name, x)
        check_beside(name, x, "q", q)
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} requires grad while gradients are recorded; it needs to be without: a cache is for inference, under "
                "torch.inference_mode() or torch.no_grad()"
            )
    for (name, x), cache in zip(given.items(), caches.values(), strict=False):
        length = given["k"].shape[1] if given["k"].ndim == 4 else "n"
        need = (len(q), length, *cache.shape[2:])
        if tuple(x.shape) != need:
            raise ValueError(f"{name} is {tuple(x.shape)}; it needs to be (B, n, Hkv, D) as the cache, here {need}")


def _as_tables(cos: Tensor | None, sin: Tensor | None, q: Tensor, cache: Tensor, k: Tensor | None, places: int) -> tuple[Tensor, Tensor]:
    if cos is None or sin is None:
        raise ValueError(f"rotary_{'cos' if cos is None else 'sin'} is None beside the other; both need to be given, or none")
    if k is None:
        raise ValueError("rotary_cos is given without k; it needs new keys, which are turned with q")
    for name, x in (("rotary_cos", cos), ("rotary_sin", sin)):
        check_dense(name, x)
        if x.dtype is not q.dtype and x.dtype is not torch.float32:
            raise TypeError(f"{name} is {x.dtype} beside q of {q.dtype}; it needs to be the same or float32")
        check_device(name, x, "q", q)
    if cos.ndim != 2 or len(cos) < cache.shape[1] or 2 * cos.shape[1] > q.shape[-1]:
        need = f"(at least {cache.shape[1]}, R / 2), a row for each place of the cache, with R up to {q.shape[-1]}"
        raise ValueError(f"rotary_cos is {tuple(cos.shape)}; it needs to be {need}")
    if sin.shape != cos.shape:
        raise ValueError(f"rotary_sin is {tuple(sin.shape)} beside rotary_cos of {tuple(cos.shape)}; it needs to be the same")
    if places > len(cos):
        raise ValueError(f"rotary_cos has {len(cos)} rows; it needs to have {places}, for the last place of q")
    return cos, sin


def _turned(x: Tensor, cos: Tensor, sin: Tensor, at: Tensor, interleaved: bool) -> Tensor:
    """The first features of x (B, L, H, D), in pairs, by their places (B or 1, L or 1)."""
    half = cos.shape[1]
    sums = torch.promote_types(x.dtype, torch.float32)
    cos, sin = (table[at].to(sums)[:, :, None] for table in (cos, sin))
    pairs = x[..., : 2 * half]
    if interleaved:
        pairs = pairs.unflatten(-1, (half, 2)).mT.flatten(-2)
    pairs = turn(pairs, cos, sin)
    if interleaved:
        pairs = pairs.unflatten(-1, (2, half)).mT.flatten(-2)
    return torch.cat([pairs, x[..., 2 * half :]], -1)


def _attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, places: _Places, call: Call) -> tuple[Tensor, Tensor]:
    """To what is in use now."""
    lengths = places.used + places.new
    longest = places.most_used + places.new if isinstance(lengths, int) or can_read(lengths) else k_cache.shape[1]
    k, v = (x[: len(q), :longest] if places.are_first else x[:, :longest][places.rows] for x in (k_cache, v_cache))
    seen = None if places.leftpad is None else torch.arange(longest, device=q.device) >= places.leftpad[:, None]
    return attend(q, k, v, call, key_lengths=lengths if isinstance(lengths, Tensor) else None, key_mask=seen)

# python/window_matmul/compat/_flash_call.py: what flash-attn's functions have in common: their options, slopes, and dropped weights.
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .._attention.arguments import as_factor, as_probability, as_real
from .._band.arguments import as_autocast, check_dense, check_device, check_strided
from .._integers import as_flag
from ..attention import window_attention, window_attention_varlen
from ..window import Window
from . import fall_back

_WEIGHTS = "return_attn_probs=True beside dropout asks for the weights of attention, so it is computed the dense way"


class Call(NamedTuple):
    """The options of one call. `slopes` is None, (H,), or (B, H) with a B above 1."""

    window: tuple[int | None, int | None]
    scale: float | None
    softcap: float
    slopes: Tensor | None
    dropout_p: float
    with_weights: bool


# ---- arguments -----------------------------------------------------------------------------------------------------------------------
def as_call(
    q: Tensor,
    entries: int,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
    return_attn_probs: bool,
) -> Call:
    """After the shapes are checked. `deterministic` asks for what always is."""
    as_flag("deterministic", deterministic)
    window = Window.from_flash_attn(window_size, causal=causal)
    cap = as_real("softcap", softcap, "a finite number")
    if not cap < inf:
        raise ValueError(f"softcap is {softcap!r}; it needs to be a finite number")
    slopes = None if alibi_slopes is None else _as_slopes(alibi_slopes, q, entries)
    return Call(
        (window.left, window.right),
        _as_scale(softmax_scale, q.shape[-1]),
        max(cap, 0.0),
        slopes,
        as_probability("dropout_p", dropout_p),
        as_flag("return_attn_probs", return_attn_probs),
    )


def _as_scale(softmax_scale: float | None, dim: int) -> float | None:
    if softmax_scale is None and dim == 0:
        raise ValueError("softmax_scale is None where the head dim is 0; it needs to be a number: 1 / sqrt(0) is none")
    return as_factor("softmax_scale", softmax_scale)


def _as_slopes(slopes: Tensor, q: Tensor, entries: int) -> Tensor:
    check_strided("alibi_slopes", slopes)
    if slopes.dtype is not torch.float32:
        raise TypeError(f"alibi_slopes is {slopes.dtype}; it needs to be float32")
    heads = q.shape[-2]
    if not any(slopes.shape == shape for shape in ((heads,), (entries, heads))):  # `in` is wrong in graphs with symbols for sizes
        raise ValueError(f"alibi_slopes is {tuple(slopes.shape)}; it needs to be (H,) or (B, H), here ({heads},) or ({entries}, {heads})")
    check_device("alibi_slopes", slopes, "q", q)
    if slopes.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "alibi_slopes requires grad while gradients are recorded; it needs to be detached: flash-attn gives it no gradient, "
            "window_attention gives one to its bias"
        )
    return slopes.sum(0) if slopes.ndim == 2 and entries < 2 else slopes  # the only row there is, or none


def check_shapes(q: Tensor, k: Tensor, v: Tensor, layouts: tuple[str, str, str], names: tuple[str, str, str] = ("q", "k", "v")) -> None:
    """All but the batch of a cache."""
    for name, x, layout in zip(names, (q, k, v), layouts, strict=True):
        check_dense(name, x)
        if x.ndim != layout.count(",") + 1:
            raise ValueError(f"{name} is {tuple(x.shape)}; it needs to be {layout}")
    beside = f"{names[1]} is {tuple(k.shape)} beside q of {tuple(q.shape)}"
    if layouts[1].startswith("(B") and q.shape[0] != k.shape[0]:
        raise ValueError(f"{beside}; its dim 0 needs to be {q.shape[0]}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"{beside}; its dim -1 needs to be {q.shape[-1]}")
    if q.shape[-2] != k.shape[-2] and (k.shape[-2] == 0 or q.shape[-2] % k.shape[-2]):
        raise ValueError(f"{beside}; its number of heads, dim -2, needs to divide {q.shape[-2]}")
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"{names[2]} is {tuple(v.shape)} beside {names[1]} of {tuple(k.shape)}; all dims but the last need to be equal")


def can_read(numbers: Tensor) -> bool:
    """Whether they have values, which are there without waiting."""
    return numbers.is_cpu and type(numbers) is Tensor and not torch.compiler.is_compiling()


def refuse_pages(block_table: Tensor | None) -> None:
    if block_table is not None:
        raise ValueError("block_table is given; it needs to be None: there are no paged keys, copy the pages into one tensor")


# ---- attention -----------------------------------------------------------------------------------------------------------------------
def attend(q: Tensor, k: Tensor, v: Tensor, call: Call, **places: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, L, H, D) -> (B, Lq, H, Dv) and the log-sum-exp (B, H, Lq). `places` are those of window_attention, a row for each entry."""
    if call.slopes is not None and call.slopes.ndim == 2:  # (B, H, Lq, W) numbers would be as many as scores
        parts = []
        for b, slopes in enumerate(call.slopes.unbind()):
            mine = {name: None if x is None else x[b : b + 1] for name, x in places.items()}
            parts.append(attend(q[b : b + 1], k[b : b + 1], v[b : b + 1], call._replace(slopes=slopes), **mine))
        return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])
    return _fused(window_attention, 4, (q, k, v), (), call, places)


def attend_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """(total, H, D) -> (total_q, H, Dv) and the log-sum-exp (H, total_q)."""
    if call.slopes is None or call.slopes.ndim == 1:
        return _fused(window_attention_varlen, 3, (q, k, v), (cu_q, cu_k), call, {})
    q_ends, k_ends = _as_ends("cu_seqlens_q", cu_q, len(q)), _as_ends("cu_seqlens_k", cu_k, len(k))
    parts = []
    for s, slopes in enumerate(call.slopes.unbind()):
        (a, b), (c, d) = q_ends[s : s + 2], k_ends[s : s + 2]
        parts.append(attend(q[None, a:b], k[None, c:d], v[None, c:d], call._replace(slopes=slopes)))
    out, lse = torch.cat([out[0] for out, _ in parts]), torch.cat([lse[0] for _, lse in parts], 1)
    around = q_ends[0], len(q) - q_ends[-1]
    return functional.pad(out, (0, 0, 0, 0, *around)), functional.pad(lse, around, value=-inf)


def _as_ends(name: str, cu_seqlens: Tensor, total: int) -> list[int]:
    ends: list[int] = cu_seqlens.tolist()
    if ends != sorted(ends) or ends[0] < 0 or ends[-1] > total:
        raise ValueError(f"{name} is {ends}; it needs to lie within 0 to {total} and never to fall")
    return ends


def _fused(operator: Any, dims: int, qkv: Sequence[Tensor], bounds: Sequence[Tensor], call: Call, places: Any) -> tuple[Tensor, Tensor]:
    """One call of an operator."""
    options = {"scale": call.scale, "softcap": call.softcap, "dropout_p": call.dropout_p, "return_lse": True, **places}

    def run(qkv: Sequence[Tensor], window: tuple[int | None, int | None], bias: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k, v = (x.transpose(1, 2) for x in qkv) if dims == 4 else qkv
        out, lse = operator(q, k, v, *bounds, window, bias=bias, **options)
        return out.transpose(1, 2) if dims == 4 else out, lse

    if call.slopes is None:
        return run(qkv, call.window, None)
    qkv = [as_autocast(x) for x in qkv]
    with nullcontext() if qkv[0].is_meta else torch.autocast(qkv[0].device.type, enabled=False):  # which would round the bias
        return run(qkv, *_alibi(call.slopes, call.window, qkv[0], qkv[1]))


def _alibi(slopes: Tensor, window: tuple[int | None, int | None], q: Tensor, k: Tensor) -> tuple[tuple[int, int], Tensor]:
    """The window, cut to what there is beside a last query that is aligned with the last key, and the bias of its slots (H, W)."""
    left, right = (
        max(n - 1, 0) if side is None else min(side, max(n - 1, 0)) for side, n in zip(window, (k.shape[-3], q.shape[-3]), strict=True)
    )
    sums = torch.float64 if q.dtype is torch.float64 else torch.float32
    distances = torch.arange(-left, right + 1, device=q.device).abs()
    return (left, right), slopes[:, None].to(sums) * -distances


# ---- results -------------------------------------------------------------------------------------------------------------------------
def as_theirs(lse: Tensor) -> Tensor:
    """flash-attn 2 has +inf where a query sees no key."""
    return lse.where(lse != -inf, inf)


def dropped_weights(attend_to: Callable[[Tensor, Call], Tensor], values: Tensor, call: Call) -> Tensor:
    """The softmax, negative where dropout drops it: attention to `values` that are unit vectors, with the seed of the call that follows."""
    fall_back(_WEIGHTS)
    with torch.no_grad(), torch.random.fork_rng([values.device] if values.is_cuda else []):
        kept = attend_to(values, call)
        weights = attend_to(values, call._replace(dropout_p=0.0))
    return torch.where(kept == 0, -weights, weights)

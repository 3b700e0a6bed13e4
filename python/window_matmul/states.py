# python/window_matmul/states.py: `merge_states`, one attention from attentions over disjoint sets of keys.
from collections.abc import Sequence

import torch
from torch import Tensor

from ._band.arguments import DTYPES, check_strided


def merge_states(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The attention over all keys from attentions over disjoint sets of them: outputs weighted with exp(lse).

    Parts of bfloat16 and float16 have been rounded before: ask `window_attention` for ``out_dtype=torch.float32``, and cast what comes out
    of here. Beside an lse of -1e9, as a bias of that size in a whole row gives, the number of keys is lost: such parts count alike.

    Args:
        outs: at least one part, (B, H, L, Dv) each, all of one dtype: float32, float64, bfloat16 or float16.
        lses: the natural log-sum-exps of their scores, (B, H, L) each, all float32 or all float64; -inf where a part saw nothing, whose
            output then does not count, whatever it holds.

    Returns:
        out (B, H, L, Dv) of the dtype of outs, and lse (B, H, L) of that of lses: those of one attention, 0 and -inf where no part saw
        anything. Weights and sums are in float32, in float64 where outs or lses are. Differentiable in all.

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: no parts, more or fewer lses than outs, shapes or devices that differ.

    >>> import torch
    >>> from window_matmul import window_attention
    >>> q, k, v = torch.randn(3, 1, 2, 6, 4)
    >>> first = window_attention(q, k[:, :, :4], v[:, :, :4], None, return_lse=True)
    >>> rest = window_attention(q, k[:, :, 4:], v[:, :, 4:], None, return_lse=True)
    >>> out, lse = merge_states(*zip(first, rest))
    >>> torch.testing.assert_close(out, window_attention(q, k, v, None))

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv:1805.02867).
    """
    outs, lses = _as_parts("outs", outs, DTYPES, "(B, H, L, Dv)"), _as_parts("lses", lses, (torch.float32, torch.float64), "(B, H, L)")
    if len(outs) != len(lses):
        raise ValueError(f"lses holds {len(lses)} tensors beside {len(outs)} outs; it needs to hold one for each")
    if lses[0].shape != outs[0].shape[:-1]:
        need = tuple(outs[0].shape[:-1])
        raise ValueError(f"lses[0] is {tuple(lses[0].shape)} beside outs[0] of {tuple(outs[0].shape)}; it needs to be {need}")
    if lses[0].device != outs[0].device:
        raise ValueError(f"lses[0] is on {lses[0].device}; it needs to be on {outs[0].device}, where outs are")
    sums = torch.float64 if torch.float64 in (outs[0].dtype, lses[0].dtype) else torch.float32
    lse = torch.stack([part.to(sums) for part in lses])
    highest = lse.detach().amax(0)
    highest = highest.where(highest != -torch.inf, 0.0)  # where nothing was seen all weights are 0
    weights = (lse - highest).exp()
    total = weights.sum(0)
    blind = total == 0
    seen = total.where(~blind, 1.0)
    shares = (weights / seen).unsqueeze(-1)
    out = torch.stack([share * part.to(sums).where(share != 0, 0.0) for share, part in zip(shares, outs, strict=True)]).sum(0)
    merged = (seen.log() + highest).where(~blind, -torch.inf)
    return out.to(outs[0].dtype), merged.to(lses[0].dtype)


def _as_parts(name: str, parts: Sequence[Tensor], dtypes: tuple[torch.dtype, ...], letters: str) -> list[Tensor]:
    """All like the first."""
    if isinstance(parts, Tensor | str) or not isinstance(parts, Sequence):
        raise TypeError(f"{name} is of type {type(parts).__name__}; it needs to be a list or tuple of tensors {letters}")
    if not parts:
        raise ValueError(f"{name} is empty; it needs to hold at least one tensor {letters}")
    first = parts[0]
    for at, part in enumerate(parts):
        check_strided(f"{name}[{at}]", part)
        if part.dtype not in dtypes:
            raise TypeError(f"{name}[{at}] is {part.dtype}; it needs to be {' or '.join(map(str, dtypes))}")
        if part.ndim != len(letters.split(",")):
            raise ValueError(f"{name}[{at}] is {tuple(part.shape)}; it needs to be {letters}")
        if part.dtype is not first.dtype:
            raise TypeError(f"{name}[{at}] is {part.dtype} beside {name}[0] of {first.dtype}; it needs to be the same")
        if part.shape != first.shape:
            raise ValueError(f"{name}[{at}] is {tuple(part.shape)} beside {name}[0] of {tuple(first.shape)}; it needs to be the same")
        if part.device != first.device:
            raise ValueError(f"{name}[{at}] is on {part.device}; it needs to be on {first.device}, where {name}[0] is")
    return list(parts)

# python/window_matmul/compat/longformer.py: the functions of allenai/longformer, by their names, on the band operators.
"""`diagonaled_mm` and what stands around it in the Longformer repository, for training code that was written against it.

Tensors are (B, N, H, D), attention in diagonals is (B, N, H, c): slot j of query i belongs to key i + d * (j - w), c = 2 w + 1, or w + 1
with `autoregressive`. Dilation is an int, or a tensor (H,) with one for each head. Not needed here: contiguous tensors, at least 16
tokens, a length that is a multiple of 2 w, a head dim other than c. CPU and CUDA, every dtype of the operators, derivatives of any order.

Source: Beltagy, Peters and Cohan, "Longformer: The Long-Document Transformer" (arXiv:2004.05150).
"""

import torch
from torch import Tensor
from torch.nn import functional

from .._attention.arguments import as_real
from .._band.arguments import as_count, check_strided
from .._integers import as_flag, as_int, as_positive
from ..functional import unwindow_matmul, window_matmul

__all__ = ["diagonaled_mm", "mask_invalid_locations", "pad_to_window_size", "sliding_chunks_matmul_pv", "sliding_chunks_matmul_qk"]


# ---- arguments -----------------------------------------------------------------------------------------------------------------------
def _check(name: str, x: Tensor, last: int | None = None) -> None:
    check_strided(name, x)
    if x.ndim != 4 or (last is not None and x.shape[3] != last):
        raise ValueError(f"{name} is {tuple(x.shape)}; it needs to be (B, N, H, {'D' if last is None else last})")


def _check_beside(name: str, x: Tensor, other: str, y: Tensor, dims: int) -> None:
    if x.shape[:dims] != y.shape[:dims]:
        raise ValueError(f"{name} is {tuple(x.shape)} beside {other} of {tuple(y.shape)}; the first {dims} dims need to be equal")


def _dilation(d: int | Tensor, heads: int) -> int | tuple[int, ...]:
    if not isinstance(d, Tensor):
        return as_positive("d", d)
    if d.dtype.is_floating_point or d.dtype.is_complex or d.dtype is torch.bool:
        raise TypeError(f"d is {d.dtype}; it needs to be an int, or a tensor of ints")
    if tuple(d.shape) != (heads,):
        raise ValueError(f"d is {tuple(d.shape)}; it needs to be an int, or (H,), here ({heads},)")
    return tuple(as_positive(f"d[{head}]", dilation) for head, dilation in enumerate(d.tolist()))


def _number(name: str, value: float) -> float:
    number = as_real(name, value, "a number other than NaN")
    if number != number:
        raise ValueError(f"{name} is {value!r}; it needs to be a number other than NaN")
    return number


def _sides(w: int, autoregressive: bool) -> tuple[int, int]:
    w = as_count("w", w, "an int of at least 0")
    return w, 0 if as_flag("autoregressive", autoregressive) else w


def _outside(length: int, sides: tuple[int, int], d: int | Tensor, device: torch.device, first: int = 0, last: int | None = None) -> Tensor:
    """(N, H or 1, c), or the rows from first to last of it: whether the slot belongs to a key that does not exist."""
    i = torch.arange(length, device=device)[first:last].view(-1, 1, 1)
    taps = torch.arange(-sides[0], sides[1] + 1, device=device)
    steps = d.to(device, torch.int64).clamp(max=length) if isinstance(d, Tensor) else torch.tensor(min(d, length), device=device)
    keys = i + steps.view(-1, 1) * taps  # from a step of the length on no other key exists: no product can wrap
    return (keys < 0) | (keys >= length)


# ---- diagonaled_mm -------------------------------------------------------------------------------------------------------------------
def diagonaled_mm(
    t1: Tensor,
    t2: Tensor,
    w: int,
    d: int | Tensor,
    is_t1_diagonaled: bool = False,
    padding: float = 0,
    autoregressive: bool = False,
) -> Tensor:
    """Scores of queries with the keys of their windows, or sums of values weighted by such scores.

    Args:
        t1: queries (B, N, H, D); with `is_t1_diagonaled` weights (B, N, H, c).
        t2: keys or values, (B, N, H, D).
        w: how many keys before, and unless `autoregressive` after, a query are seen.
        d: dilation: an int of at least 1, or an integer tensor (H,).
        is_t1_diagonaled: False: ``out[i, j] = sum_k t1[i, k] t2[i + d (j - w), k]``; True: ``sum_k t1[i, k] t2[i + d (k - w), j]``.
        padding: added for each product that a key outside the sequence would have: there scores are D * padding.
        autoregressive: no keys after the query.

    Returns:
        (B, N, H, c), or (B, N, H, D); a transposed view of a (B, H, N, ...) tensor.

    Raises:
        TypeError: an argument of a wrong type, a tensor or a dilation of a wrong dtype.
        ValueError: shapes that do not fit, a negative w, a dilation below 1, padding that is NaN.
    """
    padding, sides = _number("padding", padding), _sides(w, autoregressive)
    _check("t1", t1, sum(sides) + 1 if as_flag("is_t1_diagonaled", is_t1_diagonaled) else None)
    _check("t2", t2)
    _check_beside("t1", t1, "t2", t2, 3)
    dilation = _dilation(d, t1.shape[2])
    rows, columns = t1.transpose(1, 2), t2.transpose(1, 2)
    if not is_t1_diagonaled:
        fill = padding * t2.shape[3] if t2.shape[3] else 0.0
        return window_matmul(rows, columns.mT, sides, dilation=dilation, fill=fill).transpose(1, 2)
    out = unwindow_matmul(rows, columns, sides, dilation=dilation).transpose(1, 2)
    if padding == 0:
        return out
    missing = _outside(t1.shape[1], sides, d, t1.device).sum(-1, keepdim=True)
    return out + (padding * missing.to(out.dtype)).masked_fill(missing == 0, 0.0)


def mask_invalid_locations(input_tensor: Tensor, w: int, d: int | Tensor, autoregressive: bool) -> None:
    """Writes -inf into the slots of `input_tensor` (B, N, H, c) whose key does not exist. The arguments are those of `diagonaled_mm`.

    Raises:
        TypeError, ValueError: as `diagonaled_mm`.
    """
    sides = _sides(w, autoregressive)
    _check("input_tensor", input_tensor, sum(sides) + 1)
    _dilation(d, input_tensor.shape[2])
    input_tensor.masked_fill_(_outside(input_tensor.shape[1], sides, d, input_tensor.device), -torch.inf)


# ---- sliding chunks ------------------------------------------------------------------------------------------------------------------
def sliding_chunks_matmul_qk(q: Tensor, k: Tensor, w: int, padding_value: float) -> Tensor:
    """Scores (B, N, H, 2 w + 1) of q with k, both (B, N, H, D); -inf where the key does not exist.

    `padding_value` fills storage of the chunks that no result is read from, there as well as here.

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: shapes that do not fit, a negative w, a padding_value that is NaN.
    """
    _number("padding_value", padding_value)
    _check("q", q)
    _check("k", k, q.shape[3])
    _check_beside("q", q, "k", k, 4)
    return window_matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1), _sides(w, False), fill=-torch.inf).transpose(1, 2)


def sliding_chunks_matmul_pv(prob: Tensor, v: Tensor, w: int) -> Tensor:
    """Sums (B, N, H, D) of the values v, weighted by prob (B, N, H, 2 w + 1).

    Beyond the ends of the sequence there are values of -1, as in the original: weights of 0 there, which a softmax of
    `sliding_chunks_matmul_qk` has, leave no trace of them.

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: shapes that do not fit, a negative w.
    """
    sides = _sides(w, False)
    _check("prob", prob, sum(sides) + 1)
    _check("v", v)
    _check_beside("prob", prob, "v", v, 3)
    out = unwindow_matmul(prob.transpose(1, 2), v.transpose(1, 2), sides).transpose(1, 2)
    length = prob.shape[1]
    for first, last in ((0, min(w, length)), (max(w, length - w), length)):  # the only rows whose windows leave the sequence
        if first < last:
            outside = _outside(length, sides, 1, prob.device, first, last)
            out[:, first:last] -= prob[:, first:last].where(outside, 0).sum(-1, keepdim=True)
    return out


def pad_to_window_size(input_ids: Tensor, attention_mask: Tensor, one_sided_window_size: int, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask, both (B, N), with ids and zeros behind them up to a multiple of twice the window.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: shapes that differ, a window below 1.
    """
    for name, x in (("input_ids", input_ids), ("attention_mask", attention_mask)):
        check_strided(name, x)
        if x.ndim != 2 or x.shape != input_ids.shape:
            raise ValueError(f"{name} is {tuple(x.shape)} beside input_ids of {tuple(input_ids.shape)}; it needs to be (B, N)")
    missing = -input_ids.shape[1] % (2 * as_positive("one_sided_window_size", one_sided_window_size))
    ids = functional.pad(input_ids, (0, missing), value=as_int("pad_token_id", pad_token_id))
    return ids, functional.pad(attention_mask, (0, missing), value=0)

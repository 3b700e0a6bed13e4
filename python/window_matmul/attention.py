# python/window_matmul/attention.py: fused attention over windows, for batches and for packed sequences.
"""softmax(scale q kT) v over each query's window, forward and backward, without the scores ever being stored.

Query i is aligned with key i + shift, where shift = Lk - Lq (the last query and the last key are aligned) unless `query_offset` says
otherwise. It sees key j = i + shift + t * dilation for t = -left .. right, as far as that key exists; slot c = t + left belongs to it.
A query that sees no key gives 0, a log-sum-exp of -inf, and no gradient. What a query does not see never influences it.
"""

from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import torch
from torch import Tensor

from . import _sharding as sharding
from ._arguments import AnyWindow as AnyWindow
from ._arguments import Dilation
from ._attention.arguments import as_bounds, as_entries, as_flag, as_form, as_operands, as_options, as_reals, check_heads_of, draw_seed
from ._attention.autograd import attention
from ._band.arguments import as_window

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Options(TypedDict, total=False):
    dilation: Dilation
    scale: float | None
    key_mask: Tensor | None
    bias: Tensor | None
    softcap: float
    sinks: Tensor | None
    global_tokens: int | Tensor | None
    dropout_p: float
    out_dtype: torch.dtype | None


class _BatchOptions(_Options, total=False):
    key_lengths: Tensor | None
    query_offset: int | Tensor | None


@overload
def window_attention(
    q: Tensor, k: Tensor, v: Tensor, window_size: AnyWindow, *, return_lse: Literal[False] = False, **options: "Unpack[_BatchOptions]"
) -> Tensor: ...


@overload
def window_attention(
    q: Tensor, k: Tensor, v: Tensor, window_size: AnyWindow, *, return_lse: Literal[True], **options: "Unpack[_BatchOptions]"
) -> tuple[Tensor, Tensor]: ...


@overload
def window_attention(
    q: Tensor, k: Tensor, v: Tensor, window_size: AnyWindow, *, return_lse: bool, **options: "Unpack[_BatchOptions]"
) -> Tensor | tuple[Tensor, Tensor]: ...


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: AnyWindow,
    *,
    dilation: Dilation = 1,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    key_lengths: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    global_tokens: int | Tensor | None = None,
    dropout_p: float = 0.0,
    query_offset: int | Tensor | None = None,
    return_lse: bool = False,
    out_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of each query to the keys of its window: ``softmax(scale * q @ k.mT + bias) @ v`` over these.

    Memory beyond inputs and outputs does not grow with the window, time grows with Lq * W. Results are equal bit for bit for every
    number of threads.

    Args:
        q: (B, H, Lq, D), any strides; float32, float64, bfloat16 or float16.
        k: (B, Hkv, Lk, D), q's dtype and device. H is a multiple of Hkv: neighbouring heads of q share one of k and v.
        v: (B, Hkv, Lk, Dv), likewise.
        window_size: an int w for w keys on each side, a pair (left, right), or a `Window`. None or -1 in a pair is an unbounded side,
            None alone (None, None): full attention. (left, 0) is causal: nothing later than the aligned key is ever seen.
        dilation: distance of neighbouring taps, at least 1; or one for each head. A `Window` brings its own.
        scale: factor of the scores; by default 1 / sqrt(D). Needed where D is 0.
        key_mask: (B, Lk) bool; True for keys that may be seen.
        key_lengths: (B,), int32 or int64, on q's device: entry b has key_lengths[b] keys, from 0 to Lk. What k, v and masks hold behind
            them is not looked at; gradients are 0 there.
        bias: (H, W) or (B, H, Lq, W) with W = left + 1 + right, q's dtype or float32: added to the scores, slot by slot. -inf hides the
            key. Needs a bounded window.
        softcap: above 0, scores become softcap * tanh(score / softcap), before the bias.
        sinks: (H,), q's dtype or float32: for each head one more logit in the denominator of the softmax, without a value.
        global_tokens: keys that every query sees (once, and with the bias of its slot where one is in the window): the first so many, or
            a bool mask (B, Lk). Where Lq == Lk, query_offset is 0 or None and right > 0, the queries of these tokens see every key.
            With right = 0 a global key is seen by queries from its own place on. Lengths and offsets are those of the entry.
        dropout_p: the probability to drop a weight of the softmax; the others are divided by 1 - dropout_p. The seed is drawn from
            torch's default generator, so torch.manual_seed decides it; 0 draws nothing.
        query_offset: the key aligned with query 0; by default Lk - Lq, or key_lengths[b] - Lq. An int, or one for each entry: (B,),
            int32 or int64, on q's device.
        return_lse: also return the log-sum-exp of the scores of each query (natural logarithm, without the sink).
        out_dtype: None for q's dtype, or torch.float32: where q is bfloat16 or float16, the sums as they are, for `merge_states`.

    Returns:
        (B, H, Lq, Dv) of q's dtype or `out_dtype`, contiguous, or where q is a transposed (B, Lq, H, D) tensor laid out as that is;
        gradients of q, k, v likewise. With return_lse also (B, H, Lq), float32 (float64 for float64). Differentiable once, in reverse mode,
        for q, k, v, bias and sinks, also through the log-sum-exp; window_matmul, window_softmax and unwindow_matmul are differentiable to
        any order. Under autocast q, k, v and bias are cast to its dtype, which the result has; sinks and float64 are left alone.

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: a negative window, bias with an unbounded one, shapes that do not fit, numbers out of range, a device without kernels.
        NotImplementedError: a second derivative, or a forward-mode one.

    >>> import torch
    >>> q, k, v = torch.zeros(3, 1, 1, 4, 2)
    >>> window_attention(q, k, v + torch.arange(4.0).view(4, 1), (1, 0))[0, 0, :, 0]
    tensor([0.0000, 0.5000, 1.5000, 2.5000])
    >>> window_attention(q[:, :, :1], k, v + torch.arange(4.0).view(4, 1), (1, 0), key_lengths=torch.tensor([3]))[0, 0, :, 0]
    tensor([1.5000])

    Source: the windows and global tokens of Beltagy, Peters and Cohan, "Longformer: The Long-Document Transformer" (arXiv:2004.05150);
    computed in tiles as by Dao et al., "FlashAttention" (arXiv:2205.14135). Sinks as in gpt-oss (arXiv:2508.10925), softcap as in Gemma 2
    (arXiv:2408.00118).
    """
    if type(q) is not Tensor and sharding.is_cut(q):
        options: dict[str, Any] = {
            "dilation": dilation,
            "scale": scale,
            "key_mask": key_mask,
            "key_lengths": key_lengths,
            "bias": bias,
            "softcap": softcap,
        }
        options |= {"sinks": sinks, "global_tokens": global_tokens, "dropout_p": dropout_p, "query_offset": query_offset}
        return sharding.over_ranks().attention(q, k, v, window_size, options | {"return_lse": return_lse, "out_dtype": out_dtype})  # type: ignore[no-any-return]
    left, right, taps = as_window(window_size, dilation)
    q, k, v = as_operands(q, k, v, 4)
    if type(dilation) is not int:
        check_heads_of(dilation, q)
    reals = as_reals(scale, softcap, dropout_p, q.shape[3])
    bias, sinks, key_mask, global_mask, count = as_options(q, k, (left, right), bias, sinks, key_mask, global_tokens)
    lengths, offsets, shift = as_entries(key_lengths, query_offset, q, k)
    with_lse = as_flag("return_lse", return_lse)
    seed = draw_seed(reals[1], q.device)
    band = (left, right, as_form(q, out_dtype), *taps)
    out, lse = attention(q, k, v, bias, sinks, key_mask, global_mask, None, None, seed, lengths, offsets, band, shift, count, reals)
    return (out, lse) if with_lse else out


@overload
def window_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    window_size: AnyWindow,
    *,
    return_lse: Literal[False] = False,
    **options: "Unpack[_Options]",
) -> Tensor: ...


@overload
def window_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    window_size: AnyWindow,
    *,
    return_lse: Literal[True],
    **options: "Unpack[_Options]",
) -> tuple[Tensor, Tensor]: ...


@overload
def window_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    window_size: AnyWindow,
    *,
    return_lse: bool,
    **options: "Unpack[_Options]",
) -> Tensor | tuple[Tensor, Tensor]: ...


def window_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    window_size: AnyWindow,
    *,
    dilation: Dilation = 1,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    global_tokens: int | Tensor | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    out_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`window_attention` of sequences of several lengths, packed one after the other. Each sees itself alone.

    Sequence s has the queries from cu_seqlens_q[s] to cu_seqlens_q[s + 1] and the keys from cu_seqlens_k[s] to cu_seqlens_k[s + 1]. The
    last query and the last key of each are aligned. Arguments that are not listed here are those of `window_attention`.

    Args:
        q: (total_q, H, D), any strides; float32, float64, bfloat16 or float16.
        k: (total_k, Hkv, D), q's dtype and device. H is a multiple of Hkv.
        v: (total_k, Hkv, Dv), likewise.
        cu_seqlens_q: (number of sequences + 1,), int32 or int64, on q's device: within 0 to total_q, never falling. Rows in front of the
            first sequence and behind the last are not looked at; out and gradients are 0 there, the log-sum-exp -inf.
        cu_seqlens_k: likewise within 0 to total_k.
        key_mask: (total_k,) bool.
        bias: (H, W) or (H, total_q, W).
        global_tokens: the first so many keys of each sequence, or a bool mask (total_k,).

    Returns:
        (total_q, H, Dv) of q's dtype or `out_dtype`, contiguous, or where q is a transposed (H, total_q, D) tensor laid out as that is.
        With return_lse also (H, total_q), float32 (float64 for float64).

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: what `window_attention` refuses, or sequences that do not fit the tensors.
        NotImplementedError: a second derivative, or a forward-mode one.

    >>> import torch
    >>> q, k, v = torch.zeros(3, 5, 1, 2)
    >>> ends = torch.tensor([0, 2, 5])
    >>> window_attention_varlen(q, k, v + torch.arange(5.0).view(5, 1, 1), ends, ends, (1, 0))[:, 0, 0]
    tensor([0.0000, 0.5000, 2.0000, 2.5000, 3.5000])

    Source: packed sequences as in Dao et al., "FlashAttention" (arXiv:2205.14135).
    """
    if type(q) is not Tensor and sharding.is_cut_varlen(q):
        options: dict[str, Any] = {
            "dilation": dilation,
            "scale": scale,
            "key_mask": key_mask,
            "bias": bias,
            "softcap": softcap,
            "sinks": sinks,
        }
        options |= {"global_tokens": global_tokens, "dropout_p": dropout_p, "return_lse": return_lse, "out_dtype": out_dtype}
        return sharding.over_ranks().attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, window_size, options)  # type: ignore[no-any-return]
    left, right, taps = as_window(window_size, dilation)
    q, k, v = as_operands(q, k, v, 3)
    if type(dilation) is not int:
        check_heads_of(dilation, q)
    cu_q, cu_k = as_bounds("cu_seqlens_q", cu_seqlens_q, q), as_bounds("cu_seqlens_k", cu_seqlens_k, q)
    reals = as_reals(scale, softcap, dropout_p, q.shape[2])
    bias, sinks, key_mask, global_mask, count = as_options(q, k, (left, right), bias, sinks, key_mask, global_tokens)
    with_lse = as_flag("return_lse", return_lse)
    seed = draw_seed(reals[1], q.device)
    q, k, v = q.unsqueeze(0).transpose(1, 2), k.unsqueeze(0).transpose(1, 2), v.unsqueeze(0).transpose(1, 2)
    bias = bias[None] if bias is not None and bias.ndim == 3 else bias
    key_mask = None if key_mask is None else key_mask[None]
    global_mask = None if global_mask is None else global_mask[None]
    band = (left, right, as_form(q, out_dtype), *taps)
    out, lse = attention(q, k, v, bias, sinks, key_mask, global_mask, cu_q, cu_k, seed, None, None, band, 0, count, reals)
    out = out.transpose(1, 2).squeeze(0)
    return (out, lse.squeeze(0)) if with_lse else out

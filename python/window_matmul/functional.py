# python/window_matmul/functional.py: the public operators on bands.
"""A band holds, for each query, one number for each key of its window: W = left + 1 + right columns ("slots").

Query i is aligned with key i + shift, where shift = Lk - Lq (the last query and the last key are aligned) unless `query_offset` says
otherwise. It sees key j = i + shift + t * dilation for t = -left .. right, as far as that key exists; slot c = t + left belongs to it.
"""

from torch import Tensor

from . import _sharding as sharding
from ._arguments import Dilation as Dilation
from ._arguments import WindowSize as WindowSize
from ._band import autograd
from ._band.arguments import as_band, as_count, as_fill, as_offset, as_operand, as_operands, check_heads, precision_of
from ._band.ops import HIGHEST


def window_matmul(
    q: Tensor,
    k: Tensor,
    window_size: WindowSize,
    *,
    dilation: Dilation = 1,
    fill: float = 0.0,
    query_offset: int | None = None,
) -> Tensor:
    """Scores of each query with the keys of its window: ``a[i, c] = sum_n q[i, n] * k[n, j(i, c)]``.

    Args:
        q: (..., Lq, N), any strides; float32, float64, bfloat16 or float16.
        k: (..., N, Lk), transposed: as a rule ``keys.mT`` of a (..., Lk, N) tensor, which is not copied. q's dtype and device.
            The leading dims of q and k broadcast as torch.matmul's do.
        window_size: an int w for w keys on each side, a pair (left, right), or a `Window`. Both sides bounded, at least 0.
        dilation: distance of neighbouring taps, at least 1; or one for each entry of dim -3 (the heads). A `Window` brings its own.
        fill: what slots hold whose key does not exist; not NaN. With -inf a plain softmax over the slots is right.
        query_offset: the key aligned with query 0; by default Lk - Lq.

    Returns:
        (..., Lq, W), contiguous, of q's dtype. Sums are taken in float32 (float64 for float64). Differentiable to any order.
        On a GPU, float32 products have the precision of torch.set_float32_matmul_precision, and so have the gradients of the call.
        Under autocast the inputs are cast to its dtype (float64 is left alone), which the result has.

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: a window that is unbounded or negative, shapes that do not fit, a device without kernels, fill NaN.

    >>> import torch
    >>> x = torch.arange(1.0, 9.0).view(4, 2)
    >>> window_matmul(x, x.mT, 1)
    tensor([[  0.,   5.,  11.],
            [ 11.,  25.,  39.],
            [ 39.,  61.,  83.],
            [ 83., 113.,   0.]])

    Source: the operator of this name in github.com/webis-de/pytorch-window-matmul; the "sliding chunks" of Beltagy, Peters and Cohan,
    "Longformer: The Long-Document Transformer" (arXiv:2004.05150), compute it with overlapping chunks.
    """
    if type(q) is not Tensor and sharding.is_cut(q):
        options = {"dilation": dilation, "fill": fill, "query_offset": query_offset}
        return sharding.over_ranks().band("window_matmul", q, k, window_size, options)  # type: ignore[no-any-return]
    left, right, taps = as_band(window_size, dilation)
    q, k, q_shape, k_shape = as_operands("q", q, "k", k)
    if q_shape[-1] != k_shape[-2]:
        raise ValueError(f"k is {tuple(k_shape)} beside q of {tuple(q_shape)}; its dim -2 needs to be q's dim -1, {q_shape[-1]}")
    if type(dilation) is not int:
        check_heads(dilation, "q", q)
    num_keys = k_shape[-1]
    shift = num_keys - q_shape[-2] if query_offset is None else as_offset(query_offset)
    precision = HIGHEST if q.is_cpu else precision_of(q)
    return autograd.band_out(q, k, (left, right, shift, num_keys, precision, *taps), *as_fill(fill))


def unwindow_matmul(a: Tensor, v: Tensor, window_size: WindowSize, *, dilation: Dilation = 1, query_offset: int | None = None) -> Tensor:
    """Sums of the values of each query's window, weighted by its slots: ``o[i, n] = sum_c a[i, c] * v[j(i, c), n]``.

    Args:
        a: (..., Lq, W), any strides; float32, float64, bfloat16 or float16. Slots whose key does not exist are ignored, whatever they hold.
        v: (..., Lk, N), any strides. a's dtype and device. The leading dims of a and v broadcast as torch.matmul's do.
        window_size: an int w for w keys on each side, a pair (left, right), or a `Window`. Both sides bounded, at least 0.
        dilation: distance of neighbouring taps, at least 1; or one for each entry of dim -3 (the heads). A `Window` brings its own.
        query_offset: the key aligned with query 0; by default Lk - Lq.

    Returns:
        (..., Lq, N), contiguous, of a's dtype. Sums are taken in float32 (float64 for float64). Differentiable to any order.
        On a GPU, float32 products have the precision of torch.set_float32_matmul_precision, and so have the gradients of the call.
        Under autocast the inputs are cast to its dtype (float64 is left alone), which the result has.

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: a window that is unbounded or negative, shapes that do not fit, a device without kernels.

    >>> import torch
    >>> unwindow_matmul(torch.ones(4, 3), torch.arange(1.0, 5.0).view(4, 1), 1).flatten()
    tensor([3., 6., 9., 7.])

    Source: the operator of this name in github.com/webis-de/pytorch-window-matmul.
    """
    if type(a) is not Tensor and sharding.is_cut(a):
        options = {"dilation": dilation, "query_offset": query_offset}
        return sharding.over_ranks().band("unwindow_matmul", a, v, window_size, options)  # type: ignore[no-any-return]
    left, right, taps = as_band(window_size, dilation)
    a, v, a_shape, v_shape = as_operands("a", a, "v", v)
    if a_shape[-1] != left + 1 + right:
        raise ValueError(f"a is {tuple(a_shape)}; its dim -1 needs to be left + 1 + right = {left + 1 + right}")
    if type(dilation) is not int:
        check_heads(dilation, "a", a)
    num_keys = v_shape[-2]
    shift = num_keys - a_shape[-2] if query_offset is None else as_offset(query_offset)
    precision = HIGHEST if a.is_cpu else precision_of(a)
    return autograd.band_in(a, v, (left, right, shift, num_keys, precision, *taps))


def window_softmax(
    a: Tensor,
    window_size: WindowSize,
    *,
    dilation: Dilation = 1,
    num_keys: int | None = None,
    query_offset: int | None = None,
) -> Tensor:
    """Softmax of each query's scores over the slots whose key exists; 0 in the others, whatever they hold.

    Args:
        a: (..., Lq, W), any strides; float32, float64, bfloat16 or float16.
        window_size: an int w for w keys on each side, a pair (left, right), or a `Window`. Both sides bounded, at least 0.
        dilation: distance of neighbouring taps, at least 1; or one for each entry of dim -3 (the heads). A `Window` brings its own.
        num_keys: Lk; by default Lq.
        query_offset: the key aligned with query 0; by default Lk - Lq.

    Returns:
        (..., Lq, W), contiguous, of a's dtype. A query without any key, or with scores of -inf alone, has 0 everywhere. Differentiable
        to any order. Under autocast `a` is cast to its dtype (float64 is left alone), which the result has.

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: a window that is unbounded or negative, shapes that do not fit, a device without kernels.

    >>> import torch
    >>> window_softmax(torch.zeros(3, 3), 1)
    tensor([[0.0000, 0.5000, 0.5000],
            [0.3333, 0.3333, 0.3333],
            [0.5000, 0.5000, 0.0000]])

    Source: softmax(Q K^T + mask) of Vaswani et al., "Attention Is All You Need" (arXiv:1706.03762), with the band as the mask.
    """
    if type(a) is not Tensor and sharding.is_cut(a):
        options = {"dilation": dilation, "num_keys": num_keys, "query_offset": query_offset}
        return sharding.over_ranks().band("window_softmax", a, None, window_size, options)  # type: ignore[no-any-return]
    left, right, taps = as_band(window_size, dilation)
    a = as_operand("a", a)
    a_shape = a.shape
    if a_shape[-1] != left + 1 + right:
        raise ValueError(f"a is {tuple(a_shape)}; its dim -1 needs to be left + 1 + right = {left + 1 + right}")
    if type(dilation) is not int:
        check_heads(dilation, "a", a)
    num_keys = a_shape[-2] if num_keys is None else as_count("num_keys", num_keys)
    shift = num_keys - a_shape[-2] if query_offset is None else as_offset(query_offset)
    return autograd.window_softmax(a, (left, right, shift, num_keys, HIGHEST, *taps))

# python/window_matmul/compat/torch_varlen.py: CPU kernels for torch's own varlen_attn, through its registry of providers.
"""`torch.nn.attention.varlen.varlen_attn`, windows included, on CPU tensors: forward and backward, eager and compiled.

    import window_matmul.compat.torch_varlen
    from torch.nn.attention import activate_flash_attention_impl

    activate_flash_attention_impl("window_matmul")

Importing registers the name and activates nothing; `restore_flash_attention_impl()` takes the kernels away. Results and gradients are those
of `window_attention_varlen`, bit for bit, in every dtype it has. How keys are split depends on shapes alone, so that max_q and max_k are
not needed and results are the same in any batch, as num_splits=1 asks for.

The limits are those of the wrapper: derivatives of the first order, no torch.func, and **no gradient through the log-sum-exp**: one
that `return_aux` asks for requires grad, and its gradient is dropped there. `window_attention_varlen(return_lse=True)` has it.
"""

from typing import Any

import torch
from torch import Tensor

from .._attention import ops
from .._attention.arguments import as_reals
from .._band.arguments import as_window
from ..attention import window_attention_varlen

try:
    from torch.nn.attention import register_flash_attention_impl
except ImportError as error:
    raise ImportError(f"torch {torch.__version__} has no registry of attention kernels; pip install 'torch>=2.11'") from error

__all__: list[str] = []

Window = tuple[int | None, int | None]


# ---- arguments -----------------------------------------------------------------------------------------------------------------------
def _window(left: int | None, right: int | None, is_causal: bool) -> Window:
    sides = {"window_size[0]": left, "window_size[1]": 0 if is_causal else right}
    for name, side in sides.items():
        if side is not None and side < -1:
            raise ValueError(f"{name} is {side}; it needs to be at least 0, or -1 for a side without bound")
    left, right = (None if side == -1 else side for side in sides.values())
    return left, right


def _check(query: Tensor, value: Tensor, bounds: dict[str, Tensor | None], dropout_p: float, return_debug_mask: bool = False) -> None:
    for name, x in bounds.items():
        if x is None:
            raise ValueError(f"{name} is None; it needs to say where the packed sequences begin and end")
    if value.shape[-1] != query.shape[-1]:
        raise ValueError(
            f"value is {tuple(value.shape)} beside query of {tuple(query.shape)}; varlen_attn needs one head dim for both, "
            "window_attention_varlen takes two"
        )
    if dropout_p != 0:
        raise ValueError(f"dropout_p is {dropout_p}; it needs to be 0 here, window_attention_varlen has dropout")
    if return_debug_mask:
        raise ValueError("return_debug_mask is True; it needs to be False: the weights are never stored")


def _refuse(seqused_k: Tensor | None, alibi_slopes: Tensor | None, block_table: Tensor | None, num_splits: int | None) -> None:
    for name, x in {"seqused_k": seqused_k, "alibi_slopes": alibi_slopes, "block_table": block_table}.items():
        if x is not None:
            raise ValueError(f"{name} is a tensor of {tuple(x.shape)}; it needs to be None: these kernels have no such option")
    if num_splits not in (None, 1):
        raise ValueError(f"num_splits is {num_splits}; it needs to be None or 1: shapes alone decide how keys are split")


def _laid_out_as(like: Tensor, x: Tensor) -> Tensor:
    """x in the strides that torch has promised a compiler, those of empty_like."""
    promised = torch.empty_like(like, device="meta").stride()
    return x if x.stride() == promised else x.new_empty_strided(x.shape, promised).copy_(x)


# ---- kernels, which run below autograd -----------------------------------------------------------------------------------------------
def _attend(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, window: Window, scale: float | None
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return window_attention_varlen(query, key, value, cu_q, cu_k, window, scale=scale, return_lse=True)


def _forward_inplace(out: Tensor, *args: Any, **options: Any) -> Tensor:
    result, lse, *_ = _forward(*args, **options)
    if out.shape != result.shape or out.dtype != result.dtype:
        raise ValueError(f"out is {tuple(out.shape)} of {out.dtype}; it needs to be as the query, {tuple(result.shape)} of {result.dtype}")
    out.copy_(result)
    return lse


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_q: Tensor | None,
    cu_k: Tensor | None,
    _max_q: int,
    _max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    seqused_k: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, ...]:
    _refuse(seqused_k, alibi_slopes, block_table, num_splits)
    _check(query, value, {"cu_seq_q": cu_q, "cu_seq_k": cu_k}, dropout_p, return_debug_mask)
    assert cu_q is not None and cu_k is not None
    out, lse = _attend(query, key, value, cu_q, cu_k, _window(window_size_left, window_size_right, is_causal), scale)
    random_state = torch.zeros(2, dtype=torch.uint64)
    return _laid_out_as(query, out), lse.float(), random_state, query.new_empty(0), query.new_empty(0)


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    _max_q: int,
    _max_k: int,
    dropout_p: float,
    is_causal: bool,
    _random_state: Tensor,
    _unused: Tensor,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
) -> tuple[Tensor, ...]:
    _check(query, value, {"cu_seq_q": cu_q, "cu_seq_k": cu_k}, dropout_p)
    window = _window(window_size_left, window_size_right, is_causal)
    if query.dtype is torch.float64:  # the wrapper's lse is float32, which would round the weights
        out, lse = _attend(query, key, value, cu_q, cu_k, window, scale)
    left, right, _ = as_window(window, 1)
    d_out, q, k, v, out = (x[None].transpose(1, 2) for x in (grad_out, query, key, value, out))
    band, reals = (left, right, int(q.stride(1) < q.stride(2))), as_reals(scale, 0.0, 0.0, q.shape[3])
    before, behind = (None,) * 4, (None,) * (ops.NUM_TENSORS - 9)  # the options that are not used
    tensors: Any = (d_out, None, out, lse[None], q, k, v, *before, cu_q, cu_k, *behind)
    gradients = ops.direct_attention_backward(*tensors, band, 0, 0, reals, 0b111)[:3]
    pairs = zip((query, key, value), gradients, strict=True)
    return tuple(_laid_out_as(x, gradient.transpose(1, 2).squeeze(0)) for x, gradient in pairs)


# ---- registry ------------------------------------------------------------------------------------------------------------------------
class _Handle:
    """Keeps the kernels in the dispatcher."""

    def __init__(self, library: torch.library.Library) -> None:
        self.library: torch.library.Library | None = library

    def remove(self) -> None:
        self.library = None


def _activate() -> _Handle:
    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl("_flash_attention_forward", _forward, "CPU")
    library.impl("_flash_attention_backward", _backward, "CPU")
    if hasattr(torch.ops.aten, "_flash_attention_forward_no_dropout_inplace"):  # varlen_attn_out, of newer releases
        library.impl("_flash_attention_forward_no_dropout_inplace", _forward_inplace, "CPU")
    return _Handle(library)


register_flash_attention_impl("window_matmul", register_fn=_activate)

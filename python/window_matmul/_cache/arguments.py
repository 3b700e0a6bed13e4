# python/window_matmul/_cache/arguments.py: the arguments of `RollingCache`, checked before anything is written.
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled

from .. import _load, _sharding
from .._attention.arguments import as_kept
from .._band.arguments import DTYPES, STRIDED, as_count, as_operand, check_strided, to_window
from .._integers import as_int, as_positive
from ..window import Window

_MAX_BYTES = 1 << 62  # what a size in bytes may be in torch, with room


@dataclass(frozen=True)
class Sizes:
    """What a cache is made for."""

    batch_size: int
    num_kv_heads: int
    head_dim: int
    value_head_dim: int
    window: Window
    num_pinned: int
    spare: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        for name in ("batch_size", "head_dim", "value_head_dim", "num_pinned", "spare"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        object.__setattr__(self, "num_kv_heads", as_positive("num_kv_heads", self.num_kv_heads))
        if self.dtype not in DTYPES:
            raise TypeError(f"dtype is {self.dtype!r}; it needs to be float32, float64, bfloat16 or float16")
        token = max(self.batch_size, 1) * self.num_kv_heads * max(self.head_dim, self.value_head_dim, 1) * self.dtype.itemsize
        if token * (self.reach + 1 + self.spare + self.num_pinned) > _MAX_BYTES:
            raise ValueError(f"window_size, num_pinned and spare ask for a cache of {self}; it needs to have less than 2**62 bytes")

    @property
    def left(self) -> int:
        assert self.window.left is not None
        return self.window.left

    @property
    def reach(self) -> int:
        """How many tokens back the window begins."""
        return self.left * self.window.dilation

    def __str__(self) -> str:
        dilation = f", dilation={self.window.dilation}" if self.window.dilation != 1 else ""
        spare = f", spare={self.spare}" if self.spare else ""
        return (
            f"batch_size={self.batch_size}, num_kv_heads={self.num_kv_heads}, head_dim={self.head_dim}, "
            f"value_head_dim={self.value_head_dim}, window=({self.left}, 0){dilation}, num_pinned={self.num_pinned}{spare}"
        )


def as_size(name: str, value: object) -> int:
    return as_count(name, value, "an int of at least 0")


def to_device(device: object) -> torch.device:
    if device is not None and not isinstance(device, str | torch.device):
        raise TypeError(f"device is {device!r} ({type(device).__name__}); it needs to be a torch.device, its name, or None")
    try:
        return torch.get_default_device() if device is None else torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; it needs to be a torch.device, its name, or None: {error}") from None


def as_device(device: object) -> torch.device:
    """One with kernels."""
    where = to_device(device)
    if where.type == "cuda" and _load.why_no_cuda:
        raise ValueError(f"device is {where}; it needs to be the CPU: {_load.why_no_cuda}")
    if where.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"device is {where}; it needs to be the CPU or an NVIDIA GPU: there are no other kernels")
    return where


def as_causal(window_size: object) -> Window:
    window = to_window(window_size)
    if window.left is None or window.right != 0:
        raise ValueError(
            f"window_size is {window_size!r}; a cache needs a bounded left side and right = 0: it looks back, and not without end"
        )
    return window


# ---- tensors of a call --------------------------------------------------------------------------------------------------------------
def check_attend(
    sizes: Sizes, device: torch.device, qkv: tuple[Tensor, Tensor, Tensor], sinks: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """q, k, v and sinks, cast if autocast asks for it, after every check that needs the cache. Most of what is right gets a short way
    through."""
    if sinks is bias is None and _are_right(sizes, device, *qkv):
        return *qkv, None
    for name, x in zip(("q", "k", "v", "sinks", "bias"), (*qkv, sinks, bias), strict=True):
        if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} requires grad while gradients are recorded; it needs to be without: a cache is for inference, under "
                "torch.inference_mode() or torch.no_grad()"
            )
    q, k, v = (_as_tokens(name, x, sizes.dtype, device) for name, x in zip("qkv", qkv, strict=True))
    new = q.shape[2]
    heads = f"a multiple of {sizes.num_kv_heads} heads"
    if q.shape[0] != sizes.batch_size or q.shape[1] % sizes.num_kv_heads or q.shape[3] != sizes.head_dim:
        raise ValueError(f"q is {tuple(q.shape)}; it needs to be ({sizes.batch_size}, {heads}, n, {sizes.head_dim})")
    for name, x, dim in (("k", k, sizes.head_dim), ("v", v, sizes.value_head_dim)):
        need = (sizes.batch_size, sizes.num_kv_heads, new, dim)
        if x.shape != need:
            raise ValueError(f"{name} is {tuple(x.shape)} beside q of {tuple(q.shape)}; it needs to be {need}")
    sinks = as_kept(sinks, q.dtype) if isinstance(sinks, Tensor) else sinks
    _check_options(q, sizes.left + 1, sinks, bias)
    return q, k, v, sinks


def _are_right(sizes: Sizes, device: torch.device, q: Tensor, k: Tensor, v: Tensor) -> bool:
    if not (type(q) is type(k) is type(v) is Tensor) or _is_any_autocast_enabled():
        return False
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return False
    for x in (q, k, v):
        if x.dtype is not sizes.dtype or x.device != device or x.layout is not STRIDED or x.is_nested or x.ndim != 4:
            return False
    batch, heads, new, dim = q.shape
    keys = batch, sizes.num_kv_heads, new
    return (
        batch == sizes.batch_size
        and heads % sizes.num_kv_heads == 0
        and dim == sizes.head_dim
        and k.shape == (*keys, dim)
        and v.shape == (*keys, sizes.value_head_dim)
    )


def _as_tokens(name: str, x: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    if _sharding.is_loaded() and _sharding.is_dtensor(x):
        raise ValueError(
            f"{name} is a DTensor; it needs to be a plain tensor: a cache holds the part of one rank, as x.to_local() gives it"
        )
    x = as_operand(name, x)
    if x.dtype is not dtype:
        raise TypeError(f"{name} is {x.dtype}; it needs to be {dtype}, the cache's (under autocast, a cache of autocast's dtype)")
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}; it needs to be on {device}, where the cache is")
    if x.ndim != 4:
        raise ValueError(f"{name} is {tuple(x.shape)}; it needs to have 4 dims: batch, heads, tokens, features")
    return x


def _check_options(q: Tensor, width: int, sinks: Tensor | None, bias: Tensor | None) -> None:
    """What `window_attention` cannot say of its own call: shapes beside all of q, and sinks, which it may not get to see."""
    batch, heads, new, _ = q.shape
    for name, x, shapes in (("sinks", sinks, [(heads,)]), ("bias", bias, [(heads, width), (batch, heads, new, width)])):
        if x is None:
            continue
        check_strided(name, x)
        if not any(x.shape == shape for shape in shapes):
            raise ValueError(f"{name} is {tuple(x.shape)} beside q of {tuple(q.shape)}; it needs to be {' or '.join(map(str, shapes))}")
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device}; it needs to be on {q.device}, where the cache is")
    if sinks is not None and sinks.dtype not in (q.dtype, torch.float32):
        raise TypeError(f"sinks is {sinks.dtype}; it needs to be {q.dtype} or float32")


# ---- rows and states ----------------------------------------------------------------------------------------------------------------
def as_lengths(lengths: Sequence[int] | Tensor, batch_size: int, new: int) -> list[int]:
    """How many of the new tokens each row has."""
    numbers = _as_numbers("lengths", lengths, batch_size)
    for row, number in enumerate(numbers):
        if number > new:
            raise ValueError(f"lengths[{row}] is {number}; it needs to be at most {new}, the number of new tokens")
    return numbers


def as_lengths_there(lengths: Sequence[int] | Tensor, batch_size: int, new: int, device: torch.device) -> Tensor:
    """The same for a cache on a GPU. Numbers that are there are not read: they are cut to what exists."""
    if not isinstance(lengths, Tensor) or lengths.device != device:
        return torch.tensor(as_lengths(lengths, batch_size, new), dtype=torch.int64, device=device)
    _check_numbers("lengths", lengths, batch_size)
    return lengths.to(torch.int64).clamp(0, new)


def as_crops(n: int | Sequence[int] | Tensor, lengths: list[int], cropped: list[int], spare: int) -> list[int]:
    """How many tokens each row forgets: of those there are, and with those forgotten before at most `spare`."""
    if isinstance(n, Tensor) and n.ndim == 0:
        _check_values("n", n)
        n = n.item()  # type: ignore[assignment]
    one_for_all = not isinstance(n, Tensor | Sequence) or isinstance(n, str)
    numbers = [as_size("n", n)] * len(lengths) if one_for_all else _as_numbers("n", n, len(lengths))  # type: ignore[arg-type]
    for row, (number, length, before) in enumerate(zip(numbers, lengths, cropped, strict=True)):
        name = "n" if one_for_all else f"n[{row}]"
        if number > length:
            raise ValueError(f"{name} is {number}; it needs to be at most {length}, the tokens that row {row} has")
        if number > spare - before:
            said = f", {before} of which row {row} has forgotten before" if before else ""
            raise ValueError(f"{name} is {number}; it needs to be at most {spare - before}: the cache was made with spare={spare}{said}")
    return numbers


def _as_numbers(name: str, numbers: Sequence[int] | Tensor, batch_size: int) -> list[int]:
    """An int of at least 0 for each row."""
    if isinstance(numbers, Tensor):
        _check_numbers(name, numbers, batch_size)
        _check_values(name, numbers)
        numbers = numbers.tolist()
    if isinstance(numbers, str) or not isinstance(numbers, Sequence):
        raise TypeError(f"{name} is {numbers!r} ({type(numbers).__name__}); it needs to hold an int for each of the {batch_size} rows")
    if len(numbers) != batch_size:
        raise ValueError(f"{name} holds {len(numbers)} numbers; it needs to hold one for each of the {batch_size} rows")
    return [as_size(f"{name}[{row}]", number) for row, number in enumerate(numbers)]


def _check_numbers(name: str, numbers: Tensor, batch_size: int) -> None:
    if numbers.dtype is torch.bool or numbers.is_floating_point() or numbers.is_complex():
        raise TypeError(f"{name} is {numbers.dtype}; it needs to hold an int for each of the {batch_size} rows")
    if numbers.shape != (batch_size,):
        raise ValueError(f"{name} is {tuple(numbers.shape)}; it needs to be ({batch_size},)")


def _check_values(name: str, numbers: Tensor) -> None:
    if numbers.is_meta:
        raise ValueError(f"{name} is on meta; it needs to have values")


def as_rows(name: str, rows: int | Sequence[int] | Tensor, batch_size: int) -> list[int]:
    """Numbers of rows, from 0 to batch_size - 1."""
    need = f"ints from 0 to {batch_size - 1}: the batch has {batch_size} rows"
    if isinstance(rows, Tensor):
        _check_values(name, rows)
        if rows.dtype is torch.bool:
            if rows.shape != (batch_size,):
                raise ValueError(f"{name} is a bool tensor of {tuple(rows.shape)}; it needs to be ({batch_size},)")
            rows = rows.nonzero()[:, 0]
        elif rows.is_floating_point() or rows.is_complex():
            raise TypeError(f"{name} is {rows.dtype}; it needs to hold {need}")
        if rows.ndim > 1:
            raise ValueError(f"{name} is {tuple(rows.shape)}; it needs to have one dim")
        rows = rows.tolist()
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        rows = [as_int(name, rows, need)]
    numbers = [as_int(f"{name}[{at}]", row, need) for at, row in enumerate(rows)]
    for at, row in enumerate(numbers):
        if not 0 <= row < batch_size:
            raise ValueError(f"{name}[{at}] is {row}; it needs to be {need}")
    return numbers


def check_state(state: Mapping[str, Any], like: Mapping[str, Any]) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """keys, values, lengths and cropped of a state with the entries, shapes and dtypes of another."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state is of type {type(state).__name__}; it needs to be what state_dict() returned")
    if state.keys() != like.keys():
        raise ValueError(f"state has the entries {sorted(map(str, state))}; it needs to have {sorted(like)}")
    for name in ("left", "dilation", "num_pinned", "spare"):
        if as_int(name, state[name]) != like[name]:
            raise ValueError(f"{name} is {state[name]!r} in the state; it needs to be {like[name]}, the cache's")
    for name in ("keys", "values"):
        x, own = state[name], like[name]
        if not isinstance(x, Tensor) or x.dtype is not own.dtype:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} is {kind} in the state; it needs to be a tensor of the cache's dtype, {own.dtype}")
        if x.shape != own.shape:
            raise ValueError(f"{name} is {tuple(x.shape)} in the state; it needs to be {tuple(own.shape)}, the cache's")
        if x.is_meta and not own.is_meta:
            raise ValueError(f"{name} is on meta in the state; it needs to have values, for a cache on {own.device}")
    for name in ("lengths", "cropped"):
        numbers = state[name]
        if not isinstance(numbers, list) or len(numbers) != len(like[name]):
            raise ValueError(f"{name} is {numbers!r} in the state; it needs to be a list of {len(like[name])} ints")
    lengths, cropped = ([as_size(name, number) for number in state[name]] for name in ("lengths", "cropped"))
    if max(cropped, default=0) > like["spare"]:
        raise ValueError(f"cropped is {cropped} in the state; it needs to be at most {like['spare']}, the cache's spare")
    return state["keys"], state["values"], lengths, cropped

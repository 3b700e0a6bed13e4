# python/window_matmul/hf/_patterns.py: a pattern of attention, and the tensor in whose place it travels from mask to attention function.
"""transformers calls the mask function once a forward, and hands what it returns to the attention function of every layer. Between the two
lie other people's models, gradient checkpointing, `.to(device)` and torch.compile, which know masks as 4-D tensors. So a pattern travels as
one: `WindowMask` says it is (B, 1, Lq, Lk) and holds a single element, with the pattern as an attribute. Whoever computes with it
gets the dense mask it stands for.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from ..compat import fall_back


class Pattern(NamedTuple):
    """Query i sees the keys from i + offset - left to i + offset + right (None: all), which a `key_mask` (B, Lk) lets through.

    With `bounds`, int32, queries and keys of all batch entries are one row, cut into sequences that see only themselves.
    With `bias` (B, H or 1, Lq, left + 1 + right), numbers to be added to the scores; -inf where a key is not seen.
    """

    left: int | None
    right: int | None
    offset: int = 0
    key_mask: Tensor | None = None
    bounds: Tensor | None = None
    bias: Tensor | None = None

    def to(self, device: torch.device) -> Pattern:
        tables = (None if x is None else x.to(device) for x in (self.key_mask, self.bounds, self.bias))
        return Pattern(self.left, self.right, self.offset, *tables)


class WindowMask(Tensor):
    """A pattern in the shape of a mask (B, 1, Lq, Lk), bool or of the dtype of a model that adds masks to scores."""

    pattern: Pattern
    sizes: tuple[int, int, int, int]  # its shape, which is quicker to ask for than the tensor's

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if (name in _LOOKS or name.startswith(("is_", "_is_"))) and func not in _VIEWS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if name in _KEEPS:
            return args[0]
        if name in _MOVES:
            return _moved(func, args, kwargs)
        if name == "__getitem__" and (part := _some_rows(*args)) is not None:
            return part
        if name != "__repr__":
            fall_back(f"{name} of an attention mask needs all (Lq, Lk) of it, so attention is computed the dense way")
        return func(*(_densely(x) for x in args), **{name: _densely(x) for name, x in kwargs.items()})


# Names, since a traced function is not equal to itself. All attributes are __get__.
_LOOKS = frozenset(
    ("__get__", "__len__", "size", "dim", "numel", "stride", "storage_offset", "untyped_storage", "element_size", "get_device")
)
_VIEWS = frozenset(getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "data", "real"))
_KEEPS = frozenset(("contiguous", "detach", "clone"))
_MOVES = frozenset(("to", "cpu", "cuda"))


def window_mask(shape: tuple[int, int, int, int], device: torch.device, pattern: Pattern, dtype: torch.dtype = torch.bool) -> WindowMask:
    is_watched = not torch.compiler.is_dynamo_compiling() and torch._C._len_torch_dispatch_stack() > 0
    with _disable_current_modes() if is_watched else nullcontext():  # a FakeTensor is a subclass by itself
        mask = torch.empty((), dtype=dtype, device=device).expand(shape).as_subclass(WindowMask)
    mask.pattern, mask.sizes = pattern, shape
    return mask


def is_traced(x: Tensor) -> bool:
    """Whether nobody can look at its values: in a graph, on "meta", of a FakeTensorMode."""
    return torch.compiler.is_compiling() or x.is_meta or isinstance(x, FakeTensor)


def _some_rows(mask: WindowMask, index: Any) -> WindowMask | None:
    """mask[:, :, first:last], whose queries are aligned with later keys: of models whose last layers compute the last queries alone."""
    if type(index) is not tuple or len(index) > 4 or not all(type(x) is slice for x in index) or mask.pattern.bounds is not None:
        return None
    ranges = [range(*x.indices(size)) for x, size in zip((*index, *(slice(None),) * (4 - len(index))), mask.shape, strict=True)]
    rows = ranges.pop(2)
    if rows.step != 1 or ranges != [range(mask.shape[n]) for n in (0, 1, 3)]:
        return None
    bias = None if mask.pattern.bias is None else mask.pattern.bias[:, :, rows.start : rows.stop]
    pattern = mask.pattern._replace(offset=mask.pattern.offset + rows.start, bias=bias)
    batch, heads, _, columns = mask.shape
    return window_mask((batch, heads, len(rows), columns), mask.device, pattern, mask.dtype)


def _moved(func: Any, args: Any, kwargs: Any) -> Tensor:
    """What a model does with masks of any kind: another device; another dtype takes the dense mask."""
    mask = args[0]
    with torch._C.DisableTorchFunctionSubclass():
        moved = func(torch.empty(0, dtype=mask.dtype, device=mask.device), *args[1:], **kwargs)
    if moved.dtype is not mask.dtype:
        return func(dense_mask(mask), *args[1:], **kwargs)  # type: ignore[no-any-return]
    if moved.device == mask.device:
        return mask  # type: ignore[no-any-return]
    return window_mask(tuple(mask.shape), moved.device, mask.pattern.to(moved.device), mask.dtype)


def _densely(x: Any) -> Any:
    if isinstance(x, WindowMask):
        return dense_mask(x)
    return type(x)(_densely(y) for y in x) if type(x) in (list, tuple) else x


def dense_mask(mask: WindowMask) -> Tensor:
    """(B, 1, Lq, Lk) of the mask's dtype: all pairs."""
    batch, _, rows, columns = mask.shape
    return as_mask(dense_pattern(mask.pattern, batch, rows, columns, mask.device), mask.dtype)


def as_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool, or numbers to be added to the scores as transformers has them: 0, or the lowest of the dtype."""
    return seen if dtype is torch.bool else torch.zeros((), dtype=dtype, device=seen.device).where(seen, torch.finfo(dtype).min)


def dense_pattern(pattern: Pattern, batch: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """(B, 1, rows, columns) bool. A bias counts as far as it hides keys."""
    left, right, offset, key_mask, bounds, bias = pattern
    distance = torch.arange(columns, device=device) - torch.arange(rows, device=device)[:, None] - offset
    seen = torch.ones((), dtype=torch.bool, device=device).expand(batch, 1, rows, columns)
    if left is not None:
        seen = seen & (distance >= -left)
    if right is not None:
        seen = seen & (distance <= right)
    if key_mask is not None:
        seen = seen & key_mask[:, None, None]
    if bounds is not None:
        numbers = torch.bucketize(torch.arange(batch * rows, device=device), bounds[1:], right=True).view(batch, 1, rows)
        seen = seen & (numbers[..., None] == numbers[..., None, :])
    if bias is not None:
        assert left is not None and right is not None
        slots = (distance + left).clamp(0, left + right).expand(batch, 1, rows, columns)
        seen = seen & (bias > -torch.inf).any(1, keepdim=True).expand(batch, -1, -1, -1).gather(-1, slots)
    return seen


def in_band(x: Tensor, left: int, right: int, offset: int) -> Tensor:
    """The slots (..., Lq, left + 1 + right) of a dense (..., Lq, Lk); those without a key hold any number."""
    rows, columns = x.shape[-2:]
    row = torch.arange(rows, device=x.device)[:, None]
    return x[..., row, (row + torch.arange(offset - left, offset + right + 1, device=x.device)).clamp(0, columns - 1)]

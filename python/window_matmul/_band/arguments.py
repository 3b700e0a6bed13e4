# python/window_matmul/_band/arguments.py: the arguments of the public functions, checked and brought to the form the operators take.
"""Most functions have a short way through for what is right as it stands. Whatever is not takes the long way, which adapts it or says
precisely what is wrong: TypeError for a type or tensor dtype, ValueError for a value, shape or device.
"""

import math
from numbers import Real

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled

from .. import _load
from .._integers import as_int, as_positive, as_side
from ..window import Window
from .ops import HIGH, HIGHEST

STRIDED = torch.strided
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MAX_DIMS = 16
_MAX_SIDE = 1 << 59  # left + 1 + right stays within 2**60, what the library takes
_MAX_DISTANCE = 1 << 60
UNBOUNDED = 1 << 60  # a side that reaches beyond every sequence


# ---- window_size, dilation ----------------------------------------------------------------------------------------------------------
def as_band(window_size: object, dilation: object) -> tuple[int, int, tuple[int, ...]]:
    """left, right, and the dilation: () for 1, one int, or one for each entry of dim -3."""
    left = right = None
    if type(window_size) is int:
        left = right = window_size
    elif type(window_size) is tuple and len(window_size) == 2:
        left, right = window_size
    elif type(window_size) is Window and window_size.dilation == 1:
        left, right = window_size.left, window_size.right
    if (
        type(left) is int
        and type(right) is int
        and 0 <= left < _MAX_SIDE
        and 0 <= right < _MAX_SIDE
        and type(dilation) is int
        and dilation == 1
    ):
        return left, right, ()
    return _as_any_band(window_size, dilation)


def _as_any_band(window_size: object, dilation: object) -> tuple[int, int, tuple[int, ...]]:
    left, right = _sides(window_size)
    if left is None or right is None or left >= _MAX_SIDE or right >= _MAX_SIDE:
        raise ValueError(
            f"window_size is {window_size!r}; each side needs to be bounded, and below 2**59: a band is stored in left + 1 + right columns"
        )
    return left, right, as_dilation(window_size, dilation, "entry of dim -3")


def as_window(window_size: object, dilation: object) -> tuple[int, int, tuple[int, ...]]:
    """As `as_band`, for fused attention: a side may be UNBOUNDED, and the dilation is one for each head."""
    if type(dilation) is int and dilation == 1:
        left, right = window_size if type(window_size) is tuple and len(window_size) == 2 else (window_size, window_size)
        if type(left) is int and type(right) is int and 0 <= left < _MAX_SIDE and 0 <= right < _MAX_SIDE:
            return left, right, ()
    left, right = (UNBOUNDED if side is None or side >= _MAX_SIDE else side for side in _sides(window_size))
    return left, right, as_dilation(window_size, dilation, "head")


def _sides(window_size: object) -> tuple[int | None, int | None]:
    need = "an int of at least 0, a pair (left, right) of such, or a Window"
    if isinstance(window_size, Window):
        return window_size.left, window_size.right
    if isinstance(window_size, tuple | list):
        if len(window_size) != 2:
            raise ValueError(f"window_size is {window_size!r}; it needs to be {need}")
        return as_side("window_size[0]", window_size[0]), as_side("window_size[1]", window_size[1])
    if window_size is None:
        return None, None
    side = as_int("window_size", window_size, need)
    if side < 0:
        raise ValueError(f"window_size is {side}; it needs to be {need}")
    return side, side


def to_window(window_size: object) -> Window:
    """The same as a Window."""
    return window_size if isinstance(window_size, Window) else Window(*_sides(window_size))


def as_dilation(window_size: object, dilation: object, each: str) -> tuple[int, ...]:
    """The dilation, which a Window brings along: () for 1, one int, or one for `each`."""
    taps = _taps(dilation, each)
    if isinstance(window_size, Window) and any(tap != window_size.dilation for tap in taps):
        if taps != (1,) or isinstance(dilation, tuple | list):
            raise ValueError(f"dilation is {dilation!r} beside {window_size!r}; it needs to be the same, or left away")
        taps = (window_size.dilation,)
    if max(taps) > _MAX_DISTANCE:
        raise ValueError(f"dilation is {max(taps)}; it needs to be at most 2**60")
    return () if taps == (1,) else taps


def _taps(dilation: object, each: str) -> tuple[int, ...]:
    if not isinstance(dilation, tuple | list):
        return (as_positive("dilation", dilation, f"an int of at least 1, or a tuple or list of one for each {each}"),)
    if not dilation:
        raise ValueError(f"dilation is {dilation!r}; it needs an int for each {each}")
    return tuple(as_positive(f"dilation[{head}]", tap) for head, tap in enumerate(dilation))


def check_heads(dilation: object, name: str, x: Tensor) -> None:
    """A dilation for each head needs the heads: dim -3, after broadcasting."""
    if isinstance(dilation, tuple | list) and (x.ndim < 3 or x.shape[-3] != len(dilation)):
        raise ValueError(
            f"dilation is {dilation!r}; it needs an int for each entry of dim -3 of {name}, which is {tuple(x.shape)} after broadcasting"
        )


# ---- numbers ------------------------------------------------------------------------------------------------------------------------
# Under torch.compile and torch.export a length may be a symbol; as an index it would become a constant, so it is passed on as it is.
def as_offset(query_offset: object, need: str = "an int or None") -> int:
    if isinstance(query_offset, torch.SymInt):
        return query_offset  # type: ignore[return-value]
    offset = as_int("query_offset", query_offset, need)
    if abs(offset) > _MAX_DISTANCE:
        raise ValueError(f"query_offset is {offset}; it needs to be from -2**60 to 2**60")
    return offset


def as_count(name: str, value: object, need: str = "an int of at least 0, or None", at_most: int | None = None) -> int:
    """A number from 0 to 2**60; of one beyond `at_most`, that."""
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    number = as_int(name, value, need)
    if number < 0 or (number > _MAX_DISTANCE and at_most is None):
        raise ValueError(f"{name} is {number}; it needs to be " + ("from 0 to 2**60" if at_most is None else need))
    return number if at_most is None else min(number, at_most)


def as_fill(fill: object) -> tuple[float, ...]:
    """Nothing for 0.0, which is the operator's own default."""
    if type(fill) is float and fill == 0.0 and math.copysign(1.0, fill) == 1.0:
        return ()
    if isinstance(fill, bool) or not isinstance(fill, Real):
        raise TypeError(f"fill is {fill!r} ({type(fill).__name__}); it needs to be a float")
    try:
        value = float(fill)
    except OverflowError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"fill is {fill!r}; it needs to be a float other than NaN, infinities included")
    return (value,)


# ---- tensors ------------------------------------------------------------------------------------------------------------------------
def as_operands(x_name: str, x: Tensor, y_name: str, y: Tensor) -> tuple[Tensor, Tensor, torch.Size, torch.Size]:
    """Both, and their shapes, as the operators take them: one dtype, one device, equal leading dims. Only autocast copies."""
    if (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and x.dtype is y.dtype
        and x.dtype in DTYPES
        and ((x.is_cpu and y.is_cpu) or _are_on_one_gpu(x, y))
        and x.layout is STRIDED
        and y.layout is STRIDED
        and not (x.is_nested or y.is_nested)
        and not _is_any_autocast_enabled()
    ):
        x_shape, y_shape = x.shape, y.shape
        dims = len(x_shape)
        if dims == len(y_shape) and (dims == 2 or (2 < dims <= _MAX_DIMS and x_shape[:-2] == y_shape[:-2])):
            return x, y, x_shape, y_shape
    x, y = as_operand(x_name, x), as_operand(y_name, y)
    check_beside(y_name, y, x_name, x)
    try:
        leading = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        x, y = x.expand(*leading, *x.shape[-2:]), y.expand(*leading, *y.shape[-2:])
    except RuntimeError:
        raise ValueError(
            f"{y_name} is {tuple(y.shape)} beside {x_name} of {tuple(x.shape)}; the leading dims (all but two) need to be broadcastable, "
            "to a size that fits into 64 bits"
        ) from None
    return x, y, x.shape, y.shape


def _are_on_one_gpu(x: Tensor, y: Tensor) -> bool:
    return x.is_cuda and y.is_cuda and x.device == y.device and not _load.why_no_cuda


def as_operand(name: str, x: Tensor) -> Tensor:
    """A tensor that the operators take, cast if autocast asks for it."""
    check_dense(name, x)
    if not 2 <= x.ndim <= _MAX_DIMS:
        raise ValueError(f"{name} is {tuple(x.shape)}; it needs to have 2 to {_MAX_DIMS} dims")
    return as_autocast(x)


def check_dense(name: str, x: Tensor) -> None:
    """A dense tensor of a dtype and on a device that the operators take."""
    check_strided(name, x)
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} is {x.dtype}; it needs to be float32, float64, bfloat16 or float16")
    if x.is_cuda and _load.why_no_cuda:
        raise ValueError(f"{name} is on the device {x.device}; it needs to be on the CPU: {_load.why_no_cuda}")
    if x.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{name} is on the device {x.device}; it needs to be on the CPU or on an NVIDIA GPU: there are no other kernels")


def check_strided(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is of type {type(x).__name__}; it needs to be a torch.Tensor")
    if x.layout is not STRIDED or x.is_nested:
        raise TypeError(f"{name} has the layout {x.layout}{' (nested)' * x.is_nested}; it needs to be a dense tensor")


def as_autocast(x: Tensor) -> Tensor:
    device = x.device.type
    if device != "meta" and x.dtype is not torch.float64 and torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x


def precision_of(x: Tensor) -> int:
    """Of products with x: torch's, for float32 on a GPU. What is recorded keeps it for its gradients."""
    return HIGH if x.is_cuda and x.dtype is torch.float32 and _allows_tf32() else HIGHEST


def _allows_tf32() -> bool:
    """torch.set_float32_matmul_precision("high") or ("medium"), or what torch.backends has for the same."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


# As torch.compiler.assume_constant_result does, which would import the compiler: graphs hold the answer, and are guarded by the setting.
_allows_tf32._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_beside(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """One dtype, one device."""
    if x.dtype is not other.dtype:
        raise TypeError(f"{name} is {x.dtype} beside {other_name} of {other.dtype}; it needs to be the same")
    check_device(name, x, other_name, other)


def check_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device} beside {other_name} on {other.device}; it needs to be on the same device")

# python/window_matmul/_band/arguments.py: the arguments of the public functions, checked and brought to the form the operators take.
"""Most functions have a short way through for what is right as it stands. Whatever is not takes the long way, which adapts it or says
precisely what is wrong: TypeError for a type or tensor dtype, ValueError for a value, shape or device.
"""

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled

from .. import _arguments as plain
from .. import _load
from .._arguments import MAX_DIMS as _MAX_DIMS
from .._arguments import UNBOUNDED as UNBOUNDED
from .._arguments import as_band as as_band
from .._arguments import as_dilation as as_dilation
from .._arguments import as_fill as as_fill
from .._arguments import as_window as as_window
from .._arguments import check_heads as check_heads
from .._arguments import to_window as to_window
from .ops import HIGH, HIGHEST

STRIDED = torch.strided
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


# ---- numbers ------------------------------------------------------------------------------------------------------------------------
# Under torch.compile and torch.export a length may be a symbol; as an index it would become a constant, so it is passed on as it is.
def as_offset(query_offset: object, need: str = "an int or None") -> int:
    if isinstance(query_offset, torch.SymInt):
        return query_offset  # type: ignore[return-value]
    return plain.as_offset(query_offset, need)


def as_count(name: str, value: object, need: str = plain.COUNT, at_most: int | None = None) -> int:
    """A number from 0 to 2**60; of one beyond `at_most`, that."""
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    return plain.as_count(name, value, need, at_most)


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

# python/window_matmul/compat/_arrays.py: arrays of any library, as the C library takes them, not copied where it can read them.
import ctypes
import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._c_library import MAX_DIMS, Tensor, tensor
from ._array_checks import check_size

_CPU, _PINNED = 1, 3  # devices of DLPack: here, and here for a GPU to read
_DEVICES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda (managed)", 14: "oneapi"}
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}  # of dtypes there


class _DLTensor(ctypes.Structure):
    """DLPack's DLTensor, with which its DLManagedTensor begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


class Array:
    """An argument: its shape, dtype and memory, which lives as long as this."""

    def __init__(self, data: int, dtype: str, shape: Sequence[int], strides: Sequence[int], owner: object) -> None:
        self.data, self.dtype, self.shape, self.strides, self._owner = data, dtype, tuple(shape), tuple(strides), owner

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def tensor(self) -> Tensor:
        return tensor(self.data, self.dtype, self.shape, self.strides)


def as_array(name: str, x: object) -> Array:
    """Of any dtype; what is on another device is refused."""
    if isinstance(x, np.ndarray):
        return _of_numpy(name, x)
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(f"{name} is of type {type(x).__name__}; it needs to be an array: NumPy's, or one with __dlpack__")
    return _of_dlpack(name, x)


def _dense(shape: Sequence[int]) -> list[int]:
    return [math.prod(max(size, 1) for size in shape[dim + 1 :]) for dim in range(len(shape))]


def _of_numpy(name: str, x: NDArray[Any]) -> Array:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; it needs to be a plain one, and masked keys are what key_mask is for")
    if x.ndim > MAX_DIMS:
        raise ValueError(f"{name} is {x.shape}; it needs to have at most {MAX_DIMS} dims")
    size = x.dtype.itemsize
    if not x.dtype.isnative or x.dtype.hasobject or x.dtype.fields or not size:
        return Array(0, str(x.dtype), x.shape, (), x)  # of no dtype that any argument may have
    if not x.flags.aligned or any(step % size for step in x.strides):
        x = np.ascontiguousarray(x).reshape(x.shape)  # a field of records, as a rule
    strides = [step // size for step in x.strides] if x.size else _dense(x.shape)  # NumPy writes zeros where there are no elements
    return Array(x.ctypes.data, x.dtype.name, x.shape, strides, x)


def _of_dlpack(name: str, x: Any) -> Array:
    try:
        device, index = x.__dlpack_device__()
        capsule = x.__dlpack__() if device in (_CPU, _PINNED) else None  # which keeps the memory, and gives it back when it goes
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} does not give its memory away: {error}") from None
    if capsule is None:
        where = _DEVICES.get(int(device), f"{int(device)} of DLPack")
        raise ValueError(
            f"{name} is on the device {where}:{index}; it needs to be on the CPU, where CuPy's cupy.asnumpy brings it: this door has no "
            "kernels for GPUs. The functions on torch tensors have (torch.from_dlpack)"
        )
    at = _DLTensor.from_address(_pointer_of(capsule, b"dltensor"))
    if at.ndim > MAX_DIMS:
        raise ValueError(f"{name} has {at.ndim} dims; it needs to have at most {MAX_DIMS}")
    shape = at.shape[: at.ndim]
    kind = _KINDS.get(at.kind, f"kind {at.kind} of DLPack, ")
    dtype = "bool" if kind == "bool" else f"{kind}{at.bits}" + f"x{at.lanes}" * (at.lanes != 1)
    return Array((at.data or 0) + at.byte_offset, dtype, shape, at.strides[: at.ndim] if at.strides else _dense(shape), capsule)


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's own, or ml_dtypes'."""
    try:
        dtype: np.dtype[Any] = np.dtype(import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)
    except ImportError:
        raise ImportError("NumPy has bfloat16 from ml_dtypes alone, and results are to have it: pip install ml_dtypes") from None
    return dtype


def empty(shape: tuple[int, ...], dtype: str, heads_inside: bool = False) -> tuple[NDArray[Any], Array]:
    """A result that is not yet written, as an array and as an argument; with heads_inside it lies as (B, L, H, n)."""
    result_type = dtype_of(dtype)
    check_size(shape, result_type)
    if heads_inside:
        batch, heads, length, last = shape
        result = np.empty((batch, length, heads, last), result_type).swapaxes(1, 2)
    else:
        result = np.empty(shape, result_type)
    return result, _of_numpy("the result", result)

# python/window_matmul/_c_library.py: libwindow_matmul.so by ctypes, as include/window_matmul/c_api.h declares it. No torch, no NumPy.
import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

from . import _library

MAX_DIMS = 16
DTYPES = ("float64", "float32", "bfloat16", "float16", "int32", "int64", "bool")  # by their numbers there


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_DIMS),
        ("strides", ctypes.c_int64 * MAX_DIMS),
    )


class Window(ctypes.Structure):
    _fields_ = (
        ("left", ctypes.c_int64),
        ("right", ctypes.c_int64),
        ("dilation", ctypes.POINTER(ctypes.c_int64)),
        ("num_dilations", ctypes.c_int64),
        ("query_offset", ctypes.POINTER(ctypes.c_int64)),
    )


class AttentionOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("scale", ctypes.POINTER(ctypes.c_double)),
        ("softcap", ctypes.c_double),
        ("bias", ctypes.POINTER(Tensor)),
        ("sinks", ctypes.POINTER(Tensor)),
        ("key_mask", ctypes.POINTER(Tensor)),
        ("global_mask", ctypes.POINTER(Tensor)),
        ("global_tokens", ctypes.c_int64),
        ("dropout_p", ctypes.c_double),
        ("dropout_seed", ctypes.c_uint64),
        ("cu_q", ctypes.POINTER(Tensor)),
        ("cu_k", ctypes.POINTER(Tensor)),
        ("key_lengths", ctypes.POINTER(Tensor)),
        ("query_offsets", ctypes.POINTER(Tensor)),
        ("dropout_sequences", ctypes.POINTER(ctypes.c_int64)),
        ("dropout_queries", ctypes.POINTER(ctypes.c_int64)),
        ("dropout_keys", ctypes.POINTER(ctypes.c_int64)),
    )


def tensor(data: int, dtype: str, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Strides in elements."""
    sizes, steps = (ctypes.c_int64 * MAX_DIMS)(*shape), (ctypes.c_int64 * MAX_DIMS)(*strides)
    return Tensor(data, DTYPES.index(dtype), 0, len(shape), sizes, steps)


def window(left: int, right: int, dilation: Sequence[int], query_offset: int | None) -> Window:
    taps = (ctypes.c_int64 * len(dilation))(*dilation) if dilation else None
    offset = None if query_offset is None else ctypes.pointer(ctypes.c_int64(query_offset))
    return Window(left, right, taps, len(dilation), offset)


@cache
def _library_itself() -> ctypes.CDLL:
    """Opened at the first call. ctypes lets other threads of Python run while it is in there."""
    library = ctypes.CDLL(str(_library.path_of("libwindow_matmul.so")))
    library.wm_version.restype = library.wm_last_error.restype = ctypes.c_char_p
    a_window, a_tensor, options = map(ctypes.POINTER, (Window, Tensor, AttentionOptions))
    library.wm_band_out.argtypes = (a_window, a_tensor, a_tensor, ctypes.c_double, a_tensor)
    library.wm_band_in.argtypes = (a_window, a_tensor, a_tensor, a_tensor)
    library.wm_window_softmax.argtypes = (a_window, ctypes.c_int64, a_tensor, a_tensor)
    library.wm_window_attention.argtypes = (a_window, a_tensor, a_tensor, a_tensor, options, a_tensor, a_tensor)
    return library


def version() -> str:
    said: bytes = _library_itself().wm_version()
    return said.decode()


_ERRORS = {1: ValueError, 3: MemoryError}


def call(name: str, *arguments: Any) -> None:
    """wm_<name>; what it refuses is raised, as the binding for torch does."""
    library = _library_itself()
    status = getattr(library, f"wm_{name}")(*arguments)
    if status:
        raise _ERRORS.get(status, RuntimeError)(library.wm_last_error().decode())


def address(name: str) -> Any:
    """wm_<name>, for others to call."""
    return getattr(_library_itself(), f"wm_{name}")

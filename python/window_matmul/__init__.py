# python/window_matmul/__init__.py: the public names. Those that need torch come with it, or when they are asked for.
# ruff: noqa: F403, F405
"""Attention over a sliding window, exact and differentiable: window_attention in one pass, or the scores as a tensor between
window_matmul, window_softmax and unwindow_matmul."""

import sys
from typing import TYPE_CHECKING

from ._library import TORCH_LIBRARY, find
from ._registration import watch
from .window import Window

if TYPE_CHECKING:
    from ._load import version as __version__
    from ._names import *

__all__ = [
    "RollingCache",
    "Window",
    "__version__",
    "merge_states",
    "nn",
    "release_memory",
    "unwindow_matmul",
    "window_attention",
    "window_attention_varlen",
    "window_matmul",
    "window_softmax",
]


def _import_names() -> None:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError("window_matmul needs torch for all but window_matmul.compat.numpy: pip install 'torch>=2.10'") from None
    from . import _load, _names

    known = vars(_names) | {"__version__": _load.version}
    globals().update((name, known[name]) for name in __all__ if name in known)  # some are missing while _names is imported


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "__version__" and sys.modules.get("torch") is None:
            from ._c_library import version

            return version()
        if name != "compat" and (name in __all__ or not name.startswith("_")):  # compat alone needs no torch
            _import_names()
        if name in globals():
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if find(TORCH_LIBRARY):  # else this is a package without the operators for torch
    if sys.modules.get("torch") is None:
        watch()
    else:
        _import_names()

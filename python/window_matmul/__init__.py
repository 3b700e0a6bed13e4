# python/window_matmul/__init__.py: the public names.
"""Attention over a sliding window, exact and differentiable: window_attention in one pass, or the scores as a tensor between
window_matmul, window_softmax and unwindow_matmul."""

from . import nn
from ._load import version as __version__
from .attention import window_attention, window_attention_varlen
from .cache import RollingCache
from .functional import unwindow_matmul, window_matmul, window_softmax
from .memory import release_memory
from .states import merge_states
from .window import Window

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

# python/window_matmul/__init__.py: the public names.
"""Matrix products over a sliding window, exact and differentiable: window_matmul, window_softmax, unwindow_matmul."""

from ._load import version as __version__
from .functional import unwindow_matmul, window_matmul, window_softmax
from .window import Window

__all__ = ["Window", "__version__", "unwindow_matmul", "window_matmul", "window_softmax"]

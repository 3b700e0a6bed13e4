# python/window_matmul/_load.py: loads the compiled library into torch, once.
from pathlib import Path

import torch

from . import __path__ as _folders  # in an editable install: the sources and, elsewhere, what was built

_LIBRARY = "libwindow_matmul_torch_cpu.so"


def _load() -> None:
    if torch.__version__ < "2.10":  # compares versions, not letters
        raise ImportError(f"window_matmul needs torch >= 2.10; this is torch {torch.__version__}")
    if hasattr(torch.ops.window_matmul, "band_out"):  # registering the names twice would end the process
        raise ImportError("another copy of window_matmul is already loaded in this process; start a new one to load this copy")
    paths = [path for folder in _folders if (path := Path(folder, "lib", _LIBRARY)).exists()]
    if not paths:
        raise ImportError(f"window_matmul: {_LIBRARY} is in none of {list(_folders)}; install the package with `pip install .`")
    torch.ops.load_library(paths[0])


def facts() -> dict[str, str]:
    """What the library says of itself and of this machine."""
    return dict(line.split("\t") for line in torch.ops.window_matmul._facts().splitlines())


def kernels(op: str, dtype: str) -> dict[str, str]:
    """Each row of the kernel table, best first: "", or why it refuses `op` in `dtype`."""
    return dict(line.split("\t") for line in torch.ops.window_matmul._kernels(op, dtype).splitlines())


_load()
version = facts()["version"]

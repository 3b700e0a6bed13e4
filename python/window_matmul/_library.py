# python/window_matmul/_library.py: where the compiled libraries are, and torch's, loaded once.
from pathlib import Path

from . import __path__ as _folders  # in an editable install: the sources and, elsewhere, what was built

TORCH_LIBRARY = "libwindow_matmul_torch_cpu.so"
_is_loaded = False


def folders() -> list[str]:
    return list(_folders)


def find(library: str) -> list[Path]:
    return [path for folder in _folders if (path := Path(folder, "lib", library)).exists()]


def path_of(library: str) -> Path:
    paths = find(library)
    if not paths:
        raise ImportError(f"window_matmul: {library} is in none of {folders()}; install the package with `pip install .`")
    return paths[0]


def load_into_torch() -> None:
    """The operators on the CPU, with their names. Their derivatives and shapes are Python's: `_band` and `_attention`."""
    global _is_loaded
    if _is_loaded:
        return
    import torch

    if torch.__version__ < "2.10":  # compares versions, not letters
        raise ImportError(f"window_matmul needs torch >= 2.10; this is torch {torch.__version__}")
    if hasattr(torch.ops.window_matmul, "band_out"):  # registering the names twice would end the process
        raise ImportError("another copy of window_matmul is already loaded in this process; start a new one to load this copy")
    torch.ops.load_library(path_of(TORCH_LIBRARY))
    _is_loaded = True

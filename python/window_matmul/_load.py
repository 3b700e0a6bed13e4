# python/window_matmul/_load.py: the libraries that torch has loaded, and what they say.
import torch

from . import _library

_CUDA_LIBRARY = "libwindow_matmul_torch_cuda.so"


def why_not_built() -> str:
    """ "not built (...)" where this package has no CUDA kernels, else "": known when configured, or written down when nvcc failed."""
    if written := _library.find("why_no_cuda.txt"):
        return f"not built ({written[0].read_text().strip()})"
    said = kernels("band_out", "float32")["cuda.sm80"]
    return said if said.startswith("not built") else ""


def _load_cuda() -> str:
    """Loads the CUDA kernels where torch can have tensors for them. Returns "", or why there are none."""
    if torch.version.cuda is None:
        return f"this torch, {torch.__version__}, is built without CUDA"
    paths = _library.find(_CUDA_LIBRARY)
    if not paths:
        missing = f"{_CUDA_LIBRARY} is in none of {_library.folders()}"
        return f"the CUDA kernels of this window_matmul are {why_not_built()}" if why_not_built() else missing
    try:
        torch.ops.load_library(paths[0])
    except OSError as error:
        return f"the library of the CUDA kernels cannot be loaded: {error}"
    return ""


def facts() -> dict[str, str]:
    """What the library says of itself and of this machine."""
    return dict(line.split("\t") for line in torch.ops.window_matmul._facts().splitlines())


def kernels(op: str, dtype: str) -> dict[str, str]:
    """Each row of the kernel table, best first: "", or why it refuses `op` in `dtype` on this CPU."""
    return dict(line.split("\t") for line in torch.ops.window_matmul._kernels(op, dtype).splitlines())


def cuda_facts() -> dict[str, str]:
    """What the CUDA runtime says of itself, the driver and the GPUs. Needs `why_no_cuda` to be ""."""
    return dict(line.split("\t") for line in torch.ops.window_matmul._cuda_facts().splitlines())


def cuda_kernels(op: str, dtype: str, gpu: int) -> dict[str, str]:
    """As `kernels`, for tensors on a GPU."""
    return dict(line.split("\t") for line in torch.ops.window_matmul._cuda_kernels(op, dtype, gpu).splitlines())


_library.load_into_torch()
version = facts()["version"]
why_no_cuda = _load_cuda()

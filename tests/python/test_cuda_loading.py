"""tests/python/test_cuda_loading.py: the second library and every refusal of CUDA tensors, on machines without a GPU.

A child process says that its torch has CUDA. The library is then loaded beside this one's CPU torch; fake tensors have the device type.
Children are forks of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import window_matmul
from child import run
from window_matmul import _load

pytestmark = [pytest.mark.best_backend, pytest.mark.long]
LIBRARY = Path(window_matmul.__file__).parent / "lib/libwindow_matmul_torch_cuda.so"
built = pytest.mark.skipif(not LIBRARY.exists(), reason="built without nvcc")
cpu_torch = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA itself")

# A torch that has CUDA, as far as Python is concerned.
WITH_CUDA = """
import torch
from torch._subclasses import FakeTensorMode
torch.version.cuda = "13.0"
import window_matmul
from window_matmul import RollingCache, _load, unwindow_matmul, window_attention, window_attention_varlen, window_matmul, window_softmax

def refusal(f):
    try:
        f()
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")

with FakeTensorMode():  # torch imports more at the first
    torch.randn(4, 2, device="cuda")
"""


def child(code: str) -> str:
    return run(code, first=WITH_CUDA)


@cpu_torch
def test_torch_without_cuda() -> None:
    assert torch.__version__ in _load.why_no_cuda and "without CUDA" in _load.why_no_cuda
    said = run("""
        import torch
        from torch._subclasses import FakeTensorMode
        from window_matmul import window_matmul
        with FakeTensorMode():
            q = torch.randn(4, 2, device="cuda")
            try:
                window_matmul(q, q.mT, 1)
            except ValueError as error:
                print(error)
        """)
    assert "q is on the device cuda:0" in said and "needs to be on the CPU" in said and "built without CUDA" in said


@built
@cpu_torch
def test_the_library_loads_beside_any_torch_and_registers_its_kernels() -> None:
    child("""
assert _load.why_no_cuda == "", _load.why_no_cuda
band = ("band_out", "band_in", "band_in_transposed", "window_softmax", "window_softmax_backward")
for name in (*band, "attention", "attention_backward"):
    for op in (name, "_" + name):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"window_matmul::{op}", "CUDA"), op
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"window_matmul::{op}", "CPU"), op
x = torch.arange(6.0).view(3, 2)
assert window_matmul(x, x.mT, 0).flatten().tolist() == [1, 13, 41]  # the CPU goes on
""")


def test_a_library_that_is_not_there() -> None:
    """A copy of the package without it."""
    said = run("""
        import shutil, sys, tempfile, torch
        from pathlib import Path
        torch.version.cuda = "13.0"
        source = next(path for folder in sys.path if (path := Path(folder, "window_matmul", "lib")).exists()).parent
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(source, Path(folder, "window_matmul"), ignore=shutil.ignore_patterns("*cuda.so", "__pycache__"))
            sys.path.insert(0, folder)
            import window_matmul
            assert Path(window_matmul.__file__).parent == copy
            print(window_matmul._load.why_no_cuda)
        """)
    assert re.match(r"the CUDA kernels of this window_matmul are not built \(|libwindow_matmul_torch_cuda.so is in none of", said), said


@built
def test_a_library_that_cannot_be_loaded() -> None:
    said = run("""
        import shutil, sys, tempfile, torch
        from pathlib import Path
        torch.version.cuda = "13.0"
        source = next(path for folder in sys.path if (path := Path(folder, "window_matmul", "lib")).exists()).parent
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(source, Path(folder, "window_matmul"))
            (copy / "lib/libwindow_matmul_torch_cuda.so").write_bytes(b"no library")
            sys.path.insert(0, folder)
            import window_matmul
            print(window_matmul._load.why_no_cuda)
        """)
    assert "cannot be loaded: " in said and "libwindow_matmul_torch_cuda.so" in said


@built
@cpu_torch
def test_shapes_dtypes_and_devices_of_results() -> None:
    child("""
with FakeTensorMode(), torch.no_grad():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        q, k, v = (torch.randn(2, 3, 9, 4, dtype=dtype, device="cuda") for _ in range(3))
        a = window_matmul(q, k.mT, (2, 1))
        o = unwindow_matmul(window_softmax(a, (2, 1)), v, (2, 1))
        assert a.shape == (2, 3, 9, 4) and o.shape == v.shape
        assert a.device == o.device == torch.device("cuda:0") and a.dtype is o.dtype is dtype
    mapped = torch.vmap(lambda q, k: window_matmul(q, k.mT, 2))(q, k)
    assert mapped.shape == (2, 3, 9, 5) and mapped.is_cuda
    torch.set_autocast_enabled("cuda", True)  # torch.autocast itself asks for a GPU
    torch.set_autocast_dtype("cuda", torch.float16)
    assert window_matmul(q.float(), k.float().mT, 2).dtype is torch.float16
""")


@built
@cpu_torch
def test_mixed_devices() -> None:
    child("""
with FakeTensorMode():
    for devices in (("cuda", "cpu"), ("cpu", "cuda"), ("cuda:0", "cuda:1"), ("meta", "cuda")):
        x, y = (torch.randn(5, 3, device=device) for device in devices)
        said = refusal(lambda: window_matmul(x, y.mT, 1))
        assert str(x.device) in said and str(y.device) in said and "same device" in said, said
        said = refusal(lambda: unwindow_matmul(x, y, 1))
        assert str(x.device) in said and str(y.device) in said and "same device" in said, said
""")


@built
@cpu_torch
def test_fused_attention_without_data_and_what_it_refuses() -> None:
    child("""
with FakeTensorMode():
    q, elsewhere = torch.randn(1, 2, 5, 4, device="cuda"), torch.randn(1, 2, 5, 4)
    out, lse = window_attention(q, q, q, 2, dropout_p=0.5, sinks=torch.zeros(2, device="cuda"), return_lse=True)
    assert (out.shape, out.device, lse.shape, lse.dtype) == (q.shape, q.device, q.shape[:3], torch.float32)
    rows, bounds = torch.randn(5, 2, 4, device="cuda"), torch.zeros(3, dtype=torch.int32, device="cuda")
    assert window_attention_varlen(rows, rows, rows, bounds, bounds, 2).shape == rows.shape
    for said in (
        refusal(lambda: window_attention(q, elsewhere, q, 2)),
        refusal(lambda: window_attention(q, q, q, 2, sinks=torch.zeros(2))),
        refusal(lambda: window_attention(q, q, q, 2, key_lengths=torch.tensor([3]))),
    ):
        assert "cuda" in said and "needs to be" in said, said
    RollingCache(batch_size=1, num_kv_heads=2, head_dim=4, window_size=(3, 0), device="cuda")  # test_cache_there.py has its steps
""")


@built
@cpu_torch
def test_no_driver_is_said_at_use_and_not_at_import() -> None:
    child("""
try:
    torch.ops.window_matmul._cuda_kernels("band_out", "float32", 0)
except RuntimeError as error:
    said = str(error)
facts = _load.cuda_facts()
if facts["driver"] == "none":
    why = "there is no NVIDIA driver; the CUDA kernels need one for CUDA "
    assert why in said and facts["GPUs"].startswith("none: " + why), (said, facts)
else:
    assert facts["driver"].startswith("for CUDA ") and ("driver" in said or "device" in said), (said, facts)
assert facts["runtime"].startswith("CUDA ") and "compute_80" in facts["compiled for"], facts
""")


@built
@cpu_torch
def test_float32_on_a_gpu_follows_torchs_precision() -> None:
    child("""
from torch.utils._python_dispatch import TorchDispatchMode

class Last(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "window_matmul" in str(func):
            said.append(args[-1])
        return func(*args, **(kwargs or {}))

for name in ("highest", "high", "medium"):
    torch.set_float32_matmul_precision(name)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        said = []
        with FakeTensorMode(), torch.no_grad():
            q = torch.randn(5, 3, dtype=dtype, device="cuda")
            with Last():
                unwindow_matmul(window_matmul(q, q.mT, 1), q, 1)
        high = name != "highest" and dtype is torch.float32
        assert said == ([1, 1] if high else [0.0, 0]), (name, dtype, said)  # the last argument: the precision, or fill and shift
""")

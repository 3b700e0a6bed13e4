"""tests/python/test_info.py: `python -m window_matmul info`, the version, the public names, loading twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import window_matmul
from child import run
from window_matmul import _load
from window_matmul.testing import backends, multiply_add_peak

pytestmark = pytest.mark.best_backend
ROOT = Path(__file__).parents[2]
ROWS = ("cpu.amx", "cpu.avx512bf16", "cpu.avx512", "cpu.avx2", "cpu.scalar", "reference")


@pytest.fixture(scope="module")
def info() -> str:
    done = subprocess.run([sys.executable, "-m", "window_matmul", "info"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_versions(info: str) -> None:
    header = (ROOT / "include/window_matmul/window_matmul.hpp").read_text()
    version = re.search(r'WINDOW_MATMUL_VERSION "([^"]+)"', header)
    assert version is not None and window_matmul.__version__ == version[1]
    for said in (window_matmul.__version__, torch.__version__, sys.version.split()[0]):
        assert said in info


def test_every_row_and_why_not(info: str) -> None:
    usable = backends()
    assert usable[-1] == "reference" and "cpu.scalar" in usable
    assert usable == [row for row in ROWS if row in usable]  # best first
    kernels = info.partition("Kernels for tensors on the CPU")[2].partition("\n\n")[0]
    assert re.search(r"cuda\.sm80 +no: (not built|takes tensors on a GPU)", kernels)
    lines = {row: next(line for line in info.splitlines() if line.split()[:1] == [row]) for row in ROWS}
    for row, line in lines.items():
        if row not in usable:
            assert len(line.split()) > 4, f"no reason: {line}"
        else:
            assert "no" not in line.split()[1:2] and "no:" not in line


def test_processor(info: str) -> None:
    flags = set(re.findall(r"\w+", next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))))
    has = {"AVX2": {"avx2", "fma", "f16c"} <= flags, "AVX-512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags}
    has["AVX-512 BF16"] = has["AVX-512"] and "avx512_bf16" in flags
    has["AMX"] = {"amx_tile", "amx_bf16", "avx512_bf16"} <= flags
    for name, there in has.items():
        line = next(line for line in info.splitlines() if line.strip().startswith(name) and not line.strip().startswith("cpu"))
        assert line.split()[-1] == ("yes" if there else "no")
    assert ("cpu.avx2" in backends()) == has["AVX2"] and ("cpu.avx512" in backends()) == has["AVX-512"]
    assert not {"cpu.amx", "cpu.avx512bf16"} & {*backends()} and ("cpu.amx" in backends("attention", "bfloat16")) == has["AMX"]
    for op in ("band_out", "softmax", "attention"):
        assert ("cpu.avx512bf16" in backends(op, "bfloat16")) == has["AVX-512 BF16"]


def test_gpus(info: str) -> None:
    lines = info.partition("\nGPUs\n")[2].partition("\n\n")[0].splitlines()
    if _load.why_no_cuda:
        assert lines[0] == f"  none: {_load.why_no_cuda}"
        built = _load.why_not_built()
        assert lines[1:] == ([f"  kernels       {built}"] if built and built not in lines[0] else [])
    else:
        facts = _load.cuda_facts()
        assert facts["driver"] != "none" or facts["GPUs"].startswith("none: there is no NVIDIA driver; the CUDA kernels need one for CUDA ")
        assert facts.keys() >= {"runtime", "driver", "compiled for"}
        assert all(any(name in line and value in line for line in lines) for name, value in facts.items())


def test_environment(info: str) -> None:
    assert "WINDOW_MATMUL_BACKEND" in info
    said = run("import window_matmul.__main__ as m; print(m.info())", WINDOW_MATMUL_BACKEND="cpu.scalar")
    assert re.search(r"WINDOW_MATMUL_BACKEND\W+cpu\.scalar", said)


def test_command_line_errors() -> None:
    code = "import runpy, sys; sys.stderr = sys.stdout; runpy.run_module('window_matmul', run_name='__main__')"
    for arguments in ([], ["nothing"], ["info", "--nothing"]):
        assert "usage" in run(code, *arguments, status=2)


def test_public_names() -> None:
    assert {"Window", "window_matmul", "unwindow_matmul", "window_softmax", "__version__"} <= set(window_matmul.__all__)
    for name in window_matmul.__all__:
        assert name == "__version__" or getattr(window_matmul, name).__doc__
    folder = Path(window_matmul.__file__).parent
    assert (folder / "py.typed").exists()


def test_every_public_docstring_says_what_it_must() -> None:
    for f in (window_matmul.window_matmul, window_matmul.unwindow_matmul, window_matmul.window_softmax):
        text = f.__doc__ or ""
        for word in (">>>", "Lq", "float16", "TypeError", "ValueError", "Source", "dilation", "query_offset"):
            assert word in text, f"{f.__name__}: {word}"


def test_peak_of_multiply_adds() -> None:
    for dtype, roof in ((torch.float32, 1e4), (torch.float64, 5e3)):
        rate = multiply_add_peak(backends()[0], dtype)
        assert 1.0 < rate < roof  # GFLOP/s of one core of anything that runs this
    with pytest.raises(ValueError, match="nothing"):
        multiply_add_peak("nothing", torch.float32)


def test_loading_again_is_an_error_and_not_a_crash() -> None:
    run("""
        import importlib, torch, window_matmul
        from window_matmul import _library
        importlib.reload(_library)  # it has forgotten
        try:
            _library.load_into_torch()
        except ImportError as error:
            assert "already loaded" in str(error)
        else:
            raise AssertionError("loaded twice")
        assert window_matmul.window_matmul(torch.ones(3, 2), torch.ones(2, 3), 1).shape == (3, 3)
        """)


def test_importing_is_cheap() -> None:
    """No plotting, no compiler, no transformers behind `import window_matmul`; no threads, no warnings."""
    run("""
        import os, sys, warnings, torch
        warnings.simplefilter("error")
        before = len(os.listdir("/proc/self/task"))
        import window_matmul
        assert len(os.listdir("/proc/self/task")) == before
        for name in ("matplotlib", "transformers", "torch._dynamo.convert_frame", "torch._inductor.graph"):
            assert name not in sys.modules, name
        """)

# tests/install/test_ways.py: pip, uv and build, in the empty environments that they build in, beside each kind of nvcc.
from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import stand_ins
from commands import ROOT, SITE_PACKAGES, run

# The portable kernels alone, hardly optimised, in one folder for all builds: how they are found and put together is in question.
OPTIONS = {
    "cmake.define.WINDOW_MATMUL_AVX512": "OFF",
    "cmake.define.WINDOW_MATMUL_AVX2": "OFF",
    "cmake.define.CMAKE_CXX_FLAGS_RELEASE": "-O0",
    "cmake.define.WINDOW_MATMUL_CUDA_ARCHITECTURES": "",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `.venv` and torch in it, a folder of the packages that builds need, and stand-ins for nvcc."""
    folder = tmp_path_factory.mktemp("ways")
    run(sys.executable, "-m", "venv", folder / ".venv")
    (packages,) = folder.glob(".venv/lib/python3*/site-packages")
    (packages / "torch").symlink_to(SITE_PACKAGES / "torch")
    (packages / "lent.pth").write_text(f"{SITE_PACKAGES}\n")
    (folder / "wheels").mkdir()
    stand_ins.wheel_of("scikit-build-core", folder / "wheels")
    (folder / "old").mkdir()
    stand_ins.nvcc(folder / "old/nvcc", refuses="*_100*|*_120*", says="nvcc warning : something will be removed")
    (folder / "broken").mkdir()
    toolkit = stand_ins.cuda_toolkit(folder / "toolkit")
    stand_ins.nvcc(folder / "broken/nvcc", refuses="*src/cuda/*", fatal="error: what it says to the kernels", toolkit=toolkit)
    return folder


def environment(place: Path) -> dict[str, str]:
    """As a user's who has not activated anything; nothing is downloaded."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "CONDA", "PIP_", "UV_", "WINDOW_"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # CMake and Ninja
    tools = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(place / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    tools |= {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(place / "wheels"), "UV_CACHE_DIR": str(place / "uv"), "UV_NO_CONFIG": "1"}
    return kept | tools | {"PATH": path, "CUDA_HOME": "", "CUDA_PATH": ""}


def build(place: Path, command: list[str | Path], nvcc: Path | None) -> None:
    options = OPTIONS | {"build-dir": str(place / "build")}
    options |= {"cmake.define.WINDOW_MATMUL_NVCC": str(nvcc)} if nvcc else {"cmake.define.WINDOW_MATMUL_CUDA": "OFF"}
    settings = [f"-C{name}={value}" for name, value in options.items()]
    done = subprocess.run([*command, *settings], cwd=place, env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def info(place: Path) -> str:
    return run(place / ".venv/bin/python", "-m", "window_matmul", "info", cwd=place)


def test_pip_beside_an_old_nvcc_that_warns(place: Path, check_use: Callable[[Path], None]) -> None:
    """And without a toolkit: there are kernels for the CPU, and `info` says what is missing."""
    build(place, [place / ".venv/bin/pip", "install", "--no-deps", ROOT], place / "old/nvcc")
    check_use(place / ".venv/bin/python")
    assert "not built (no cuda_runtime_api.h or libcudart_static.a beside nvcc)" in info(place)


def test_uv_beside_an_nvcc_that_fails(place: Path, check_use: Callable[[Path], None]) -> None:
    """uv finds `.venv` where it runs, builds in an environment of its cache, and nvcc takes everything but the kernels."""
    build(place, [Path(sys.executable).parent / "uv", "pip", "install", "--no-deps", "--reinstall", ROOT], place / "broken/nvcc")
    check_use(place / ".venv/bin/python")
    assert "not built (nvcc does not compile them: nvcc fatal   : error: what it says to the kernels)" in info(place)


def test_build_in_isolation(place: Path, wheel: Path) -> None:
    """With the Python of an environment that has torch."""
    build(place, [place / ".venv/bin/python", "-m", "build", "--wheel", "--outdir", place / "dist", ROOT], None)
    (built,) = (place / "dist").iterdir()
    assert built.name == wheel.name
    assert "window_matmul/lib/why_no_cuda.txt" not in zipfile.ZipFile(built).namelist()

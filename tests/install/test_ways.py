# tests/install/test_ways.py: pip, uv and build, in the empty environments that they build in, beside each kind of nvcc.
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import stand_ins
from commands import ROOT, SITE_PACKAGES, run

# How it is found and put together is in question. So what is compiled, once, are the objects of `make install`, where a ccache has them;
# else the portable kernels alone, hardly optimised. The other ways end with the configure step, a library of no lines, and a wheel without
# libraries.
AS_INSTALLED = {"cmake.define.CMAKE_COMPILE_WARNING_AS_ERROR": "ON"}
SMALL = {
    "cmake.define.WINDOW_MATMUL_AVX512": "OFF",
    "cmake.define.WINDOW_MATMUL_AVX2": "OFF",
    "cmake.define.CMAKE_CXX_FLAGS_RELEASE": "-O0",
}
COMPILED = AS_INSTALLED if os.environ.get("CMAKE_CXX_COMPILER_LAUNCHER") else SMALL
CONFIGURED = {"build.targets": "window_matmul_torch_stand_in", "install.components": "none"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `.venv` and torch in it, a folder of the packages that builds need, and stand-ins for nvcc."""
    folder = tmp_path_factory.mktemp("ways")
    run(sys.executable, "-m", "venv", "--without-pip", folder / ".venv")  # pip and build are lent
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
    # CMake itself and not the script beside it, which needs its own environment's Python; and Ninja.
    path = os.pathsep.join((str(SITE_PACKAGES / "cmake/data/bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    tools = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(place / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    tools |= {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(place / "wheels"), "UV_CACHE_DIR": str(place / "uv"), "UV_NO_CONFIG": "1"}
    return kept | tools | {"PATH": path, "CUDA_HOME": "", "CUDA_PATH": ""}


def build(place: Path, command: list[str | Path], options: dict[str, str]) -> str:
    """What was printed."""
    folder = ROOT / "build/ways"  # from where the sources have the same names as from the folder of `make install`: ccache goes by them
    shutil.rmtree(folder, ignore_errors=True)
    options = options | {"build-dir": str(folder), "cmake.define.WINDOW_MATMUL_CUDA_ARCHITECTURES": ""}
    settings = [f"-C{name}={value}" for name, value in options.items()]
    done = subprocess.run([*command, *settings], cwd=place, env=environment(place), capture_output=True, text=True)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    return said


def nvcc(place: Path, name: str) -> dict[str, str]:
    return {"cmake.define.WINDOW_MATMUL_NVCC": str(place / name / "nvcc")}


def test_uv_beside_an_nvcc_that_fails(place: Path, check_use: Callable[[Path], None]) -> None:
    """uv finds `.venv` where it runs, and builds in an environment of its cache; nvcc takes everything but the kernels."""
    uv = Path(sys.executable).parent / "uv"
    build(place, [uv, "pip", "install", "--no-deps", ROOT], COMPILED | nvcc(place, "broken"))
    python = place / ".venv/bin/python"
    check_use(python)
    info = run(python, "-m", "window_matmul", "info", cwd=place)
    assert "not built (nvcc does not compile them: nvcc fatal   : error: what it says to the kernels)" in info


def test_pip_beside_an_old_nvcc_that_warns(place: Path) -> None:
    said = build(place, [place / ".venv/bin/python", "-m", "pip", "wheel", "-v", "--no-deps", ROOT], CONFIGURED | nvcc(place, "old"))
    assert "CUDA kernels: sm_80,sm_90,compute_80 by" in said and f"Headers of torch: {place}/.venv/" in said


def test_build_with_the_python_of_an_environment(place: Path) -> None:
    command: list[str | Path] = [place / ".venv/bin/python", "-m", "build", "--wheel", "--outdir", place / "dist", ROOT]
    said = build(place, command, CONFIGURED | {"cmake.define.WINDOW_MATMUL_CUDA": "OFF"})
    assert f"Headers of torch: {place}/.venv/" in said

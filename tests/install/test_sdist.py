# tests/install/test_sdist.py: the sdist holds what a build needs, and builds the same wheel without the network.
from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import ROOT, run


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ROOT, PIP_NO_INDEX="1")
    (path,) = folder.iterdir()
    return path


def test_torch_is_needed_to_run_but_not_to_build() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    build, runtime = (re.search(rf"^{key} = \[(.*)\]", project, re.MULTILINE) for key in ("requires", "dependencies"))
    assert build
    assert runtime
    assert "torch" not in build[1]
    assert "torch>=2.10" in runtime[1]


def test_holds_what_a_build_needs_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        rooms = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert rooms == {"CMakeLists.txt", "LICENSE", "PKG-INFO", "README.md", "cmake", "include", "pyproject.toml", "python", "scripts", "src"}


def test_builds_the_same_wheel(
    sdist: Path, wheel: Path, tmp_path: Path, install: Callable[[Path], Path], check_use: Callable[[Path], None]
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    if (ROOT / "build/cuda").exists():  # nvcc's objects of the same sources, which take minutes
        shutil.copytree(ROOT / "build/cuda", source / "build/cuda")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source)
    strict = "--config-setting=cmake.define.CMAKE_COMPILE_WARNING_AS_ERROR=ON"  # as in the Makefile, so that ccache has the objects
    gpus = os.environ.get("WINDOW_MATMUL_CUDA_ARCHITECTURES", "native")  # likewise, and nvcc's are kept by GPUs
    run(*build, strict, PIP_NO_INDEX="1", CCACHE_BASEDIR=str(source), WINDOW_MATMUL_CUDA_ARCHITECTURES=gpus)
    (built,) = (tmp_path / "dist").iterdir()
    assert built.name == wheel.name
    assert sorted(zipfile.ZipFile(built).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
    check_use(install(built))

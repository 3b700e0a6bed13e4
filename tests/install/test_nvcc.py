# tests/install/test_nvcc.py: an nvcc that is older, talks, or does not work never stands between a user and the package.
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stand_ins
from commands import ROOT, run

NEW = "*_100*|*_120*"  # what nvcc 12.4 does not know
NO_COMPILER = "#error -- unsupported GNU version! gcc versions later than 13 are not supported!"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: the C++ compiler is asked once."""
    return tmp_path_factory.mktemp("nvcc") / "build"


def configure(build: Path, nvcc: Path, *more: str) -> subprocess.CompletedProcess[str]:
    defines = [f"-DWINDOW_MATMUL_NVCC={nvcc}", f"-DPython_EXECUTABLE={sys.executable}", "-DWINDOW_MATMUL_CUDA=AUTO"]
    defines += ["-DWINDOW_MATMUL_CUDA_ARCHITECTURES=", *more]  # both stay in the folder otherwise
    environment = {"WINDOW_MATMUL_CUDA_ARCHITECTURES": "", "PATH": f"{nvcc.parent}:{os.environ['PATH']}"}
    command: list[str | Path] = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *defines]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def compile_cuda(folder: Path) -> list[str | Path]:
    return [sys.executable, ROOT / "scripts/compile_cuda.py", "--object", folder / "x.o", "--store", folder / "store"]


@pytest.mark.parametrize(
    ("stand_in", "expected"),
    [
        ({"refuses": NEW}, r"CUDA kernels: sm_80,sm_90,compute_80 by"),
        ({"says": "nvcc warning : Support for this will be removed"}, r"CUDA kernels: sm_80,sm_90,sm_100,sm_120,compute_80 by"),
        ({"refuses": "*_*", "fatal": "Unsupported"}, r"CUDA kernels: not compiled, nvcc takes none of sm_80, 90, 100, 120 \(/"),
        ({"refuses": "*try.cu*", "fatal": NO_COMPILER}, r"CUDA kernels: not compiled, nvcc compiles nothing: .*unsupported GNU version"),
    ],
    ids=["old", "warns", "knows none", "refuses the C++ compiler"],
)
def test_what_an_nvcc_can_is_asked(build: Path, tmp_path: Path, stand_in: dict[str, str], expected: str) -> None:
    done = configure(build, stand_ins.nvcc(tmp_path / "nvcc", **stand_in))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(expected, done.stdout)) == 1, done.stdout


@pytest.mark.parametrize(
    ("says", "gpus"),
    [(None, ""), ("echo 'Failed to initialize NVML'; exit 9", ""), ("echo 8.9", "sm_80,"), ("echo 9.0; echo 12.1", "sm_90,sm_120,")],
    ids=["no driver", "a driver that fails", "one", "several"],
)
def test_native_is_the_gpus_that_are_here(build: Path, tmp_path: Path, says: str | None, gpus: str) -> None:
    if says:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    elif shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    done = configure(build, stand_ins.nvcc(tmp_path / "nvcc"), "-DWINDOW_MATMUL_CUDA_ARCHITECTURES=native")
    assert done.returncode == 0 and f"CUDA kernels: {gpus}compute_80 by" in done.stdout, done.stdout


def test_what_is_asked_for_by_name_is_an_error(build: Path, tmp_path: Path) -> None:
    old = stand_ins.nvcc(tmp_path / "old", refuses=NEW)
    done = configure(build, old, "-DWINDOW_MATMUL_CUDA_ARCHITECTURES=120;90")
    assert done.returncode != 0 and "does not know 120" in " ".join(done.stderr.split())
    done = configure(build, stand_ins.nvcc(tmp_path / "real", refuses="*_native*"), "-DWINDOW_MATMUL_CUDA_ARCHITECTURES=native;90")
    assert done.returncode != 0 and "does not know native" in " ".join(done.stderr.split())
    broken = stand_ins.nvcc(tmp_path / "broken", refuses="*try.cu*")
    done = configure(build, broken, "-DWINDOW_MATMUL_CUDA=ON")
    assert done.returncode != 0 and "WINDOW_MATMUL_CUDA is ON" in done.stderr and stand_ins.UNKNOWN in " ".join(done.stderr.split())


def test_warnings_are_errors_in_our_presets_alone(tmp_path: Path) -> None:
    """And what one build has compiled, the other takes: it differs in what a warning means."""
    nvcc = stand_ins.nvcc(tmp_path / "nvcc", says="x.cu(1): warning #177-D: unused")
    command = compile_cuda(tmp_path)
    compiles: list[str | Path] = ["--", nvcc, "-c", "x.cu"]
    users, ours = [*command, *compiles], [*command, "--warnings-are-errors", *compiles]
    for _ in range(2):
        done = subprocess.run(users, capture_output=True, text=True)
        assert done.returncode == 0 and "177-D" in done.stderr and (tmp_path / "x.o").exists()
        done = subprocess.run(ours, capture_output=True, text=True)
        assert done.returncode == 1 and "177-D" in done.stderr and not (tmp_path / "x.o").exists()
        assert (tmp_path / "store/x.o.key").exists()
    said = "".join(path.read_text() for path in (ROOT / "cmake").glob("*.cmake"))
    assert "Werror" not in said and "WARNING_AS_ERROR ON" not in said
    assert '"CMAKE_COMPILE_WARNING_AS_ERROR": "ON"' in (ROOT / "CMakePresets.json").read_text()


def test_a_failure_is_one_line_where_it_may_be(tmp_path: Path) -> None:
    nvcc = stand_ins.nvcc(tmp_path / "nvcc", refuses="*x.cu*")
    command = compile_cuda(tmp_path)
    assert subprocess.run([*command, "--", nvcc, "-c", "x.cu"], capture_output=True).returncode == 1
    run(*command, "--may-fail", "--", nvcc, "-c", "x.cu")
    assert stand_ins.UNKNOWN in (tmp_path / "x.o.failed").read_text() and not (tmp_path / "x.o").exists()
    stand_ins.nvcc(nvcc)
    run(*command, "--may-fail", "--", nvcc, "-c", "x.cu")
    assert not (tmp_path / "x.o.failed").exists() and (tmp_path / "x.o").exists()

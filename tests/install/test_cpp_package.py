# tests/install/test_cpp_package.py: what `cmake --install` leaves can be found, compiled against and run, without torch.
from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from commands import ROOT, run

CXX = os.environ.get("CXX", "c++")
CC = os.environ.get("CC", "cc")
HEADERS = sorted((ROOT / "include/window_matmul").glob("*.h*"))


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ package, installed from the build of `make test-cpp` where there is one."""
    folder = tmp_path_factory.mktemp("cpp")
    build = ROOT / "build/release"
    if not all((build / library).exists() for library in ("libwindow_matmul_core.a", "libwindow_matmul.so")):
        build = folder / "build"
        run("cmake", "-G", "Ninja", "-S", ROOT, "-B", build)
        run("cmake", "--build", build)
    run("cmake", "--install", build, "--prefix", folder / "prefix")
    return folder / "prefix"


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_header_compiles_alone(header: Path) -> None:
    strict = ("-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
    run(CXX, *strict, "-I", ROOT / "include", "-include", header, "-x", "c++", os.devnull)


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_for_c_compiles_alone_in_each(language: str) -> None:
    strict = ("-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
    compiler = (CC, "-std=c11") if language == "c" else (CXX, "-std=c++11")
    run(*compiler, *strict, "-include", ROOT / "include/window_matmul/c_api.h", "-x", language, os.devnull)


def dense_attention() -> list[list[float]]:
    """What the examples compute, from the definition."""
    x = [[math.sin(4 * i + n) for n in range(4)] for i in range(6)]
    rows = []
    for i in range(6):
        keys = [x[j] for j in range(max(0, i - 2), i + 1)]
        weights = [math.exp(sum(a * b for a, b in zip(x[i], key, strict=True))) for key in keys]
        rows.append([sum(w * key[n] for w, key in zip(weights, keys, strict=True)) / sum(weights) for n in range(4)])
    return rows


@pytest.mark.parametrize("language", ["cpp", "c"])
def test_example_finds_the_package_and_attends(language: str, prefix: Path, tmp_path: Path) -> None:
    example = tmp_path / "example"
    shutil.copytree(ROOT / "examples" / language, example)
    run("cmake", "-G", "Ninja", "-B", "build", f"-DCMAKE_PREFIX_PATH={prefix}", cwd=example)
    run("cmake", "--build", "build", cwd=example)
    printed = [[float(number) for number in line.split()] for line in run("build/attention", cwd=example).splitlines()]
    for row, expected in zip(printed, dense_attention(), strict=True):
        assert row == pytest.approx(expected, abs=2e-5)


def test_another_version_is_refused(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(p LANGUAGES CXX)\nfind_package(window_matmul 0.2 REQUIRED)\n"
    )
    configure = ["cmake", "-G", "Ninja", "-B", "build", f"-DCMAKE_PREFIX_PATH={prefix}"]
    result = subprocess.run(configure, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0 and "window_matmul" in result.stderr

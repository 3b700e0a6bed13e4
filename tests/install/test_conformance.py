# tests/install/test_conformance.py: where nvcc was found, the wheel has the conformance program, which needs no CUDA installation to start.
from __future__ import annotations

import json
import re
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import ROOT, run

PROGRAM = "window_matmul/bin/window_matmul_cuda_conformance"
NEEDED = {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"}
MOST_BYTES = 2_000_000


def found_nvcc() -> bool:
    """Whether the build of the wheel did."""
    cache = next((ROOT / "build").glob("py3-none-*/CMakeCache.txt")).read_text()
    return re.search(r"^WINDOW_MATMUL_NVCC:FILEPATH=/", cache, re.MULTILINE) is not None


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not found_nvcc():
        pytest.skip("the wheel was built without nvcc")
    path = Path(zipfile.ZipFile(wheel).extract(PROGRAM, tmp_path_factory.mktemp("wheel")))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_wheel_has_no_other_program(wheel: Path) -> None:
    programs = [name for name in zipfile.ZipFile(wheel).namelist() if "/bin/" in name]
    assert programs == ([PROGRAM] if found_nvcc() else [])


def test_it_is_small_and_needs_only_the_system(program: Path) -> None:
    assert program.stat().st_size < MOST_BYTES
    dynamic = run("readelf", "--dynamic", "--wide", program)
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)) <= NEEDED
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    assert str(ROOT).encode() not in program.read_bytes()


def test_its_emulation_holds_the_definitions(program: Path) -> None:
    lines = [json.loads(line) for line in run(program, "--emulation-only", "--runs", "2").splitlines()]
    assert len(lines) > 30 and all(line["verdict"] == "passed" and line["numbers"] > 0 for line in lines[:-1])
    assert lines[-1] == {"device": "emulation only", "passed": len(lines) - 1, "failed": 0}


def test_it_refuses_to_pass_without_having_run(program: Path) -> None:
    assert subprocess.run([program, "--emulation-only", "--runs", "0"], capture_output=True).returncode == 1
    assert subprocess.run([program, "--nothing"], capture_output=True).returncode == 2
    without = subprocess.run([program], capture_output=True, text=True)
    if "no GPU" in without.stderr:  # else this machine has one, and the program has checked it
        assert without.returncode == 3 and not without.stdout


def test_the_installed_package_runs_it(wheel: Path, program: Path, install: Callable[[Path], Path], tmp_path: Path) -> None:
    """Executable where pip puts it, found far from the sources."""
    code = """
import torch
from window_matmul.testing import tools
from window_matmul.testing.outcome import Budget
outcome = tools.primitives(torch.device("cpu"), Budget(thorough=False))
assert outcome.passed and str(tools.conformance_program()).startswith(__import__("sys").prefix), outcome
"""
    run(install(wheel), "-c", code, cwd=tmp_path)

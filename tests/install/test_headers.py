# tests/install/test_headers.py: the torch of the environment is found from the empty one that a tool builds in; without any, what to type.
from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import find_torch_headers
import pytest

import stand_ins
from commands import ROOT, run

SCRIPT = ROOT / "scripts/find_torch_headers.py"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment without torch, as tools make them to build in."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    return folder / "bin/python"


def found(command: str, cwd: Path, **variables: str) -> Path:
    """What a shell's child prints; who started the shell is not asked, and this process's torch not seen."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd)} | variables
    return Path(subprocess.check_output(["bash", "-c", f"{command}; exit $?"], cwd=cwd, env=environment, text=True).strip())


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_variables(empty: Path, tmp_path: Path, variable: str) -> None:
    torch = stand_ins.torch(tmp_path / "env")
    assert found(f"{empty} {SCRIPT}", tmp_path, **{variable: str(tmp_path / "env")}) == torch


def test_one_that_is_too_old_is_passed_over(empty: Path, tmp_path: Path) -> None:
    stand_ins.torch(tmp_path / "old", "2.9.1")
    torch = stand_ins.torch(tmp_path / "new", "2.10.0")
    assert found(f"{empty} {SCRIPT}", tmp_path, VIRTUAL_ENV=str(tmp_path / "old"), CONDA_PREFIX=str(tmp_path / "new")) == torch


@pytest.mark.parametrize("by_path", [True, False], ids=["its path", "its name"])
def test_the_interpreter_that_builds(empty: Path, tmp_path: Path, by_path: bool) -> None:
    """`python -m build`: it has torch, and its child does not."""
    torch = stand_ins.torch(tmp_path / "env")
    (tmp_path / "env/bin").mkdir()
    (tmp_path / "env/bin/python3").symlink_to(sys.executable)
    child = f"import subprocess; subprocess.run([{str(empty)!r}, {str(SCRIPT)!r}])"
    name, path = (f"{tmp_path}/env/bin/python3", os.environ["PATH"]) if by_path else ("python3", f"{tmp_path}/env/bin:{os.environ['PATH']}")
    assert found(f"{name} -c {shlex.quote(child)}", tmp_path, PATH=path) == torch


def test_the_environment_that_uv_finds(empty: Path, tmp_path: Path) -> None:
    """`.venv` beside or above the folder it runs in, or what --python names."""
    torch = stand_ins.torch(tmp_path / ".venv")
    (tmp_path / "below").mkdir()
    child = shlex.quote(f"{empty} {SCRIPT}; exit $?")
    assert found(f"(exec -a uv bash -c {child})", tmp_path / "below") == torch
    other = stand_ins.torch(tmp_path / "other")
    (tmp_path / "other/bin").mkdir()
    (tmp_path / "other/bin/python").symlink_to(sys.executable)
    (tmp_path / "outside").mkdir()
    child = shlex.quote(f"{empty} {SCRIPT}; exit $?")
    assert found(f"(exec -a uv bash -c {child} --python {tmp_path}/other/bin/python)", tmp_path / "below") == other


def test_without_torch_it_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    old = stand_ins.torch(tmp_path / "old", "2.9.1")
    monkeypatch.setattr(find_torch_headers, "candidates", lambda: iter([tmp_path, old.parent, tmp_path]))
    assert find_torch_headers.main() == 1
    assert capsys.readouterr().out == f"{tmp_path}/torch: none\n{old}: torch 2.9.1, too old\n"


def test_without_torch_the_build_says_what_to_type(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *find_torch_headers*) echo "/here/torch: none"; exit 1;; esac\nexec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    defines = (f"-DPython_EXECUTABLE={python}", "-DWINDOW_MATMUL_BUILD_TORCH=ON", "-DWINDOW_MATMUL_CUDA=OFF")
    command: list[str | Path] = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", tmp_path / "build", *defines]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"WINDOW_MATMUL_TORCH_ROOT": ""})
    lines = [line.strip() for line in done.stderr.splitlines()]
    assert done.returncode != 0 and "/here/torch: none" in lines
    for line in (
        "pip install 'torch>=2.10' && pip install .",
        "uv pip install 'torch>=2.10' && uv pip install .",
        "pip install build 'torch>=2.10' && python -m build",
    ):
        assert line in lines, done.stderr


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    defines = (f"-DPython_EXECUTABLE={sys.executable}", "-DWINDOW_MATMUL_BUILD_TORCH=ON", f"-DWINDOW_MATMUL_TORCH_ROOT={tmp_path}")
    command: list[str | Path] = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", tmp_path / "build", "-DWINDOW_MATMUL_CUDA=OFF", *defines]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and f"WINDOW_MATMUL_TORCH_ROOT is {tmp_path};" in " ".join(done.stderr.split())

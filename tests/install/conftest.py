# tests/install/conftest.py: the wheel that `make install` built, and virtual environments to put it into.
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import ROOT, SITE_PACKAGES, run

sys.path.append(str(ROOT / "scripts"))  # what builds run is tested as it is


@pytest.fixture(scope="session")
def wheel() -> Path:
    wheels = list((ROOT / "build/wheel").glob("*.whl"))
    assert len(wheels) == 1, f"build/wheel holds {wheels}; it must hold the one wheel that `make install` builds"
    return wheels[0]


@pytest.fixture
def install(tmp_path: Path) -> Callable[[Path], Path]:
    """Installs a wheel into a fresh virtual environment outside the source tree and returns its Python. Neither torch nor pip is got again:
    a .pth file lends the packages of this environment, after the fresh one's own."""

    def install(wheel: Path) -> Path:
        run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
        python = tmp_path / "venv/bin/python"
        purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (purelib / "lent.pth").write_text(f"{SITE_PACKAGES}\n")
        run(python, "-m", "pip", "install", "--ignore-installed", "--no-index", "--no-deps", wheel)
        assert (purelib / "window_matmul").is_dir()
        return python

    return install


USE_IT = """
import sys, torch, window_matmul
assert window_matmul.__file__.startswith(sys.prefix), (window_matmul.__file__, sys.prefix)
x = torch.arange(1.0, 9.0).reshape(4, 2)
print(window_matmul.window_matmul(x, x.mT, 1).tolist())
"""


@pytest.fixture
def check_use(tmp_path: Path) -> Callable[[Path], None]:
    """Multiplies with the window_matmul of a Python, far from the sources."""

    def check_use(python: Path) -> None:
        expected = [[0.0, 5.0, 11.0], [11.0, 25.0, 39.0], [39.0, 61.0, 83.0], [83.0, 113.0, 0.0]]
        assert run(python, "-c", USE_IT, cwd=tmp_path).strip() == str(expected)

    return check_use

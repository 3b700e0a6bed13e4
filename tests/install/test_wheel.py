# tests/install/test_wheel.py: the wheel holds what it should, asks the system for no more than it says, and works in a fresh environment.
from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import ROOT, SITE_PACKAGES, run

LIBRARY = "window_matmul/lib/libwindow_matmul_torch_cpu.so"
CUDA_LIBRARY = "window_matmul/lib/libwindow_matmul_torch_cuda.so"
C_LIBRARY = "window_matmul/lib/libwindow_matmul.so"
NEEDED = {"libtorch_cpu.so", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"}


def found_nvcc() -> bool:
    """Whether the build of the wheel did."""
    cache = next((ROOT / "build").glob("py3-none-*/CMakeCache.txt")).read_text()
    return re.search(r"^WINDOW_MATMUL_NVCC:FILEPATH=/", cache, re.MULTILINE) is not None


@pytest.fixture(scope="module", params=[LIBRARY, CUDA_LIBRARY], ids=["cpu", "cuda"])
def library(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those that torch loads."""
    if request.param == CUDA_LIBRARY and not found_nvcc():
        pytest.skip("built without nvcc")
    folder = tmp_path_factory.mktemp("wheel")
    return Path(zipfile.ZipFile(wheel).extract(request.param, folder))


def test_one_wheel_for_every_python(wheel: Path) -> None:
    assert re.fullmatch(r"window_matmul-\d+\.\d+\.\d+-py3-none-manylinux_2_\d+_x86_64\.whl", wheel.name)


def test_its_tag_is_the_glibc_that_it_needs(wheel: Path) -> None:
    """auditwheel looks at the symbols; that libtorch_cpu.so comes with torch it cannot know."""
    said = " ".join(run(sys.executable, "-m", "auditwheel", "show", wheel).split())
    platform = wheel.stem.rpartition("-")[2]
    assert f'constrains the platform tag to "{platform}"' in said or f'following platform tag: "{platform}"' in said, said
    names = zipfile.ZipFile(wheel).namelist()
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith(".dist-info/WHEEL"))).decode()
    assert re.findall(r"^Tag: (.*)$", metadata, re.MULTILINE) == [f"py3-none-{platform}"]


def test_version_is_the_header_s(wheel: Path) -> None:
    header = (ROOT / "include/window_matmul/window_matmul.hpp").read_text()
    version = re.search(r'WINDOW_MATMUL_VERSION "(.*)"', header)
    assert version and wheel.name.split("-")[1] == version[1]


def test_holds_the_package_and_nothing_else(wheel: Path) -> None:
    programs = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("window_matmul/bin/")}  # test_conformance.py
    sources = {str(path.relative_to(ROOT / "python")) for path in (ROOT / "python/window_matmul").rglob("*.py")} | programs
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == sources | {LIBRARY, C_LIBRARY, "window_matmul/py.typed"} | ({CUDA_LIBRARY} if found_nvcc() else set())


def test_needs_only_torch_and_the_system(library: Path) -> None:
    dynamic = run("readelf", "--dynamic", "--wide", library)
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)) <= NEEDED
    assert "libtorch_cpu.so" in dynamic
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


def test_asks_of_torch_only_the_stable_c_interface(library: Path) -> None:
    """And nothing of CUDA: its runtime is inside, and what libtorch_cuda.so has is looked up."""
    undefined = re.findall(r" [Uw] (\S+)$", run("nm", "--dynamic", "--undefined-only", library), re.MULTILINE)
    of_torch = {name for name in undefined if "@" not in name and not name.startswith(("_ITM_", "__gmon_start__", "__cxa_finalize"))}
    assert of_torch
    assert all(name.startswith(("aoti_torch_", "torch_")) and "cuda_stream" not in name for name in of_torch), sorted(of_torch)


def test_the_library_for_c_knows_no_torch_and_offers_its_functions_alone(wheel: Path, tmp_path: Path) -> None:
    library = Path(zipfile.ZipFile(wheel).extract(C_LIBRARY, tmp_path))
    dynamic = run("readelf", "--dynamic", "--wide", library)
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)) <= NEEDED - {"libtorch_cpu.so"}
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    offered = set(re.findall(r" [A-Z] (\S+)$", run("nm", "--dynamic", "--defined-only", library), re.MULTILINE))
    headers = [(ROOT / header).read_text() for header in ("include/window_matmul/c_api.h", "src/c_api/xla.hpp")]
    declared = re.findall(r"^WM_API .*?(wm_\w+)\(", "\n".join(headers), re.MULTILINE)
    assert offered == set(declared) and len(declared) > 10
    assert str(ROOT).encode() not in library.read_bytes()


def test_offers_no_symbol_of_its_own(library: Path) -> None:
    defined = run("nm", "--dynamic", "--defined-only", "--demangle", library)
    assert not re.search("window_matmul|cuda", defined), defined


def test_tells_nothing_of_the_build_machine(library: Path) -> None:
    content = library.read_bytes()
    for path in (ROOT, Path.home(), SITE_PACKAGES, Path(sys.prefix)):
        assert str(path).encode() not in content, path


def test_works_in_a_fresh_environment(wheel: Path, install: Callable[[Path], Path], check_use: Callable[[Path], None]) -> None:
    check_use(install(wheel))

#!/usr/bin/env python3
# scripts/find_torch_headers.py: finds the folder of a torch >= 2.10 for a build that runs in an environment of its own.
"""Prints the folder of the torch package whose headers to compile against; where there is none, where it looked, and exits with 1.

pip, uv and `python -m build` build in an environment that is fresh and empty, and the torch of the environment they install into is not on
its path. In this order: what `import torch` would find; this interpreter's site-packages, which pip only hides from the path; the
environments that VIRTUAL_ENV and CONDA_PREFIX name; for each of the tools that started this build, nearest first, those that its variables
name, its interpreter's, and for uv `.venv` in the folder it runs in or one above; and what this environment was made from.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

NEEDED = (2, 10)
VARIABLES = ("VIRTUAL_ENV", "CONDA_PREFIX")
TOOLS = ("cmake", "python", "pypy", "uv", "pixi")  # so their processes' names begin; pip, build and most others are Python
HEADER = "include/torch/csrc/stable/library.h"


def packages_of(environment: Path) -> Iterator[Path]:
    """The folders of packages of an environment or installation; those of this version of Python first."""
    here = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for pattern in (f"lib*/{here}/*-packages", f"local/lib*/{here}/*-packages", "lib*/python3*/*-packages"):
        yield from sorted(environment.glob(pattern))


def of_variables(variables: Mapping[str, str]) -> Iterator[Path]:
    for name in VARIABLES:
        if variables.get(name):
            yield from packages_of(Path(variables[name]))


def words_of(process: Path) -> list[str]:
    return (process / "cmdline").read_text(errors="replace").split("\0")


def tools(process: int) -> Iterator[Path]:
    """/proc/<number> of this process, its parent, and so on, up to the first that has no part in a build: a shell, make."""
    while (folder := Path("/proc", str(process))).exists() and Path(words_of(folder)[0]).name.startswith(TOOLS):
        yield folder
        status = re.search(r"^PPid:\s*(\d+)", (folder / "status").read_text(), re.MULTILINE)
        process = int(status[1]) if status else 0


def of_process(folder: Path) -> Iterator[Path]:
    """Where the packages may be that a process uses or installs."""
    pairs = (pair.partition("=") for pair in (folder / "environ").read_text(errors="replace").split("\0"))
    variables = {name: value for name, _, value in pairs}
    yield from of_variables(variables)
    runs_in = (folder / "cwd").resolve()
    for word in words_of(folder):  # an interpreter, or an option that names one
        path = Path(word.partition("=")[2] or word)
        if path.name.startswith("python"):
            found = [path] if "/" in str(path) else [Path(place, path) for place in variables.get("PATH", "").split(":")]
            yield from (package for file in found if (runs_in / file).exists() for package in packages_of((runs_in / file).parents[1]))
    if Path(words_of(folder)[0]).name == "uv":
        for place in (runs_in, *runs_in.parents):
            yield from packages_of(place / ".venv")


def of_tools() -> Iterator[Path]:
    try:
        for process in tools(os.getppid()):
            yield from of_process(process)
    except OSError:
        return  # another user's process: what it looks at is not to be known


def candidates() -> Iterator[Path]:
    """Folders that may hold torch."""
    spec = importlib.util.find_spec("torch")
    if spec:
        yield from (Path(place).parent for place in spec.submodule_search_locations or ())
    yield from (Path(sysconfig.get_path(scheme)) for scheme in ("purelib", "platlib"))
    yield from of_variables(os.environ)
    yield from of_tools()
    yield from packages_of(Path(sys.base_prefix))


def version_of(torch: Path) -> str:
    """ "" where there is none."""
    file = torch / "version.py"
    said = re.search(r"__version__ = '([^']+)'", file.read_text()) if file.is_file() else None
    return said[1] if said else ""


def main() -> int:
    looked: dict[Path, str] = {}
    for folder in candidates():
        torch = folder / "torch"
        if torch in looked:
            continue
        looked[torch] = version_of(torch)
        if looked[torch] and tuple(map(int, looked[torch].split(".")[:2])) >= NEEDED and (torch / HEADER).is_file():
            print(torch)
            return 0
    for torch, version in looked.items():
        print(f"{torch}: {f'torch {version}, too old' if version else 'none'}")
    return 1


if __name__ == "__main__":
    sys.exit(main())

# tests/install/stand_ins.py: compilers, toolkits and packages that are not what they seem, so that no machine needs the real ones.
from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from importlib.metadata import distribution
from pathlib import Path

# Says what real ones say, for the words they cannot take, and makes objects of nothing.
NVCC = """#!/bin/sh
case "$*" in *--version*) echo "Cuda compilation tools, release 12.4"; exit 0;; esac
case "$*" in {refuses}) echo "nvcc fatal   : {fatal}" >&2; exit 1;; esac
case "$*" in *--dryrun*) echo "#$ TOP={toolkit}" >&2; exit 0;; esac
echo "{says}" >&2
for word in "$@"; do
  case "$before" in -o) object="$word";; -MF) rule="$word";; esac
  before="$word"
done
echo | c++ -x c++ -c - -o "$object" && if [ "$rule" ]; then echo "$object : $0" > "$rule"; fi
"""
UNKNOWN = "Unsupported gpu architecture 'compute_100'"


def nvcc(file: Path, refuses: str = "''", fatal: str = UNKNOWN, says: str = "", toolkit: str | Path = "/nowhere") -> Path:
    """A compiler that refuses command lines of a pattern of the shell, and says something to all others."""
    file.write_text(NVCC.format(refuses=refuses, fatal=fatal, says=says, toolkit=toolkit))
    file.chmod(0o755)
    return file


def cuda_toolkit(folder: Path) -> Path:
    """What the build looks for beside nvcc, with nothing in it."""
    for name in ("include/cuda_runtime_api.h", "lib64/libcudart_static.a"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("" if name.endswith(".h") else "!<arch>\n")
    return folder


def torch(environment: Path, version: str = "2.13.0") -> Path:
    """The folder of a torch of which there is no more than is looked for."""
    folder = environment / "lib/python3.10/site-packages/torch"
    header = folder / "include/torch/csrc/stable/library.h"
    header.parent.mkdir(parents=True)
    header.write_text("")
    (folder / "version.py").write_text(f"__version__ = '{version}'\n")
    return folder


def wheel_of(name: str, folder: Path) -> None:
    """An installed package of Python files as the wheel it came from, and those that it needs: builds can be isolated without a network."""
    package = distribution(name)
    stem = f"{re.sub('[-.]+', '_', package.metadata['Name'])}-{package.version}"
    if (target := folder / f"{stem}-py3-none-any.whl").exists():
        return
    record = []
    with zipfile.ZipFile(target, "w") as archive:
        for file in package.files or ():
            if file.parts[0] == ".." or file.suffix == ".pyc" or file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                continue
            content = file.read_binary()
            archive.writestr(str(file), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{file},sha256={digest},{len(content)}")
        rule = next(str(file.parent / "RECORD") for file in package.files or () if file.name == "RECORD")
        archive.writestr(rule, "\n".join([*record, f"{rule},,", ""]))
    for requirement in package.requires or ():
        if "extra ==" not in requirement and not re.search(r"python_version\s*<", requirement):
            wheel_of(re.split(r"[\s;<>=!~\[(]", requirement)[0], folder)

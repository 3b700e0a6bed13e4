#!/usr/bin/env python3
# scripts/compile_cuda.py: runs nvcc on one file, unless an earlier build of the same text is kept, and keeps what ptxas said.
"""compile_cuda.py --object FILE --store FOLDER -- NVCC ARGUMENT...

Leaves the object, FILE.ptxas (what ptxas said of each kernel, for scripts/check_cuda_kernels.py) and FILE.d (what it was made from, for
Ninja and make). The three also go to the store: the wheel and the tests are built in folders of their own, and minutes of nvcc are to be
spent once. What was stored is taken again if nvcc, its arguments and the contents of all files it was made from are the same; where these
lie does not count, so that a copy of the tree can take it too.
"""

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

SUFFIXES = ("", ".ptxas", ".d")
ROOT = Path(__file__).resolve().parents[1]
HERE = "<root>"  # what stands for it in the store


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def sources_of(dependencies: Path) -> list[Path]:
    """The files behind the colon of a makefile rule."""
    rule = dependencies.read_text().replace(HERE, str(ROOT))
    return [Path(word) for word in rule.partition(" :")[2].replace("\\\n", " ").split()]


def key_of(command: list[str], dependencies: Path) -> str:
    """What the object depends on, as one number; "" where a file is gone."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256("\n".join([version, *command]).replace(str(ROOT), HERE).encode())
    for source in sources_of(dependencies):
        if not source.is_file():
            return ""
        digest.update(str(source).replace(str(ROOT), HERE).encode() + source.read_bytes())
    return digest.hexdigest()


def copy(origin: Path, target: Path) -> None:
    """Whole or not at all, whoever else builds."""
    half = beside(target, f".{os.getpid()}")
    shutil.copyfile(origin, half)
    half.replace(target)


def is_stored(command: list[str], stored: Path) -> bool:
    key = beside(stored, ".key")
    return key.is_file() and beside(stored, ".d").is_file() and key.read_text() == key_of(command, beside(stored, ".d"))


def compile_to(command: list[str], target: Path) -> int:
    outputs = ["-o", str(target), "-MMD", "-MF", str(beside(target, ".d")), "-MT", str(target)]
    done = subprocess.run([*command, *outputs], capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        sys.stderr.write(said)
    else:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = used.ru_utime + used.ru_stime  # of a processor: whatever else runs
        beside(target, ".ptxas").write_text(f"{said}compiled in {seconds:.1f} s\n")
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--object", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    stored = arguments.store / arguments.object.name
    stored.parent.mkdir(parents=True, exist_ok=True)
    if is_stored(arguments.command, stored):
        for suffix in SUFFIXES:
            copy(beside(stored, suffix), beside(arguments.object, suffix))
        rule = beside(arguments.object, ".d")
        rule.write_text(f"{arguments.object} :{rule.read_text().partition(' :')[2].replace(HERE, str(ROOT))}")  # of this build's object
        return 0
    begin = time.time()
    if code := compile_to(arguments.command, arguments.object):
        return code
    beside(stored, ".key").unlink(missing_ok=True)
    if any(source.stat().st_mtime > begin for source in sources_of(beside(arguments.object, ".d"))):
        return 0  # changed meanwhile: Ninja and make will see that, the key would not
    for suffix in SUFFIXES:
        copy(beside(arguments.object, suffix), beside(stored, suffix))
    rule = beside(stored, ".d")
    rule.write_text(rule.read_text().replace(str(ROOT), HERE))
    beside(stored, ".key").write_text(key_of(arguments.command, beside(stored, ".d")))
    return 0


if __name__ == "__main__":
    sys.exit(main())

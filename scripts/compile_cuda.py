#!/usr/bin/env python3
# scripts/compile_cuda.py: runs nvcc on one file, unless an earlier build of the same text is kept, and keeps what ptxas said.
"""compile_cuda.py --object FILE --store FOLDER [--warnings-are-errors] [--may-fail] -- NVCC ARGUMENT...

Leaves the object, FILE.ptxas (what ptxas said of each kernel, for scripts/check_cuda_kernels.py) and FILE.d (what it was made from, for
Ninja and make). The three also go to the store: the wheel and the tests are built in folders of their own, and minutes of nvcc are to be
spent once. What was stored is taken again if nvcc, its arguments and the contents of all files it was made from are the same; where these
lie does not count, so that a copy of the tree can take it too.

--warnings-are-errors is no flag of nvcc here, so that builds with and without it share what is stored. With --may-fail a file that cannot
be compiled leaves FILE.failed with what was said, and no object: whoever links has to look.
"""

import argparse
import hashlib
import os
import re
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


def compile_to(command: list[str], target: Path) -> tuple[int, str]:
    """The exit status and what was said."""
    done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = used.ru_utime + used.ru_stime  # of a processor: whatever else runs
        beside(target, ".ptxas").write_text(f"{said}compiled in {seconds:.1f} s\n")
    return done.returncode, said


def take(stored: Path, target: Path) -> None:
    for suffix in SUFFIXES:
        copy(beside(stored, suffix), beside(target, suffix))
    rule = beside(target, ".d")
    rule.write_text(f"{target} :{rule.read_text().partition(' :')[2].replace(HERE, str(ROOT))}")  # of this build's object


def keep(command: list[str], target: Path, stored: Path, begin: float) -> None:
    beside(stored, ".key").unlink(missing_ok=True)
    if any(source.stat().st_mtime > begin for source in sources_of(beside(target, ".d"))):
        return  # changed meanwhile: Ninja and make will see that, the key would not
    for suffix in SUFFIXES:
        copy(beside(target, suffix), beside(stored, suffix))
    rule = beside(stored, ".d")
    rule.write_text(rule.read_text().replace(str(ROOT), HERE))
    beside(stored, ".key").write_text(key_of(command, rule))


def warnings_of(target: Path) -> list[str]:
    return [line for line in beside(target, ".ptxas").read_text().splitlines() if re.search(r"\bwarning\b", line)]


def fail(target: Path, code: int, said: str, may_fail: bool) -> int:
    for suffix in SUFFIXES:
        beside(target, suffix).unlink(missing_ok=True)
    if may_fail:
        beside(target, ".failed").write_text(said)
        return 0
    sys.stderr.write(said)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--object", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--warnings-are-errors", action="store_true")
    parser.add_argument("--may-fail", action="store_true")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    target: Path = arguments.object
    stored = arguments.store / target.name
    stored.parent.mkdir(parents=True, exist_ok=True)
    beside(target, ".failed").unlink(missing_ok=True)
    if is_stored(arguments.command, stored):
        take(stored, target)
    else:
        begin = time.time()
        rule = ["-MMD", "-MF", str(beside(target, ".d")), "-MT", str(target)]
        code, said = compile_to([*arguments.command, *rule], target)
        if code != 0:
            return fail(target, code, said, arguments.may_fail)
        keep(arguments.command, target, stored, begin)
    warnings = warnings_of(target)
    if warnings and arguments.warnings_are_errors:
        return fail(target, 1, "\n".join([*warnings, "here warnings are errors", ""]), arguments.may_fail)
    sys.stderr.writelines(f"{line}\n" for line in warnings)
    return 0


if __name__ == "__main__":
    sys.exit(main())

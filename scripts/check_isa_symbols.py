#!/usr/bin/env python3
# scripts/check_isa_symbols.py: fails if an object compiled for one instruction set could run its code on machines without it.
"""Looks for two things in the objects of src/cpu/isa:

weak symbols         the linker keeps one copy of an inline function for the whole program, and that may be the copy compiled with AVX-512;
static initialisers  they run when the library is loaded, before anybody asks what the processor can do.

    check_isa_symbols.py OBJECT...
    check_isa_symbols.py --self-test g++      compiles an offender of each kind and fails unless it is found
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

WEAK = {"W": "weak function", "V": "weak object", "u": "unique object"}  # small w and v are undefined: references, not copies
SYMBOL = re.compile(r"^(.+) ([a-zA-Z]) \d+(?: \d+)?$", re.MULTILINE)
INITIALISER = re.compile(r" (\.(?:init_array|preinit_array|ctors|init))\b")

# name of a source -> (text, what must be found in its object; None for nothing)
SELF_TEST = {
    "inline_function": ("inline int twice(int x) { return 2 * x; }  int use(int x) { return twice(x); }", "weak function"),
    "inline_variable": ("template <class T> inline int cache = 0;  int* use() { return &cache<int>; }", "object"),
    "initialiser": ("int ask();  static const int answer = ask();  int use() { return answer; }", "static initialiser"),
    "clean": ("namespace { [[gnu::always_inline]] inline int twice(int x) { return 2 * x; } }  int use(int x) { return twice(x); }", None),
}


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def offences(path: Path, nm: str, readelf: str) -> list[str]:
    """One line for each weak symbol and static initialiser of an object."""
    symbols = output(nm, "--demangle", "--format=posix", "--radix=d", "--defined-only", path)
    sections = output(readelf, "--section-headers", "--wide", path)
    weak = [f"{WEAK[kind]}: {name}" for name, kind in SYMBOL.findall(symbols) if kind in WEAK]
    return weak + [f"static initialiser: section {name}" for name in INITIALISER.findall(sections)]


def self_test(compiler: str, nm: str, readelf: str) -> list[str]:
    """What the check gets wrong about objects whose answer is known."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (text, expected) in SELF_TEST.items():
            source, target = Path(folder, f"{name}.cpp"), Path(folder, f"{name}.o")
            source.write_text(text)
            output(compiler, "-std=c++20", "-O0", "-fPIC", "-c", source, "-o", target)
            found = offences(target, nm, readelf)
            if bool(found) != bool(expected) or (expected and not any(expected in line for line in found)):
                wrong.append(f"{name}: expected {expected}, found {found}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", nargs="*", type=Path)
    parser.add_argument("--self-test", metavar="COMPILER")
    parser.add_argument("--nm", default="nm")
    parser.add_argument("--readelf", default="readelf")
    arguments = parser.parse_args()
    if not arguments.objects and not arguments.self_test:
        parser.error("name the objects to look at, or --self-test COMPILER")
    found = self_test(arguments.self_test, arguments.nm, arguments.readelf) if arguments.self_test else []
    for path in arguments.objects:
        found += [f"{path.name}: {line}" for line in offences(path, arguments.nm, arguments.readelf)]
    print("\n".join(found) or f"{len(arguments.objects) or 'self-test'} ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

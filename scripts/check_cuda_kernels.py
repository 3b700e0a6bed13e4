#!/usr/bin/env python3
# scripts/check_cuda_kernels.py: fails if CUDA kernels spill, outgrow their registers, or consist of other instructions than expected.
"""Reads the objects that scripts/compile_cuda.py made and, beside them, what ptxas said; prints a table of kernels.

A kernel that is not in EXPECTED fails, and so does one of EXPECTED that is missing: the table is to be kept. Registers are at most those
measured when it was written, rounded up to the next multiple of 8, which is how they are allotted; the counts of instructions hold exactly.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import cuda_code

MOST_SECONDS = 60  # of a processor, to compile a file for all architectures


class Expected(NamedTuple):  # on every architecture
    registers: int  # at most
    matrix: int = 0  # HMMA: 16 for each 16 x 64 of sums and 128 bytes of depth of halves, ... of B's fragments
    ldmatrix: int = 0  # LDSM
    copies: int = 0  # LDGSTS: cp.async, 1 + 2 + 4 by alignment (1 + 2 where elements are of 4 bytes or more) for each tile loaded
    wide_stores: int = 0  # STG of 16 bytes


EXPECTED: dict[str, Expected] = {}

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<arch>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
KERNEL = re.compile(r"(BandOut|BandIn|SoftmaxBackward|Softmax)KernelI(NS_3f16E|NS_4bf16E|NS0_6tf32x3E|f|d)(?:Lb([01])E)?(?:Li(\d+)E)?E")
TYPES = {"NS_3f16E": "half", "NS_4bf16E": "half", "NS0_6tf32x3E": "tf32", "f": "float32", "d": "float64"}
SECONDS = re.compile(r"compiled in ([\d.]+) s")


class Kernel(NamedTuple):
    name: str
    arch: int
    spills: int
    registers: int
    matrix: int
    ldmatrix: int
    copies: int
    wide_stores: int


def name_of(mangled: str) -> str:
    """BandIn<half, transposed, 2> from the name the compiler gave: panels of band_in, threads of a row of the softmax."""
    match = KERNEL.search(mangled)
    if match is None:
        return mangled
    form, element, transposed, number = match.groups()
    rest = (", transposed" if transposed == "1" else "") + (f", {number}" if number else "")
    return f"{form}<{TYPES[element]}{rest}>"


def kernels_of(path: Path) -> list[Kernel]:
    said = {(m["name"], int(m["arch"])): m for m in ENTRY.finditer(path.with_name(path.name + ".ptxas").read_text())}
    kernels = []
    for code in cuda_code.kernels_of(path):
        m = said[code.kernel, code.arch]
        spills = int(m["stack"]) + int(m["stores"]) + int(m["loads"]) + code.opcodes[cuda_code.LDL] + code.opcodes[cuda_code.STL]
        counts = (code.opcodes[cuda_code.HMMA], code.opcodes[cuda_code.LDSM], code.opcodes[cuda_code.LDGSTS], code.stores[16])
        kernels.append(Kernel(name_of(code.kernel), code.arch, spills, int(m["registers"]), *counts))
    return kernels


def faults(kernels: list[Kernel]) -> list[str]:
    found = []
    for k in kernels:
        who = f"{k.name} for sm_{k.arch}"
        if k.spills:
            found.append(f"{who}: {k.spills} bytes or instructions of local memory; it needs to have none")
        if k.name not in EXPECTED:
            found.append(f"{who}: not in EXPECTED")
            continue
        expected = EXPECTED[k.name]
        if k.registers > expected.registers:
            found.append(f"{who}: {k.registers} registers, {expected.registers} at most")
        for field in Expected._fields[1:]:
            if getattr(k, field) != getattr(expected, field):
                found.append(f"{who}: {getattr(k, field)} {field}, expected {getattr(expected, field)}")
    return found + [f"{name}: not among the compiled kernels" for name in sorted(set(EXPECTED) - {k.name for k in kernels})]


def slow_files(paths: list[Path]) -> list[str]:
    seconds = {path.name: float(SECONDS.findall(path.with_name(path.name + ".ptxas").read_text())[-1]) for path in paths}
    print(", ".join(f"{name} {s:.0f} s" for name, s in seconds.items()))
    return [f"{name}: compiled in {s:.0f} s, {MOST_SECONDS} at most" for name, s in seconds.items() if s > MOST_SECONDS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", type=Path, nargs="+")
    arguments = parser.parse_args()
    kernels = sorted(kernel for path in arguments.objects for kernel in kernels_of(path))
    print(f"{'kernel':40} {'sm':>4} " + " ".join(f"{field:>11}" for field in Kernel._fields[2:]))
    for k in kernels:
        print(f"{k.name:40} {k.arch:4} " + " ".join(f"{value:11}" for value in k[2:]))
    found = faults(kernels) + slow_files(arguments.objects)
    print("\n".join(found) or f"{len(kernels)} kernels ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

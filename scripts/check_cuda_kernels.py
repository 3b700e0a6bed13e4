#!/usr/bin/env python3
# scripts/check_cuda_kernels.py: fails if a compiled CUDA kernel spills, has local memory, or takes more registers than its bound.
"""Reads what `nvcc -Xptxas -v` said (scripts/compile_cuda.py keeps it) and prints a table of kernels.

A kernel that is not in BOUNDS fails, and so does a bound without a kernel: the table is to be kept. A bound is the number of registers
measured when it was written, rounded up to the next multiple of 8, which is how they are allotted.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

# kernel as demangled below -> registers at most, on any architecture
BOUNDS = {
    "BandIn<bfloat16, 1 panels>": 152,
    "BandIn<bfloat16, 2 panels>": 224,
    "BandIn<bfloat16, transposed, 1 panels>": 152,
    "BandIn<bfloat16, transposed, 2 panels>": 216,
    "BandIn<float16, 1 panels>": 152,
    "BandIn<float16, 2 panels>": 224,
    "BandIn<float16, transposed, 1 panels>": 152,
    "BandIn<float16, transposed, 2 panels>": 216,
    "BandIn<float32, 1 panels>": 160,
    "BandIn<float32, 2 panels>": 192,
    "BandIn<float32, transposed, 1 panels>": 152,
    "BandIn<float32, transposed, 2 panels>": 192,
    "BandIn<float64, 1 panels>": 176,
    "BandIn<float64, transposed, 1 panels>": 176,
    "BandOut<bfloat16>": 168,
    "BandOut<float16>": 168,
    "BandOut<float32>": 168,
    "BandOut<float64>": 224,
}

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
KERNEL = re.compile(r"(BandOut|BandIn|Softmax\w*?)KernelI(NS_(?:3f16|4bf16)E|f|d)(?:Lb([01])E)?(?:Li(\d)E)?E")
TYPES = {"NS_3f16E": "float16", "NS_4bf16E": "bfloat16", "f": "float32", "d": "float64"}


class Kernel(NamedTuple):
    name: str
    arch: str
    stack: int
    spills: int
    registers: int


def name_of(mangled: str) -> str:
    """BandIn<float32, transposed, 2 panels> from the name the compiler gave."""
    match = KERNEL.search(mangled)
    if match is None:
        return mangled
    form, element, transposed, panels = match.groups()
    rest = (", transposed" if transposed == "1" else "") + (f", {panels} panels" if panels else "")
    return f"{form}<{TYPES[element]}{rest}>"


def kernels_of(said: str) -> list[Kernel]:
    return [
        Kernel(name_of(m["name"]), m["arch"], int(m["stack"]), int(m["stores"]) + int(m["loads"]), int(m["registers"]))
        for m in ENTRY.finditer(said)
    ]


def faults(kernels: list[Kernel]) -> list[str]:
    found = []
    for k in kernels:
        if k.spills or k.stack:
            found.append(f"{k.name} for {k.arch}: {k.spills} bytes of spills, {k.stack} bytes of local memory; it needs to have none")
        if k.name not in BOUNDS:
            found.append(f"{k.name} for {k.arch}: no bound in BOUNDS; it takes {k.registers} registers")
        elif k.registers > BOUNDS[k.name]:
            found.append(f"{k.name} for {k.arch}: {k.registers} registers, {BOUNDS[k.name]} at most")
    missing = set(BOUNDS) - {k.name for k in kernels}
    return found + [f"{name}: not among the compiled kernels" for name in sorted(missing)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects", type=Path, nargs="+")
    arguments = parser.parse_args()
    kernels = [kernel for path in arguments.objects for kernel in kernels_of(path.with_name(path.name + ".ptxas").read_text())]
    for k in sorted(kernels):
        print(f"{k.arch:8} {k.registers:4} registers {k.spills:5} spilled  {k.name}")
    found = faults(kernels)
    print("\n".join(found) or f"{len(kernels)} kernels ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

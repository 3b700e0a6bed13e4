#!/usr/bin/env python3
# scripts/check_cuda_kernels.py: fails if CUDA kernels spill, outgrow their registers, or consist of other instructions than expected.
"""Reads what scripts/compile_cuda.py and translate_cuda.py made and, beside it, what ptxas said; prints a table of kernels.

A kernel that is not in EXPECTED fails, and so does one of EXPECTED that is missing: the table is to be kept. Registers are at most those
measured when it was written, rounded up to the next multiple of 8, which is how they are allotted; the counts of instructions hold exactly.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import cuda_code

MOST_SECONDS = 60  # of a processor, to compile a file, or to translate it for all GPUs


class Expected(NamedTuple):  # on every architecture
    registers: int  # at most
    matrix: int  # HMMA: 32 for 16 x 64 sums of a warp and 128 bytes of depth; thrice as many for TF32, as often as there are panels
    ldmatrix: int  # LDSM, at most: ptxas may find that two are the same
    copies: int  # LDGSTS: cp.async, in pieces of 16, 8 and 4 bytes: 7 for each place where a tile is loaded
    wide_stores: int  # STG of 16 bytes: one for each run of a thread
    local: int = 0  # bytes and instructions of local memory, at most: none but where registers are known not to do


EXPECTED = {
    "BandIn<float32, 1>": Expected(208, 0, 0, 28, 8),
    "BandIn<float32, 2>": Expected(232, 0, 0, 42, 16),
    "BandIn<float32, transposed, 1>": Expected(216, 0, 0, 28, 8),
    "BandIn<float32, transposed, 2>": Expected(224, 0, 0, 42, 16),
    "BandIn<float64, 1>": Expected(216, 0, 0, 28, 16),
    "BandIn<float64, transposed, 1>": Expected(232, 0, 0, 28, 16),
    "BandIn<half, 1>": Expected(208, 32, 20, 28, 4),
    "BandIn<half, 2>": Expected(248, 64, 40, 42, 8),
    "BandIn<half, transposed, 1>": Expected(208, 32, 20, 28, 4),
    "BandIn<half, transposed, 2>": Expected(248, 64, 40, 42, 8),
    "BandIn<tf32, 1>": Expected(208, 96, 4, 28, 8),
    "BandIn<tf32, 2>": Expected(256, 192, 8, 42, 16),
    "BandIn<tf32, transposed, 1>": Expected(200, 96, 0, 28, 8),
    "BandIn<tf32, transposed, 2>": Expected(256, 192, 0, 42, 16),
    "BandOut<float32>": Expected(192, 0, 0, 28, 8),
    "BandOut<float64>": Expected(224, 0, 0, 28, 16),
    "BandOut<half>": Expected(192, 32, 20, 28, 4),
    "BandOut<tf32>": Expected(192, 96, 20, 28, 8),
    "Softmax<float32, 16>": Expected(96, 0, 0, 0, 5),
    "Softmax<float32, 256>": Expected(112, 0, 0, 0, 5),
    "Softmax<float32, 32>": Expected(96, 0, 0, 0, 5),
    "Softmax<float64, 256>": Expected(160, 0, 0, 0, 5),
    "Softmax<float64, 32>": Expected(88, 0, 0, 0, 5),
    "Softmax<half, 256>": Expected(128, 0, 0, 0, 5),
    "Softmax<half, 32>": Expected(120, 0, 0, 0, 5),
    "Softmax<half, 8>": Expected(120, 0, 0, 0, 5),
    "SoftmaxBackward<float32, 16>": Expected(120, 0, 0, 0, 5),
    "SoftmaxBackward<float32, 256>": Expected(128, 0, 0, 0, 5),
    "SoftmaxBackward<float32, 32>": Expected(120, 0, 0, 0, 5),
    "SoftmaxBackward<float64, 256>": Expected(128, 0, 0, 0, 5),
    "SoftmaxBackward<float64, 32>": Expected(120, 0, 0, 0, 5),
    "SoftmaxBackward<half, 16>": Expected(120, 0, 0, 0, 3),
    "SoftmaxBackward<half, 256>": Expected(128, 0, 0, 0, 3),
    "SoftmaxBackward<half, 32>": Expected(120, 0, 0, 0, 3),
}

# Fused attention: what its products, copies and stores are written with, by the element and the padded head dim.
PADDED = {"half": (64, 128, 256), "tf32": (64, 128), "float32": (64, 128), "float64": (64, 128)}
SPILLS = {("half", 256): 1000, ("float64", 128): 120}  # of options, beside sums that take 128 registers; seen: 823 and 98
ELEMENT = {"half": 2, "tf32": 4, "float32": 4, "float64": 8}


def attention(kind: str, dim: int, options: bool) -> Expected:
    line = dim * ELEMENT[kind]
    keys = 64 if line <= 256 else 32 if line <= 512 else 16
    on_tensor_cores = kind in ("half", "tf32")
    steps, factor = (dim // 16, 1) if kind == "half" else (dim // 8, 3)  # of depth, in Q K^T; as many multiply-adds again for P V
    of_scores, of_sums = steps * (1 + keys // 16), keys // 16 * (dim // 16) if kind == "half" else 0
    copies = 3 * 7 + 2 * (keys * line // 16 // 256)  # q, k and v of any alignment; whole tiles of k and v
    stores = dim // 16 + dim // 8 if kind == "half" else dim // 4 if kind == "float64" else dim // 8  # halves, and their sums
    texts = 1 if options else 2  # behind the one without options stands the other, for sums that are not finite: P V weight by weight
    matrix = (texts + 1) * steps * (keys // 8) * factor if on_tensor_cores else 0
    ldmatrix = texts * of_scores + of_sums if on_tensor_cores else 0
    return Expected(256, matrix, ldmatrix, texts * copies, texts * stores, SPILLS.get((kind, dim), 0) if options else 0)


for kind, dims in PADDED.items():
    EXPECTED[f"AttentionJoin<{kind}>"] = Expected(64 if kind == "float64" else 48, 0, 0, 0, 0)  # 64: as many as 1024 threads leave each
    for dim in dims:
        for options in (False, True) if dim <= 128 else (True,):
            EXPECTED[f"AttentionForward<{kind}, {dim}{', options' if options else ''}>"] = attention(kind, dim, options)


def gradients(kind: str, dim: int, form: str, options: bool) -> Expected:
    """Of a backward kernel; form as in its name: BackwardKeys, and of which of its two sums."""
    line, panel = dim * ELEMENT[kind], min(dim, 32 if kind == "float64" else 128)
    columns, threads = 32 if line <= 256 and not options else 16, 256 if line <= 256 else 65536 // line
    steps, factor = (dim // 16, 1) if kind == "half" else (dim // 8, 3)
    scores, sums = steps * (columns // 8) * factor, columns // 8 * (panel // 8) * factor // (2 if kind == "half" else 1)
    of_scores, of_sums = steps * (1 + columns // 16), columns // 16 * (panel // 16) if kind == "half" else 0
    both = form == "BackwardKeys"
    taken = {"BackwardSlots": 0, "BackwardKeys": 2}.get(form, 1)  # sums of the head dim
    products = 1 if form == "BackwardKeys, of values" else 2 + (options and form != "BackwardSlots")  # the last one for the slope of a cap
    on_tensor_cores = kind in ("half", "tf32")
    matrix = products * scores + taken * sums if on_tensor_cores else 0
    ldmatrix = products * of_scores + taken * of_sums if on_tensor_cores else 0
    whole = columns * line // 16 // threads if kind == "half" else 0
    copies = 2 * 7 + whole + form.startswith("BackwardKeys")  # rows and columns of any alignment; whole tiles; the queries' numbers
    runs = panel // {"half": 16, "float64": 4}.get(kind, 8) * (2 if both else 1) if taken else 0
    facts = (8 if kind == "float64" else 4) if form == "BackwardQueries" else 0  # of two rows, in two places
    return Expected(256, matrix, ldmatrix, copies, runs + facts)


def name_of_gradients(kind: str, dim: int, form: str, options: bool) -> str:
    name, _, which = form.partition(", ")
    return f"{name}<{kind}, {dim}{', options' if options else ''}{', ' + which if which else ''}>"


for kind, dims in PADDED.items():
    for dim in dims:
        EXPECTED[f"BackwardSlots<{kind}, {dim}>"] = gradients(kind, dim, "BackwardSlots", True)
        EXPECTED[f"SlotSums<{kind}, {dim}>"] = EXPECTED[f"SinkSums<{kind}, {dim}>"] = Expected(48, 0, 0, 0, 0)
        for options in (False, True) if kind == "half" and dim <= 128 else (True,):
            holds_both = dim * (8 if kind == "float64" else 4) <= (256 if options else 512)
            keys = ("BackwardKeys",) if holds_both else ("BackwardKeys, of keys", "BackwardKeys, of values")
            for form in ("BackwardQueries", *keys):
                EXPECTED[name_of_gradients(kind, dim, form, options)] = gradients(kind, dim, form, options)

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<arch>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
KERNEL = re.compile(r"(BandOut|BandIn|SoftmaxBackward|Softmax)KernelI(NS_3f16E|NS_4bf16E|NS0_6tf32x3E|f|d)(?:Lb([01])E)?(?:Li(\d+)E)?E")
ATTENTION = re.compile(r"Attention(Forward|Join)KernelI(NS_3f16E|NS_4bf16E|NS0_6tf32x3E|f|d)(?:Li(\d+)ELb([01])E)?E")
GRADIENTS = re.compile(
    r"(BackwardQueries|BackwardKeys|BackwardSlots|SlotSums|SinkSums)KernelI(NS_3f16E|NS_4bf16E|NS0_6tf32x3E|f|d)Li(\d+)E(?:Lb([01])E)?(?:LNS0_9GradientsE([012])E)?E"
)
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
    if match := GRADIENTS.search(mangled):
        form, element, dim, options, which = match.groups()
        rest = (", options" if options == "1" else "") + ("", ", of keys", ", of values")[int(which or 0)]
        return f"{form}<{TYPES[element]}, {dim}{rest}>"
    if match := ATTENTION.search(mangled):
        form, element, dim, options = match.groups()
        return f"Attention{form}<{TYPES[element]}{f', {dim}' if dim else ''}{', options' if options == '1' else ''}>"
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
        if k.name not in EXPECTED:
            found.append(f"{who}: not in EXPECTED")
            continue
        expected = EXPECTED[k.name]
        if k.spills > expected.local:
            found.append(f"{who}: {k.spills} bytes or instructions of local memory, {expected.local} at most")
        if k.registers > expected.registers:
            found.append(f"{who}: {k.registers} registers, {expected.registers} at most")
        for field, value, right in (
            ("matrix", k.matrix, k.matrix == expected.matrix),
            ("ldmatrix", k.ldmatrix, k.ldmatrix <= expected.ldmatrix),
            ("copies", k.copies, k.copies == expected.copies),
            ("wide_stores", k.wide_stores, k.wide_stores == expected.wide_stores),
        ):
            if not right:
                found.append(f"{who}: {value} {field}, expected {getattr(expected, field)}")
    return found + [f"{name}: not among the compiled kernels" for name in sorted(set(EXPECTED) - {k.name for k in kernels})]


def slow_files(paths: list[Path]) -> list[str]:
    seconds = {path.name: float(SECONDS.findall(path.with_name(path.name + ".ptxas").read_text())[-1]) for path in paths}
    print(", ".join(f"{name} {s:.0f} s" for name, s in seconds.items()))
    return [f"{name}: compiled in {s:.0f} s, {MOST_SECONDS} at most" for name, s in seconds.items() if s > MOST_SECONDS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="objects and fat binaries")
    arguments = parser.parse_args()
    kernels = sorted(kernel for path in arguments.files for kernel in kernels_of(path))
    print(f"{'kernel':40} {'sm':>4} " + " ".join(f"{field:>11}" for field in Kernel._fields[2:]))
    for k in kernels:
        print(f"{k.name:40} {k.arch:4} " + " ".join(f"{value:11}" for value in k[2:]))
    found = faults(kernels) + slow_files(arguments.files)
    print("\n".join(found) or f"{len(kernels)} kernels ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

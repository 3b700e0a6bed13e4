#!/usr/bin/env python3
# scripts/model_cuda_time.py: what the compiled kernels should take on GPUs: from the instructions of their main loops, rates and bytes.
"""Reads what `make cuda` translated (build/release/cuda), of it the code for sm_90, and prints tables in Markdown.

A turn of a main loop is the path through it with all its matrix instructions, the copies of whole tiles, and otherwise the fewest
instructions: no masks, no lines that are not aligned. From it: how many clocks of a multiprocessor a block takes of each unit.
"""

import argparse
import heapq
import struct
import sys
from collections import Counter
from math import ceil
from pathlib import Path
from typing import NamedTuple

import cuda_code
from check_cuda_kernels import name_of
from cuda_code import HMMA, LDGSTS, LDSM

ARCH = 90
BRA, EXIT, MUFU = 0x947, 0x94D, 0x308
ALWAYS = 7  # the predicate of an instruction that is always executed
HEADS, LENGTH, DIM, ELEMENT = 64, 16384, 128, 2
WINDOWS = (128, 512, 2048)


class Gpu(NamedTuple):
    """Data sheets; `mma` is what mma.sync takes a clock of a multiprocessor, on Hopper 62 % of the peak, which is wgmma's."""

    name: str
    multiprocessors: int
    clock: float  # GHz
    mma: int  # multiply-adds
    peak: float  # TFLOP/s, bf16, dense
    memory: float  # TB/s, of which copies reach 0.9


GPUS = (
    Gpu("A100", 108, 1.41, 1024, 312, 2.04),
    Gpu("H100", 132, 1.755, 1270, 989, 3.35),
    Gpu("H200", 132, 1.755, 1270, 989, 4.8),
    Gpu("L40", 142, 2.49, 256, 181, 0.864),
)
SHARED, L2, EXPONENTIALS, ISSUED = 128, 64, 16, 4  # a clock of a multiprocessor: bytes, bytes, lanes, instructions of warps


class Kernel(NamedTuple):
    title: str
    name: str  # as check_cuda_kernels.py has it
    file: str
    products: int  # that it multiplies
    columns: int  # of a tile
    group: int  # columns that a warp leaves out where it sees none
    copies: int  # instructions of a thread that load the next whole tiles
    streamed: int  # bytes of a column that pass by a block
    bytes: float  # of memory, in units of a (heads, length, head dim) operand; a band besides
    bands: int = 0


FUSED = (
    Kernel("forward", "AttentionForward<half, 128>", "gpu_attention_bf16_128.fatbin", 2, 64, 16, 8, 512, 4),
    Kernel("d_q", "BackwardQueries<half, 128>", "gpu_backward_bf16_128.fatbin", 3, 32, 16, 4, 512, 6),
    Kernel("d_k, d_v", "BackwardKeys<half, 128>", "gpu_backward_bf16_128.fatbin", 4, 32, 16, 5, 528, 6),
)
PAIR = (
    Kernel("window_matmul", "BandOut<half>", "gpu_bf16.fatbin", 1, 64, 64, 4, 256, 2, 1),
    Kernel("unwindow_matmul", "BandIn<half, 2>", "gpu_bf16.fatbin", 1, 64, 64, 4, 256, 2, 1),
)


# ---- a turn of the main loop ----------------------------------------------------------------------------------------------------------
Words = list[tuple[int, int]]  # instructions: the low and the high half


def opcode_of(words: Words, i: int) -> int:
    return words[i][0] & 0xFFF


def target_of(words: Words, i: int) -> int:
    """Of a branch: a signed count of quarters of instructions, behind the next one; its low byte stands apart."""
    low, high = words[i]
    steps = (low >> 34 | (high & 0x3FFFF) << 30) << 8 | (low >> 16 & 0xFF)
    return i + 1 + (steps - (steps >> 55 << 56)) // 4


def is_branch(words: Words, i: int) -> bool:
    return opcode_of(words, i) == BRA


def matrix_of(words: Words, begin: int, end: int) -> list[int]:
    return [i for i in range(begin, end + 1) if opcode_of(words, i) == HMMA]


def main_loop(words: Words) -> tuple[int, int]:
    """Of the innermost ones with matrix instructions the one with most: another may stand behind it, for sums that are not finite."""
    loops = [(target_of(words, i), i) for i in range(len(words)) if is_branch(words, i) and target_of(words, i) <= i]
    loops = [loop for loop in loops if matrix_of(words, *loop)]
    inner = [(a, b) for a, b in loops if not any(a <= c and d <= b and (c, d) != (a, b) for c, d in loops)]
    return max(inner, key=lambda loop: len(matrix_of(words, *loop)))


State = tuple[int, int, int]


def nexts(words: Words, i: int) -> list[int]:
    """What may be executed after instruction i."""
    opcode, predicate = opcode_of(words, i), words[i][0] >> 12 & 0xF
    found = [] if opcode in (BRA, EXIT) and predicate == ALWAYS else [i + 1]
    return [*found, target_of(words, i)] if opcode == BRA else found


def turn_of(words: Words, copies: int) -> Counter[int]:
    """Opcodes of the shortest way round, by Dijkstra: of states (instruction, matrix instructions so far, copies so far), where matrix
    instructions are executed in the order in which they stand, and none is left out."""
    begin, end = main_loop(words)
    matrix = matrix_of(words, begin, end)
    number = {i: n for n, i in enumerate(matrix)}
    start = (begin, 0, 0)
    before: dict[State, State] = {}
    waiting = [(0, start, start)]
    while waiting:
        length, state, previous = heapq.heappop(waiting)
        if state in before:
            continue
        if length:
            before[state] = previous
        i, multiplied, copied = state
        if length and i == begin and multiplied == len(matrix) and copied == copies:
            return opcodes_of(words, before, state, start)
        if i in number and number[i] != multiplied:
            continue
        multiplied, copied = multiplied + (i in number), copied + (opcode_of(words, i) == LDGSTS)
        if copied <= copies:
            for n in nexts(words, i):
                heapq.heappush(waiting, (length + 1, (n, multiplied, copied), state))
    raise SystemExit("no way round the main loop has all matrix instructions, in order, and the copies of whole tiles")


def opcodes_of(words: Words, before: dict[State, State], end: State, start: State) -> Counter[int]:
    found: Counter[int] = Counter()
    state = before[end]
    while True:
        found[opcode_of(words, state[0])] += 1
        if state == start:
            return found
        state = before[state]


def code_of(folder: Path, kernel: Kernel) -> Words:
    for of, cubin in cuda_code.entries_of(folder / kernel.file, cuda_code.FAT_ELF):
        for name, code in cuda_code.sections(cubin) if of == ARCH else ():
            if name.startswith(".text.") and name_of(name.removeprefix(".text.")) == kernel.name:
                return list(struct.iter_unpack("<QQ", code[: len(code) // 16 * 16]))
    raise SystemExit(f"{folder / kernel.file} holds no {kernel.name} for sm_{ARCH}; build it: make cuda")


# ---- time -----------------------------------------------------------------------------------------------------------------------------
def clocks_of(kernel: Kernel, turn: Counter[int], window: int, gpu: Gpu) -> dict[str, float]:
    """Of each unit of a multiprocessor, for a block of 128 rows, 8 warps of 16."""
    groups = sum((16 * k + 15 + 2 * window) // kernel.group - 16 * k // kernel.group + 1 for k in range(8))
    products = groups * kernel.group * 16 * DIM * kernel.products
    turns = products / (turn[HMMA] * 16 * 8 * 16)  # of all warps
    streamed = (128 + 2 * window) * kernel.streamed
    return {
        "tensor cores": products / gpu.mma,
        "shared memory": (turns * turn[LDSM] * 512 + streamed) / SHARED,
        "exponentials": turns * turn[MUFU] * 32 / EXPONENTIALS,
        "issue": turns * sum(turn.values()) / ISSUED,
        "L2": (streamed + 128 * DIM * ELEMENT * 2) / L2,
    }


def band_bytes(window: int) -> int:
    return HEADS * LENGTH * (2 * window + 1) * ELEMENT


def memory_seconds(kernel: Kernel, window: int, gpu: Gpu) -> float:
    operand = HEADS * LENGTH * DIM * ELEMENT
    return (kernel.bytes * operand + kernel.bands * band_bytes(window)) / (0.9e12 * gpu.memory)


def seconds_of(kernel: Kernel, turn: Counter[int], window: int, gpu: Gpu) -> tuple[float, float]:
    """At best: all units beside each other; and tensor cores and shared memory in turn, as a warp alone would use them."""
    clocks = clocks_of(kernel, turn, window, gpu)
    blocks = ceil(HEADS * LENGTH / 128 / gpu.multiprocessors)
    seconds = [blocks * c / (gpu.clock * 1e9) for c in (max(clocks.values()), clocks["tensor cores"] + clocks["shared memory"])]
    memory = memory_seconds(kernel, window, gpu)
    return max(memory, seconds[0]), max(memory, seconds[0], seconds[1])


def useful_flops(window: int, products: int) -> float:
    return 2.0 * DIM * HEADS * (LENGTH * (2 * window + 1) - window * (window + 1)) * products


def table(header: list[str], rows: list[list[str]]) -> None:
    print("\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]), end="\n\n")


def print_turns(turns: dict[str, Counter[int]]) -> None:
    rows = []
    for kernel in FUSED + PAIR:
        turn = turns[kernel.name]
        rows.append([kernel.name, *(str(turn[code]) for code in (HMMA, LDSM, MUFU, LDGSTS)), str(sum(turn.values()))])
    table(["a turn of a warp", "HMMA", "LDSM", "MUFU", "LDGSTS", "all"], rows)


def print_units(turns: dict[str, Counter[int]], gpu: Gpu) -> None:
    units = ["tensor cores", "shared memory", "exponentials", "issue", "L2"]
    rows = []
    for kernel in FUSED:
        for window in WINDOWS:
            clocks = clocks_of(kernel, turns[kernel.name], window, gpu)
            rows.append([kernel.title, str(window), *(f"{clocks[unit]:.0f}" for unit in units)])
    table([f"clocks of a block, {gpu.name}", "w", *units], rows)


def print_fused(turns: dict[str, Counter[int]]) -> None:
    rows = []
    for gpu in GPUS:
        for window in WINDOWS:
            row = [gpu.name, str(window)]
            for kernels, products in ((FUSED[:1], 2), (FUSED[1:], 5)):
                times = [seconds_of(k, turns[k.name], window, gpu) for k in kernels]
                rates = [useful_flops(window, products) / sum(t[n] for t in times) / 1e12 for n in (1, 0)]
                row += [" to ".join(f"{1e3 * sum(t[n] for t in times):.2f}" for n in (0, 1)), " to ".join(f"{r:.0f}" for r in rates)]
                row += [" to ".join(f"{r / gpu.peak:.0%}" for r in rates)]
            rows.append(row)
    per_pass = ["ms", "useful TFLOP/s", "of the peak"]
    table(["", "w", *(f"forward, {x}" for x in per_pass), *(f"backward, {x}" for x in per_pass)], rows)


def print_pair(turns: dict[str, Counter[int]]) -> None:
    """The softmax reads and writes the band once: its exponentials and instructions are beside that (cuda-floors.md)."""
    rows = []
    for gpu in GPUS:
        for window in WINDOWS:
            softmax = 2 * band_bytes(window) / (0.9e12 * gpu.memory)
            times = [seconds_of(k, turns[k.name], window, gpu) for k in PAIR]
            totals = [sum(t[n] for t in times) + softmax for n in (0, 1)]
            row = [gpu.name, str(window), *(" to ".join(f"{1e3 * x:.2f}" for x in t) for t in times), f"{1e3 * softmax:.2f}"]
            rows.append([*row, " to ".join(f"{1e3 * x:.2f}" for x in totals), f"{useful_flops(window, 2) / totals[0] / 1e12:.0f}"])
    table(["ms", "w", *(k.title for k in PAIR), "window_softmax", "all three", "useful TFLOP/s at best"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the fat binaries: build/release/cuda")
    folder = parser.parse_args().folder
    turns = {k.name: turn_of(code_of(folder, k), k.copies) for k in FUSED + PAIR}
    print_turns(turns)
    print_units(turns, GPUS[2])
    print_fused(turns)
    print_pair(turns)
    return 0


if __name__ == "__main__":
    sys.exit(main())

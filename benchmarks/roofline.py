# benchmarks/roofline.py: the three ceilings, measured in the process that they are compared with.
from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from window_matmul.testing import backends

from .cases import DTYPES

COPY_BYTES = 64 << 20  # beyond any cache that the two cores of a small machine can call their own


def backend() -> str:
    """The row of the kernel table that runs here."""
    return os.environ.get("WINDOW_MATMUL_BACKEND") or backends()[0]


def peak_probe(dtype: str, threads: int) -> Callable[[], float]:
    """Readings of window_matmul.testing.multiply_add_peak's loop that take a millisecond instead of a tenth of a second, in GFLOP/s."""
    row, name = backend(), str(DTYPES[dtype]).removeprefix("torch.")

    def run(steps: int) -> tuple[int, float]:
        begin = time.perf_counter()
        done = torch.ops.window_matmul._multiply_adds(row, name, steps, threads)
        return done, time.perf_counter() - begin

    steps = 1000
    while min(run(steps)[1] for _ in range(3)) < 0.001:
        steps *= 2

    def probe() -> float:
        done, seconds = run(steps)
        return 2e-9 * done / seconds

    return probe


def copy_bandwidth(repeats: int = 5) -> float:
    """GB/s written by torch's copy_ between tensors that are in memory already (it reads as much), the best of a few."""
    source, target = torch.ones(2, COPY_BYTES // 4)
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - begin)
    return COPY_BYTES / min(seconds[1:]) / 1e9


def read_probe(size: int) -> Callable[[], float]:
    """Readings, in GB/s, of the fastest of torch's reductions over `size` bytes, which have been read before, as a cache has."""
    rows = torch.ones(size // 4 // 256, 256)
    flat, ones, column = rows.view(-1), torch.ones(256), torch.ones(1, size // 4 // 256)
    ways: list[Callable[[], object]] = [
        flat.sum,
        lambda: torch.dot(flat, flat),
        lambda: torch.mv(rows, ones),
        lambda: column @ rows,
        flat.amax,
    ]

    def seconds(way: Callable[[], object]) -> float:
        begin = time.perf_counter()
        way()
        return time.perf_counter() - begin

    best = min(ways, key=lambda way: min(seconds(way) for _ in range(5)))
    return lambda: rows.nbytes / seconds(best) / 1e9

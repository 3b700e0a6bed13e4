# python/window_matmul/testing/__init__.py: which kernels this machine has, and how fast it could multiply; for tests and benchmarks.
import time

import torch

from .._load import kernels


def backends(op: str = "band_out", dtype: str = "float32") -> list[str]:
    """The rows of the kernel table that this machine can run, best first: the values that WINDOW_MATMUL_BACKEND may have here.

    >>> backends()[-1]
    'reference'
    """
    return [name for name, why_not in kernels(op, dtype).items() if not why_not]


def multiply_add_peak(backend: str, dtype: torch.dtype = torch.float32, threads: int = 1) -> float:
    """GFLOP/s of multiply-adds (two operations each) that never leave the registers: the roof of the kernels of that row.

    Halves are widened to float32, so theirs is the rate of float32, but for bfloat16 on cpu.amx and cpu.avx512bf16. `threads` are
    torch's, at most torch.get_num_threads(); the best of ten runs of about 5 ms counts.

    Raises:
        ValueError: a backend that is unknown, has no kernels of its own or does not run here; too many threads.
    """

    def run(steps: int) -> tuple[int, float]:
        begin = time.perf_counter()
        done = torch.ops.window_matmul._multiply_adds(backend, str(dtype).removeprefix("torch."), steps, threads)
        return done, time.perf_counter() - begin

    steps = 1000
    while min(run(steps)[1] for _ in range(3)) < 0.005:
        steps *= 2
    return max(2e-9 * done / seconds for done, seconds in (run(steps) for _ in range(10)))

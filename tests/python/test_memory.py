"""tests/python/test_memory.py: peak memory is what is returned and a little for each thread: it grows with L * W, never with L * L.

Measured as the growth of the resident set over inputs that are there already, in a process where nothing else happens.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass

import pytest

from child import run

pytestmark = [pytest.mark.best_backend, pytest.mark.long]
MIB = 2**20
A_THREAD = 4 * MIB  # what kernels may keep for themselves
A_RESULT = 2 * MIB  # a large result may be rounded up to huge pages
ALLOWANCE = 2 * MIB  # the interpreter's and the allocator's own
LATE = MIB  # Linux counts resident pages by processor, and joins the counts every 32 pages or more: before and at the peak, on two of them
THREADS = 2


@dataclass(frozen=True)
class Measurement:
    name: str
    backward: bool
    length: int
    left: int
    right: int
    dim: int
    heads: int = 1
    dilation: int = 1
    dtype: str = "float32"

    def __str__(self) -> str:
        return "-".join(map(str, asdict(self).values()))


PRODUCTS = ("window_matmul", "unwindow_matmul")
MEASUREMENTS = [
    # A dense matrix would take 1 GiB a head, a copy of an input 16 MiB.
    *(Measurement(name, backward, 16384, 31, 32, 64, heads=4) for name in (*PRODUCTS, "window_softmax") for backward in (False, True)),
    # Neither gathered keys nor widened copies; a dense matrix would take 32 GiB.
    *(Measurement(name, backward, 2**17, 15, 0, 64, dilation=64, dtype="bfloat16") for name in PRODUCTS for backward in (False, True)),
    # Eight times the length with a quarter of the window: twice the results, and no more of the rest.
    *(Measurement(name, False, length, left, left - 1, 16) for name in PRODUCTS for length, left in ((8192, 64), (65536, 16))),
]

CODE = """
import gc, json, sys, torch
import window_matmul

def of_process(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def growth(work):
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = of_process("VmRSS")
    results = work()
    return of_process("VmHWM") - before, sum(x.nbytes for x in results), len(results)

def measure(name, backward, length, left, right, dim, heads, dilation, dtype):
    def tensor(*shape):  # written, so that it is resident
        return torch.empty(shape, dtype=getattr(torch, dtype)).fill_(0.5)

    def inputs(length):
        x, y = (tensor(1, length, heads, dim).transpose(1, 2) for _ in range(2))  # (B, L, H, D), as layers have it
        band = tensor(1, heads, length, left + 1 + right)
        return {"window_matmul": (x, y.mT), "unwindow_matmul": (band, y), "window_softmax": (band,)}[name]

    def forward(*args):
        return getattr(window_matmul, name)(*args, (left, right), dilation=dilation)

    small = [x.requires_grad_() for x in inputs(256)]
    result = forward(*small)
    torch.autograd.grad(result, small, torch.ones_like(result))  # torch imports some of itself at the first call
    args = inputs(length)
    if not backward:
        return growth(lambda: [forward(*args)])
    args = [x.requires_grad_() for x in args]
    result = forward(*args)
    g = torch.empty_like(result).fill_(0.5)
    return growth(lambda: torch.autograd.grad(result, args, g))

torch.set_num_threads(2)
print(json.dumps([measure(**one) for one in json.loads(sys.argv[1])]))
"""


@functools.cache
def measured() -> dict[Measurement, list[int]]:
    """The peak beyond the inputs, the bytes of the results and their number. Freed blocks go back to the system at once."""
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    answer = run(CODE, json.dumps([asdict(one) for one in MEASUREMENTS]), **glibc)
    return dict(zip(MEASUREMENTS, json.loads(answer), strict=True))


@pytest.mark.parametrize("one", MEASUREMENTS, ids=str)
def test_nothing_but_the_results(backend: str, one: Measurement) -> None:
    peak, results, count = measured()[one]
    allowed = results + THREADS * A_THREAD + count * A_RESULT + ALLOWANCE
    assert peak <= allowed, f"{peak / MIB:.1f} MiB at the peak; {results / MIB:.1f} MiB are results, {allowed / MIB:.1f} MiB allowed"
    assert peak > results / 2 - LATE  # else nothing was measured

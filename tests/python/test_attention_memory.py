"""tests/python/test_attention_memory.py: the peak of fused attention is its results and a little for each thread, whatever the window.

Measured as the growth of the resident set over inputs that are there already, in a process where nothing else happens.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from child import run

OPERATOR = "attention"
pytestmark = [pytest.mark.best_backend, pytest.mark.long]
MIB = 2**20
A_THREAD = 4 * MIB  # what kernels may keep for themselves
THREADS = 2


@dataclass(frozen=True)
class Measurement:
    length: int
    left: int
    right: int
    heads: int = 8
    kv_heads: int = 8
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)
    varlen: bool = False

    def __str__(self) -> str:
        return "-".join(map(str, asdict(self).values()))


MEASUREMENTS = [
    Measurement(16384, 2048, 2048, heads=2, kv_heads=2),  # the scores would take 512 MiB, a dense matrix 2 GiB
    Measurement(16384, 16, 16),  # 16 MiB and 8 GiB
    Measurement(8192, 256, 256),  # 128 MiB
    Measurement(4096, 512, 512),
    Measurement(16384, 128, 128),
    Measurement(8192, 400, 0, options={"dilation": 3, "softcap": 10.0, "dropout_p": 0.2}),
    Measurement(16384, 32, 32, heads=8, kv_heads=1, dtype="bfloat16"),  # neither repeated nor widened
    Measurement(8192, 512, 512, dtype="bfloat16"),  # widened where the window is
    Measurement(16384, 32, 32, options={"global_tokens": 4}),
    Measurement(16384, 32, 32, varlen=True),
]

CODE = """
import gc, json, sys, torch
from window_matmul import window_attention, window_attention_varlen

def of_process(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def measure(length, left, right, heads, kv_heads, dtype, options, varlen):
    def step(length):
        q, k, v = (torch.empty(1, length, n, 32, dtype=getattr(torch, dtype)).fill_(0.5) for n in (heads, kv_heads, kv_heads))
        g = torch.empty(1, length, heads, 32, dtype=q.dtype).fill_(0.5)
        inputs = [(x[0] if varlen else x).requires_grad_() for x in (q, k, v)]
        ends = torch.tensor([0, length // 2, length])
        gc.collect()
        open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
        before = of_process("VmRSS")
        if varlen:
            out, lse = window_attention_varlen(*inputs, ends, ends, (left, right), return_lse=True, **options)
            results = torch.autograd.grad(out, inputs, g[0])
        else:
            out, lse = window_attention(*(x.transpose(1, 2) for x in inputs), (left, right), return_lse=True, **options)
            results = torch.autograd.grad(out, inputs, g.transpose(1, 2))
        return of_process("VmHWM") - before, sum(x.nbytes for x in (out, lse, *results))

    step(256)  # torch imports some of itself at the first call
    return step(length)

torch.set_num_threads(2)
print(json.dumps([measure(**one) for one in json.loads(sys.argv[1])]))
"""


@functools.cache
def measured() -> list[tuple[int, int]]:
    """The peak beyond the inputs, and the bytes of the results. Freed blocks go back to the system at once."""
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return json.loads(run(CODE, json.dumps([asdict(one) for one in MEASUREMENTS]), timeout=300, **glibc))  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", range(len(MEASUREMENTS)), ids=lambda n: str(MEASUREMENTS[n]))
def test_a_training_step_takes_its_results_and_nothing_more(backend: str, number: int) -> None:
    if backend == "reference":
        pytest.skip("it would take hours, and its memory is its own")
    peak, results = measured()[number]
    allowed = results + THREADS * A_THREAD
    assert peak <= allowed, f"{peak / MIB:.1f} MiB at the peak; {results / MIB:.1f} MiB are results, {allowed / MIB:.1f} MiB allowed"
    assert peak > results / 2  # else nothing was measured


KEPT = """
import gc, json, torch
from window_matmul import window_attention

def resident():
    gc.collect()
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))

def step(queries, keys, dim):
    q, k, v, g = (torch.randn(1, 1, length, dim) for length in (queries, keys, keys, queries))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    torch.autograd.grad(window_attention(*inputs, None), inputs, g)

torch.set_num_threads(2)
step(16, 16, 8)  # torch imports some of itself at the first call
before = resident()
step(400, 16384, 128)  # items hold the sums of all keys: 16 MiB each
print(json.dumps(resident() - before))
"""


def test_threads_keep_little_after_a_call(backend: str) -> None:
    if backend == "reference":
        pytest.skip("its memory is its own")
    kept = json.loads(run(KEPT, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536"))
    assert kept <= THREADS * A_THREAD, f"{kept / MIB:.1f} MiB"

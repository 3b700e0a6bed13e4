# benchmarks/overhead.py: what a call costs when there is hardly anything to compute.
from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from window_matmul import unwindow_matmul, window_attention, window_matmul, window_softmax

CALLS, BATCHES = 500, 40
SIZE, WINDOW = 8, 2


def run_overhead() -> dict[str, Any]:
    """Microseconds a call on one thread, 8 x 8 inputs: the median and the best of batches of calls, all functions in turn."""
    torch.set_num_threads(1)
    rows: dict[str, list[float]] = {}
    functions = _functions()
    for _ in range(BATCHES):
        for name, function in functions.items():
            rows.setdefault(name, []).append(_microseconds(function))
    return {name: {"median": statistics.median(values), "best": min(values)} for name, values in rows.items()}


def _functions() -> dict[str, Callable[[], object]]:
    functions: dict[str, Callable[[], object]] = {}
    for label, recorded in (("no gradient", False), ("gradient recorded", True)):
        q, k, v = (torch.randn(SIZE, SIZE, requires_grad=recorded) for _ in range(3))
        a = torch.randn(SIZE, 2 * WINDOW + 1, requires_grad=recorded)
        batch, other = (torch.randn(1, SIZE, SIZE, requires_grad=recorded) for _ in range(2))
        x, y, z = (torch.randn(1, 1, SIZE, SIZE, requires_grad=recorded) for _ in range(3))
        functions |= {
            f"window_matmul, {label}": partial(window_matmul, q, k, WINDOW),
            f"unwindow_matmul, {label}": partial(unwindow_matmul, a, v, WINDOW),
            f"window_softmax, {label}": partial(window_softmax, a, WINDOW),
            f"window_attention, {label}": partial(window_attention, x, y, z, WINDOW),
            f"scaled_dot_product_attention, {label}": partial(F.scaled_dot_product_attention, x, y, z),
            f"torch.bmm, {label}": partial(torch.bmm, batch, other),
        }
    return functions


def _microseconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(CALLS):
        function()
    return (time.perf_counter() - begin) / CALLS * 1e6

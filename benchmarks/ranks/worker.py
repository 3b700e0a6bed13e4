# benchmarks/ranks/worker.py: one rank: runs its cases with the others, and writes what it saw.
from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from window_matmul import window_attention
from window_matmul.distributed.faults import Link, all_gather

from .cases import RankCase
from .methods import METHODS, Method

TRIPS, MANY = 20, 1 << 25  # a quarter of a second on the usual wire
EXACT = 1e-12  # some dozens of float64 sums of numbers near 1, in another order


def main(given: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=100))
    cases, interface = json.loads(given), os.environ["GLOO_SOCKET_IFNAME"]
    for name in dict.fromkeys(case["method"] for case in cases):
        check(METHODS[name])
    seen = {"wire": probe(), "agreement": agreement()}
    found = [measure(RankCase(**case), interface) | seen for case in cases]
    Path(out).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def probe() -> list[float]:
    """What ranks 0 and 1 see of the wire: milliseconds of a byte there and back, Gbit/s of many, and of many both ways at once.

    Empty on other ranks.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if ranks == 1 or rank > 1:
        return []
    byte, many = (torch.zeros(size, dtype=torch.uint8) for size in (1, MANY))

    def seconds(there: Tensor, back: Tensor) -> float:
        start = time.perf_counter()
        for sends, message in ((rank == 0, there), (rank == 1, back)):
            dist.send(message, 1 - rank) if sends else dist.recv(message, 1 - rank)
        return time.perf_counter() - start

    trip = statistics.median(seconds(byte, byte) for _ in range(TRIPS))
    one_way = seconds(many, byte) - trip
    start = time.perf_counter()
    leaving = dist.isend(many, 1 - rank)
    dist.recv(torch.empty_like(many), 1 - rank)
    assert leaving is not None  # as outside of the group
    leaving.wait()
    both_ways = time.perf_counter() - start
    return [trip * 1e3, MANY * 8e-9 / one_way, MANY * 8e-9 / both_ways]


def agreement() -> float:
    """Seconds of gathering eight numbers, as each call over ranks begins with: the median of several, on this rank."""
    link, numbers, times = Link(dist.group.WORLD, "agreement"), torch.zeros(8, dtype=torch.int64), []
    for _ in range(TRIPS):
        start = time.perf_counter()
        all_gather(link, numbers)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def check(method: Method) -> None:
    """Output and gradients are those of the whole sequence, on a short one."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    q, k, v = whole = [torch.randn(1, ranks, 16 * ranks, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    grad, window = torch.randn_like(q), (7, 3)
    out = window_attention(q, k, v, window)
    expected = [out, *torch.autograd.grad(out, whole, grad)]
    q, k, v = local = [x.detach().chunk(ranks, 2)[rank].clone().requires_grad_() for x in whole]
    mine = method.attend(q, k, v, window)
    for seen, right in zip([mine, *torch.autograd.grad(mine, local, grad.chunk(ranks, 2)[rank])], expected, strict=True):
        torch.testing.assert_close(seen, right.chunk(ranks, 2)[rank], rtol=0, atol=EXACT)


def measure(case: RankCase, interface: str) -> dict[str, Any]:
    """Seconds of each step with the others and alone, each step's slowest rank; bytes that this rank's device sent in a step."""
    torch.manual_seed(dist.get_rank())
    method, shape = METHODS[case.method], case.local_shape
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    together = _step(lambda: method.attend(q, k, v, case.window), (q, k, v))
    alone = _step(*method.alone(q, case.window))
    times: dict[str, list[float]] = {"together": [], "alone": []}
    sent = 0
    for repeat in range(1 + case.repeats):
        before = _sent(interface)
        seconds = {"together": _seconds(together)}
        sent = _sent(interface) - before
        seconds["alone"] = _seconds(alone)
        if repeat:  # the first one is to warm up
            for name, value in seconds.items():
                times[name].append(value)
    if dist.get_rank() == 0:
        medians = ", ".join(f"{name} {statistics.median(values) * 1e3:.0f} ms" for name, values in times.items())
        print(f"{case}: {medians}", flush=True)
    return {"seconds": times, "sent": sent}


def _step(forward: Callable[[], Tensor], leaves: Sequence[Tensor]) -> Callable[[], object]:
    with torch.no_grad():
        grad = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), leaves, grad)


def _seconds(step: Callable[[], object]) -> float:
    """Of the slowest rank, from a common start."""
    dist.barrier()
    start = time.perf_counter()
    step()
    slowest = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def _sent(interface: str) -> int:
    """Bytes that this namespace's device has sent, headers included."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith(f"{interface}:"))
    return int(line.split(":")[1].split()[8])


if __name__ == "__main__":
    main(*sys.argv[1:])

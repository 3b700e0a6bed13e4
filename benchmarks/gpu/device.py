# benchmarks/gpu/device.py: the clock, the two rates and the description of the device that is measured.
"""`Host` stands in for a GPU where the program itself is tested."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from window_matmul.testing import device as devices

from .. import machine
from ..measure import Timing

Call = Callable[[], object]


class Device(Protocol):
    where: torch.device
    copy_bytes: int  # of the tensor that the copy rate is measured on
    gemm_size: int

    def seconds_of(self, call: Call) -> float:
        """One call with cold caches, on the device's clock."""
        ...

    def describe(self) -> dict[str, str]: ...


class Cuda:
    """Time between two events. Before each call a buffer of several times the L2 cache is written, which also lets the host get ahead."""

    copy_bytes, gemm_size = 1 << 30, 8192

    def __init__(self, where: torch.device) -> None:
        self.where = where
        cache = getattr(torch.cuda.get_device_properties(where), "L2_cache_size", 64 << 20)
        self._flush = torch.empty(max(4 * cache, 256 << 20), dtype=torch.uint8, device=where)

    def seconds_of(self, call: Call) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    def describe(self) -> dict[str, str]:
        said = devices.describe(self.where)
        host = machine.describe()
        return (
            host
            | {"host": host["processor"], "processor": torch.cuda.get_device_name(self.where), "device memory": said["memory"]}
            | {name: said[name] for name in ("capability", "multiprocessors", "driver", "torch")}
        )


class Host:
    where, copy_bytes, gemm_size = torch.device("cpu"), 1 << 20, 64

    def seconds_of(self, call: Call) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def describe(self) -> dict[str, str]:
        return machine.describe()


def time_calls(device: Device, call: Call, seconds: float, least: int = 10) -> Timing:
    """At least so many calls after three that do not count, and until they have taken `seconds`."""
    for _ in range(3):
        device.seconds_of(call)
    timing = Timing([])
    while len(timing.seconds) < least or sum(timing.seconds) < seconds:
        timing.seconds.append(device.seconds_of(call))
    return timing


def fastest(device: Device) -> Callable[[Mapping[str, Call]], tuple[str, float]]:
    """What competitors choose their block sizes by: the median of three calls each."""

    def choose(candidates: Mapping[str, Call]) -> tuple[str, float]:
        found = {name: time_calls(device, call, 0.0, 3).median for name, call in candidates.items()}
        name = min(found, key=found.__getitem__)
        return name, found[name]

    return choose


def copy_rate(device: Device) -> float:
    """GB/s of torch's copy_, bytes read and written, median of 20."""
    source = torch.randn(device.copy_bytes // 4, device=device.where)
    target = torch.empty_like(source)
    return 2e-9 * device.copy_bytes / time_calls(device, lambda: target.copy_(source), 0.0, 20).median


def gemm_rate(device: Device, dtype: torch.dtype) -> float:
    """TFLOP/s of torch's product of two square matrices of random numbers, median of 10."""
    n = device.gemm_size // (4 if dtype == torch.float64 else 1)
    a, b = (torch.randn(n, n, device=device.where, dtype=torch.float32).to(dtype) for _ in range(2))
    result: Tensor = a @ b
    seconds = time_calls(device, lambda: torch.mm(a, b, out=result), 0.0, 10).median
    return 2e-12 * n**3 / seconds


def rates(device: Device, dtypes: Mapping[str, torch.dtype]) -> dict[str, float]:
    found = {f"gemm_tflops {name}": gemm_rate(device, dtype) for name, dtype in dtypes.items()}
    return {"copy_gbytes": statistics.median(copy_rate(device) for _ in range(3))} | found

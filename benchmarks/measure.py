# benchmarks/measure.py: times calls, and counts the memory, page faults and disturbance that came with them.
from __future__ import annotations

import ctypes
import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], object]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


@dataclass
class Timing:
    """Seconds of each call; `others` is the share of the machine's cores that other processes (or the host) took meanwhile."""

    seconds: list[float]
    faults: float = 0.0  # minor page faults a call
    others: float = 0.0
    between: dict[str, list[float]] = field(default_factory=dict)  # what was measured between the calls

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        return (percentile(self.seconds, 0.75) - percentile(self.seconds, 0.25)) / self.median

    def to_json(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "best": min(self.seconds),
            "p10": percentile(self.seconds, 0.1),
            "calls": len(self.seconds),
            "spread": self.spread,
            "others": self.others,
            "faults": self.faults,
        } | {name: statistics.median(values) for name, values in self.between.items()}


class _Cores:
    """Time that all cores spent on anything, and that this process did: the difference is the disturbance."""

    def __init__(self) -> None:
        with open("/proc/stat") as stat:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, stat.readline().split()[1:])
        self.busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.ours, self.faults = usage.ru_utime + usage.ru_stime, usage.ru_minflt
        self.wall = time.perf_counter()

    def others_until(self, end: _Cores) -> float:
        available = (end.wall - self.wall) * (os.cpu_count() or 1)
        return max(0.0, (end.busy - self.busy) - (end.ours - self.ours)) / available


def once(call: Call) -> float:
    """Seconds of one call, the release of its result included."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def settle(call: Call) -> float:
    """Calls once, or, under a malloc that keeps blocks, until it has found its place in the heap. Seconds of the last call."""
    keeps, start = "MALLOC_TRIM_THRESHOLD_" in os.environ, time.perf_counter()
    for _ in range(8):
        before, seconds = _faults(), once(call)
        if not keeps or _faults() - before < 100 or time.perf_counter() - start > 2:
            break
    return seconds


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def time_calls(call: Call, seconds: float, least: int = 5, between: Mapping[str, Callable[[], float]] | None = None) -> Timing:
    """Calls until `seconds` have passed, at least `least` times (3 of a second each, 1 of three), and `between` after each of them."""
    one = settle(call)
    least = 1 if one > 3 else min(least, 3) if one > 1 else least
    timing = Timing([], between={name: [] for name in between or {}})
    gc.collect()
    gc.disable()
    start, faults, inside = _Cores(), 0, 0.0
    while len(timing.seconds) < least or inside < seconds:
        before = _faults()
        timing.seconds.append(once(call))
        faults += _faults() - before
        inside += timing.seconds[-1]
        for name, probe in (between or {}).items():
            timing.between[name].append(probe())
    timing.others = start.others_until(_Cores())
    gc.enable()
    timing.faults = faults / len(timing.seconds)
    return timing


def fastest(candidates: Mapping[str, Call]) -> tuple[str, float]:
    """One call of each after a warm-up, three more of the best three: the name of the fastest and its seconds."""
    first = {name: min(once(call), once(call)) for name, call in candidates.items()}
    final = sorted(first, key=first.__getitem__)[:3]
    best = {name: min(first[name], *(once(candidates[name]) for _ in range(3))) for name in final}
    name = min(best, key=best.__getitem__)
    return name, best[name]


def memory_growth(call: Call) -> int:
    """Bytes by which the resident set's peak during one call exceeds what was resident before it; the result counts."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # free memory that malloc keeps would hide growth
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")  # the peak starts anew
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return max(0, peak - before)


def _status(name: str) -> int:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024

# examples/text_lm/cost.py: time and peak memory of one attention layer, forward and backward, each in a process of its own.
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

if __package__ is None or __package__ == "":  # run as the measuring process
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from text_lm.attention import BandAttention, DenseAttention
from text_lm.model import Attention, Shape, rotary_turns

SHORTEST = 1024
PATIENCE = 20.0  # seconds: a length that would take longer is not run
CORES = {"ours": BandAttention, "dense": DenseAttention}


@dataclass(frozen=True)
class Cost:
    length: int
    seconds: float  # best of the repetitions
    mebibytes: float  # growth of the process's peak resident memory during the first of them


@dataclass(frozen=True)
class Curve:
    """The costs of one kind of attention, and why they end where they do."""

    kind: str
    costs: list[Cost]
    ended: str | None = None


def measure_all(shape: Shape, longest: int, threads: int) -> list[Curve]:
    return [_measure_kind(kind, shape, longest, threads) for kind in CORES]


def _measure_kind(kind: str, shape: Shape, longest: int, threads: int) -> Curve:
    costs: list[Cost] = []
    length = SHORTEST
    while length <= longest:
        expected = _extrapolated(costs)
        if expected > PATIENCE:
            return Curve(kind, costs, f"not run at L = {length}: about {expected:.0f} s by its own slope")
        command = [sys.executable, __file__, kind, json.dumps(vars(shape)), str(length), str(threads)]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE)
        except subprocess.TimeoutExpired:
            return Curve(kind, costs, f"not finished at L = {length}: more than {5 * PATIENCE:.0f} s")
        if found.returncode != 0:
            return Curve(kind, costs, f"failed at L = {length} ({found.stderr.strip().splitlines()[-1:] or found.returncode})")
        costs.append(Cost(length, **json.loads(found.stdout)))
        length *= 2
    return Curve(kind, costs)


def _extrapolated(costs: list[Cost]) -> float:
    """Seconds at twice the last length if it grows as it did between the last two."""
    return 0.0 if len(costs) < 2 else costs[-1].seconds ** 2 / costs[-2].seconds


def measure(kind: str, shape: Shape, length: int) -> dict[str, float]:
    """Runs in its own process: one layer on (1, length, width), forward and backward."""
    torch.manual_seed(0)
    core = CORES[kind](shape.window)
    layer = Attention(shape, core)

    def step(tokens: int) -> float:
        turns = rotary_turns(0, tokens, shape.head_dim, torch.float32)
        x = torch.randn(1, tokens, shape.width, requires_grad=True)
        began = time.perf_counter()
        layer(x, turns)[0].square().mean().backward()
        return time.perf_counter() - began

    step(256)  # threads, code and the allocator's pools are there
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    if isinstance(core, DenseAttention):
        core.prepare(length, length)  # memory of the layer, but no part of its time
    times = [step(length)]
    mebibytes = (_resident("VmHWM") - before) / 2**20
    while sum(times) < 1.0:
        times.append(step(length))
    return {"seconds": min(times[1:] or times), "mebibytes": mebibytes}


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    kind, shape, length, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(json.dumps(measure(kind, Shape(**json.loads(shape)), int(length))))

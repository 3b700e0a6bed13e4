# examples/text_lm/probe.py: the process that measures: time and peak memory of one layer, or of one training step.
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

if __package__ is None or __package__ == "":  # run as a program, by cost.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from text_lm.attention import KINDS
from text_lm.model import Attention, Shape, rotary_turns
from text_lm.text import Corpus
from text_lm.training import Plan, Trainer

WARM_LENGTH = 256
PAGE = 4096
SECONDS, REPEATED = 1.0, 4  # as long and as often as that at least,
TOO_LONG = 15.0  # but not beyond so many seconds


def measure(step: Callable[[], object]) -> dict[str, float]:
    """Growth of the process's peak resident memory in the first call, which makes the dense mask, and the best time of the others."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    times = [_seconds(step)]
    mebibytes = max(_resident("VmHWM") - before, PAGE) / 2**20  # never 0: costs are divided
    while len(times) == 1 or (sum(times) < TOO_LONG and (sum(times[1:]) < SECONDS or len(times) <= REPEATED)):
        times.append(_seconds(step))
    return {"seconds": min(times[1:]), "mebibytes": mebibytes}


def layer(kind: str, shape: Shape, length: int) -> Callable[[], None]:
    """Forward and backward of one attention layer on (1, length, width)."""
    module = Attention(shape, KINDS[kind](shape.window))

    def step(length: int = length) -> None:
        turns = rotary_turns(0, length, shape.head_dim, torch.float32)
        x = torch.randn(1, length, shape.width, requires_grad=True)
        module(x, turns).square().mean().backward()

    step(WARM_LENGTH)  # threads, code and the allocator's pools are there
    return step


def training_step(kind: str, plan: Plan) -> Callable[[], float]:
    """A step of the whole model, optimisers included, on random bytes."""
    corpus = Corpus("random", torch.randint(0, 256, (4 * plan.context + WARM_LENGTH,)), torch.zeros(1, 2, dtype=torch.int64))
    Trainer(replace(plan, context=WARM_LENGTH), corpus, KINDS[kind]).train_step()
    return Trainer(plan, corpus, KINDS[kind]).train_step


def _seconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main(what: str, kind: str, settings: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    given = json.loads(settings)
    if what == "layer":
        length = given.pop("length")
        found = measure(layer(kind, Shape(**given), length))
    else:
        found = measure(training_step(kind, Plan(**given)))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

# benchmarks/gpu/cell.py: one entrant on one case: checked against the definition, then timed in every direction.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..competitors import Competitor, Function, Unsupported, load, ours
from ..oracle import Check, Wrong
from . import gathered, strided_bmm
from .cases import DIRECTIONS, GpuCase
from .device import Device, fastest, time_calls

NAMES = ("ours", "strided_bmm", "gathered", "sliding_chunks")
TORCH = ("strided_bmm", "gathered")  # our own formulations with torch's operators


def entrants(case: GpuCase) -> list[str]:
    """Compiling takes longer than measuring: for the middle sizes only."""
    return [name for name in NAMES if name != "gathered" or (case.dim <= 64 and case.window in (128, 256))]


def entrant(name: str) -> Competitor:
    own: dict[str, Any] = {"ours": ours, "strided_bmm": strided_bmm, "gathered": gathered}
    return own[name] if name in own else load(name)


def run_cell(device: Device, case: GpuCase, name: str, seconds: float) -> dict[str, Any]:
    """`seconds` for each direction; a single gradient is asked of ours alone: the others' share what they compute for both."""
    record: dict[str, Any] = {"case": case.to_json(), "name": str(case), "competitor": name}
    try:
        competitor = entrant(name)
        record["title"] = competitor.TITLE
        with torch.device(device.where):  # what the definition and the competitors make is made there
            inputs, g = case.tensors(device.where)
            function, setting = competitor.prepare(case, True, fastest(device))
            record |= {"setting": setting, "error": check(case, competitor, function, inputs, g)}
        for direction in DIRECTIONS if name == "ours" else ("forward", "backward"):
            call = call_of(direction, function, inputs, g)
            timing = time_calls(device, call, seconds)
            record[direction] = timing.to_json() | {"gbytes": case.floor_bytes(direction) / timing.median / 1e9}
    except Unsupported as reason:
        record["unsupported"] = str(reason)
    except ImportError as error:
        record["unsupported"] = f"not installed: {error}"
    except torch.OutOfMemoryError:
        record["unsupported"] = "out of memory"
    except Wrong as error:
        record["failed"] = str(error)
    except Exception as error:  # the report says what happened, whatever it was
        record["failed"] = f"{type(error).__name__}: {error}"
    return record


def check(case: GpuCase, competitor: Competitor, function: Function, inputs: tuple[Tensor, ...], g: Tensor) -> float:
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    output = function(*leaves)
    gradients = torch.autograd.grad(output, leaves, g)
    return Check(case, competitor.OUTSIDE, competitor.EXACT_OUTSIDE).run(inputs, output.detach(), g, gradients)


def call_of(direction: str, function: Function, inputs: tuple[Tensor, ...], g: Tensor) -> Callable[[], object]:
    """Backward without forward: the output is recorded once."""
    if direction == "forward":
        return lambda: function(*(x.detach() for x in inputs))
    asked = {"first gradient": (0,), "second gradient": (1,), "backward": (0, 1)}[direction]
    leaves = tuple(x.detach().requires_grad_(n in asked) for n, x in enumerate(inputs))
    output = function(*leaves)
    wanted = tuple(leaves[n] for n in asked)
    return lambda: torch.autograd.grad(output, wanted, g, retain_graph=True)

# benchmarks/gpu/cell.py: one entrant on one case: checked against the definition, then timed in every direction.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..competitors import Competitor, Function, Unsupported, load, ours
from ..oracle import Check, Wrong
from . import gathered, strided_bmm, varlen
from .cases import GpuCase
from .device import Device, fastest, time_calls

NAMES = ("ours", "strided_bmm", "gathered", "sliding_chunks")
TORCH = ("strided_bmm", "gathered")  # our own formulations with torch's operators
FUSED = ("ours", "varlen", "flex_attention", "sdpa", "explicit")
# Of fused attention, to the dtype one after the other, of everybody: weights and gradients of scores for their products, out, results.
ROUNDINGS = 4


def entrants(case: GpuCase) -> list[str]:
    """Compiling takes longer than measuring: for the middle sizes only. Of 65536 keys a dense mask takes 4 GiB and most of the time."""
    if case.op == "fused":
        return [name for name in FUSED if name != "sdpa" or case.length <= 16384]
    return [name for name in NAMES if name != "gathered" or (case.dim <= 64 and case.window in (128, 256))]


def entrant(name: str) -> Competitor:
    own: dict[str, Any] = {"ours": ours, "strided_bmm": strided_bmm, "gathered": gathered, "varlen": varlen}
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
        alone = () if name == "ours" else ("first gradient", "second gradient")
        for direction in (d for d in case.directions if d not in alone):
            timing = time_calls(device, call_of(direction, function, inputs, g), seconds)
            rates = {"gbytes": case.floor_bytes(direction) / timing.median / 1e9}
            record[direction] = timing.to_json() | rates | {"tflops": case.useful_flops(direction) / timing.median / 1e12}
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
    roundings = ROUNDINGS if case.op == "fused" else 2
    return Check(case, competitor.OUTSIDE, competitor.EXACT_OUTSIDE, roundings).run(inputs, output.detach(), g, gradients)


def call_of(direction: str, function: Function, inputs: tuple[Tensor, ...], g: Tensor) -> Callable[[], object]:
    """Backward without forward: the output is recorded once."""
    if direction == "forward":
        return lambda: function(*(x.detach() for x in inputs))
    asked = {"first gradient": (0,), "second gradient": (1,)}.get(direction, tuple(range(len(inputs))))
    leaves = tuple(x.detach().requires_grad_(n in asked) for n, x in enumerate(inputs))
    if direction == "step":
        return lambda: torch.autograd.grad(function(*leaves), leaves, g)
    output = function(*leaves)
    wanted = tuple(leaves[n] for n in asked)
    return lambda: torch.autograd.grad(output, wanted, g, retain_graph=True)

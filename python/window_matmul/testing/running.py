# python/window_matmul/testing/running.py: checks of how calls run: repeated, on streams, in graphs, compiled, mapped, under autocast.
from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from . import cases
from . import device as devices
from .bounds import DTYPES
from .cases import Call, Case
from .gradients import attend
from .outcome import Budget, Outcome

Tensors = tuple[Tensor, ...]
MIDDLE = Case(300, 310, 64, 40, 25, batch=(2, 2))


def step(case: Case, inputs: list[Tensor]) -> Tensors:
    """Attention by the three operators, and its three gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = attend(case, False, leaves)
    return output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output))


def _inputs(case: Case, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> list[Tensor]:
    tensors = case.tensors(dtype, random)
    return [tensors[name].to(device) for name in "qkv"]


def _same(outcome: Outcome, where: str, actual: Tensors, expected: Tensors) -> None:
    for name, got, want in zip(("output", "gradient of q", "gradient of k", "gradient of v"), actual, expected, strict=True):
        outcome.equal(f"{where}, {name}", got, want)


def determinism(device: torch.device, budget: Budget) -> Outcome:
    """Three runs, forward and backward, are equal bit for bit, and a backward pass does not depend on what else is asked of it."""
    outcome, random = Outcome("determinism"), budget.random()
    chosen = [MIDDLE, Case(257, 200, 33, 30, 70, 3)] + ([Case(3000, 3000, 128, 256, 256, batch=(2, 4))] if budget.thorough else [])
    for case in chosen:
        for dtype in DTYPES:
            inputs = _inputs(case, dtype, device, random)
            first = step(case, inputs)
            for number in (2, 3):
                _same(outcome, f"run {number}, {case}, {dtype}", step(case, inputs), first)
            leaf = inputs[1].detach().requires_grad_()
            output = attend(case, False, [inputs[0], leaf, inputs[2]])
            (alone,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
            outcome.equal(f"the gradient of k alone, {case}, {dtype}", alone, first[2])
    return outcome


def streams(device: torch.device, budget: Budget) -> Outcome:
    """A call is put on the current stream, behind what was put there before; many streams do not disturb each other."""
    outcome, random = Outcome("streams"), budget.random()
    for dtype in (torch.float32, torch.bfloat16):
        problems = [_inputs(MIDDLE, dtype, device, random) for _ in range(8 if budget.thorough else 3)]
        expected = [step(MIDDLE, inputs) for inputs in problems]
        lanes = [devices.new_stream(device) for _ in problems]
        for _ in range(3):
            results: list[Tensors] = []
            for lane, inputs in zip(lanes, problems, strict=True):
                lane.wait_stream(devices.current_stream(device))
                with devices.on_stream(device, lane):
                    results.append(step(MIDDLE, inputs))
            devices.synchronize(device)
            for number, (got, want) in enumerate(zip(results, expected, strict=True)):
                _same(outcome, f"stream {number}, {dtype}", got, want)
        _check_order(outcome, problems[0], expected[0], device)
    return outcome


def _check_order(outcome: Outcome, inputs: list[Tensor], expected: Tensors, device: torch.device) -> None:
    """Inputs that become right late, on the stream that the call is put on."""
    wrong = [torch.full_like(x, torch.nan) for x in inputs]
    devices.synchronize(device)
    lane = devices.new_stream(device)
    with devices.on_stream(device, lane):
        devices.delay(device)
        for late, right in zip(wrong, inputs, strict=True):
            late.copy_(right)
        got = step(MIDDLE, wrong)
    devices.synchronize(device)
    _same(outcome, "behind what was put on the stream before", got, expected)


def graphs(device: torch.device, budget: Budget) -> Outcome:
    """Forward and backward are recorded once and replayed on other numbers."""
    outcome, random = Outcome("recorded graphs"), budget.random()
    for dtype in DTYPES:
        inputs = _inputs(MIDDLE, dtype, device, random)
        replay, recorded = devices.capture(device, lambda inputs=inputs: step(MIDDLE, inputs))  # type: ignore[misc]
        for number in range(3):
            for x, y in zip(inputs, _inputs(MIDDLE, dtype, device, random), strict=True):
                x.copy_(y)
            replay()
            devices.synchronize(device)
            results = tuple(x.clone() for x in recorded)
            _same(outcome, f"replay {number}, {dtype}", results, step(MIDDLE, inputs))
    return outcome


def other_devices(device: torch.device, budget: Budget) -> Outcome:
    """The same on each other GPU, while this one is the current one; results are where the inputs are."""
    outcome, random = Outcome("current and other devices"), budget.random()
    found = devices.others(device)
    if not found:
        outcome.left_out.append("other devices, there is one")
    for there in [device, *found]:
        inputs = _inputs(MIDDLE, torch.float32, torch.device("cpu"), random)
        results = step(MIDDLE, [x.to(there) for x in inputs])
        outcome.true(
            f"{there}", all(x.device.type == there.type and (x.device.index or 0) == (there.index or 0) for x in results), "elsewhere"
        )
        _same(outcome, f"{there}, beside {device}", results, step(MIDDLE, [x.to(device) for x in inputs]))
    return outcome


def compiled(device: torch.device, budget: Budget) -> Outcome:
    """torch.compile without a graph break, with gradients: the same as without it."""
    outcome, random = Outcome("torch.compile"), budget.random()
    for backend in backends(outcome, device, budget):
        for dtype in (torch.float32, torch.bfloat16) if budget.thorough else (torch.float32,):
            inputs = _inputs(MIDDLE, dtype, device, random)
            function = torch.compile(lambda *x: attend(MIDDLE, False, [*x]), fullgraph=True, backend=backend)
            leaves = [x.requires_grad_() for x in inputs]
            output = function(*leaves)
            got = output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output))
            if backend == "aot_eager":
                _same(outcome, f"{backend}, {dtype}", got, step(MIDDLE, inputs))
                continue
            for name, x, y in zip(("output", "q", "k", "v"), got, step(MIDDLE, inputs), strict=True):  # q / sqrt(N) may be fused otherwise
                outcome.close(f"{backend}, {dtype}, {name}", x, y, 64 * torch.finfo(dtype).eps * float(y.abs().max()), dtype)
    torch.compiler.reset()
    return outcome


def backends(outcome: Outcome, device: torch.device, budget: Budget) -> list[str]:
    """Of torch.compile."""
    from torch.utils._triton import has_triton

    if budget.thorough and (has_triton() if device.type == "cuda" else shutil.which("c++") is not None):
        return ["aot_eager", "inductor"]
    outcome.left_out.append("inductor, there is no compiler for it" if budget.thorough else "inductor")
    return ["aot_eager"]


def mapped(device: torch.device, budget: Budget) -> Outcome:
    """vmap over each argument and over none of the others, per-sample gradients, and batches of gradients."""
    outcome, random = Outcome("vmap"), budget.random()
    case = Case(20, 26, 8, 3, 2, (1, 2), None, (2,))
    for call in cases.calls(case):
        tensors = [case.tensors(torch.float64, random) for _ in range(3)]
        _check_mapped(outcome, call, [torch.stack([t[name] for t in tensors]).to(device) for name in call.takes])
    return outcome


def _check_mapped(outcome: Outcome, call: Call, stacked: list[Tensor]) -> None:
    expected = torch.stack([call.ours(*(x[n] for x in stacked)) for n in range(3)])
    outcome.equal(f"{call.name}, all arguments", torch.vmap(call.ours)(*stacked), expected)
    for n in range(len(stacked)):
        dims = tuple(0 if i == n else None for i in range(len(stacked)))
        args = [x if i == n else x[0] for i, x in enumerate(stacked)]
        expected = torch.stack([call.ours(*(x[m] if i == n else x for i, x in enumerate(args))) for m in range(3)])
        outcome.equal(f"{call.name}, argument {n}", torch.vmap(call.ours, dims)(*args), expected)
    each = torch.func.grad(lambda *x: call.ours(*x).square().sum())
    expected = torch.stack([each(*(x[n] for x in stacked)) for n in range(3)])
    bound = 1e-13 * float(expected.abs().max())
    outcome.close(f"{call.name}, gradients of each sample", torch.vmap(each)(*stacked), expected, bound, torch.float64)


def autocast(device: torch.device, budget: Budget) -> Outcome:
    """Inputs are cast to the dtype of autocast, gradients back; float64 is left alone."""
    outcome, random = Outcome("autocast"), budget.random()
    for half in (torch.bfloat16, torch.float16):
        tensors = MIDDLE.tensors(torch.float32, random)
        for call in cases.calls(MIDDLE):
            inputs = [tensors[name].to(device).requires_grad_() for name in call.takes]
            with torch.autocast(device.type, dtype=half):
                output = call.ours(*inputs)
            outcome.true(f"{call.name}, {half}", output.dtype == half, f"the output is {output.dtype}")
            outcome.equal(f"{call.name}, {half}", output, call.ours(*(x.to(half) for x in inputs)))
            gradients = torch.autograd.grad(output.float().sum(), inputs)
            outcome.true(f"{call.name}, {half}", all(x.dtype == torch.float32 for x in gradients), "gradients are not float32")
            doubles = [x.detach().double() for x in inputs]
            with torch.autocast(device.type, dtype=half):
                outcome.equal(f"{call.name}, float64", call.ours(*doubles), _plain(call.ours, doubles, device))
    return outcome


def _plain(function: Callable[..., Tensor], inputs: list[Tensor], device: torch.device) -> Tensor:
    with torch.autocast(device.type, enabled=False):
        return function(*inputs)

# python/window_matmul/testing/fused_running.py: checks of how fused attention runs: repeated, late, recorded, compiled, under autocast.
from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .. import attention as fused
from ..cache import RollingCache
from . import device as devices
from .attention_cases import Case, gradients, leaves
from .bounds import DTYPES
from .definition import Rule
from .limits import between
from .outcome import Budget, Outcome
from .running import backends

Tensors = dict[str, Tensor]
MIDDLE = Case(Rule(40, 25), 300, 310, 2, 4, 2, 64, 48)
OPTIONS = Case(Rule(40, 25, 2), 300, 300, 2, 4, 2, 64, 48, None, 5.0, "slots", False, False, True, True, 3, False, True)
SMALL = [replace(case, queries=37, keys=40, rule=Rule(6, 4)) for case in (MIDDLE, OPTIONS)]


def chosen(budget: Budget) -> list[Case]:
    return [MIDDLE, OPTIONS] if budget.thorough else SMALL


def step(case: Case, tensors: Tensors) -> Tensors:
    """Output, log-sum-exp and all gradients, of ones."""
    ours = leaves(tensors)
    results = case.ours(ours)
    got = gradients(results, ours, (torch.ones_like(results[0]), torch.ones_like(results[1])))
    return {"output": results[0].detach(), "log-sum-exp": results[1].detach()} | {f"gradient of {name}": x for name, x in got.items()}


def inputs(case: Case, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> Tensors:
    return {name: x.to(device) for name, x in case.tensors(dtype, random).items()}


def same(outcome: Outcome, where: str, actual: Tensors, expected: Tensors) -> None:
    for name, want in expected.items():
        outcome.equal(f"{name}, {where}", actual[name], want)


def determinism(device: torch.device, budget: Budget) -> Outcome:
    """Three runs are equal bit for bit, and the gradient of k does not depend on what else is asked for."""
    outcome, random = Outcome("fused attention, determinism"), budget.random()
    more = [Case(Rule(256, 256), 3000, 3000, 2, 4, 2, 128, 128), Case(Rule(1500, 0), 7, 2000, 2, 4, 2, 64, 64)] if budget.thorough else []
    for case in chosen(budget) + more:
        for dtype in DTYPES[1:] if case.dim > 64 else DTYPES:
            tensors = inputs(case, dtype, device, random)
            first = step(case, tensors)
            for number in (2, 3):
                same(outcome, f"run {number}, {case}, {dtype}", step(case, tensors), first)
            leaf = tensors["k"].detach().requires_grad_()
            results = case.ours(tensors | {"k": leaf})
            (alone,) = torch.autograd.grad(results, leaf, [torch.ones_like(x) for x in results])
            outcome.equal(f"the gradient of k alone, {case}, {dtype}", alone, first["gradient of k"])
    return outcome


def late_inputs(device: torch.device, budget: Budget) -> Outcome:
    """Numbers that become right late, on the stream that the call is put on; among them those of entries, which nobody may read before."""
    outcome, random = Outcome("fused attention, streams"), budget.random()
    for case in chosen(budget):
        for dtype in (torch.float32, torch.bfloat16):
            tensors = inputs(case, dtype, device, random)
            expected, late = step(case, tensors), {name: torch.zeros_like(x) for name, x in tensors.items()}
            devices.synchronize(device)
            lane = devices.new_stream(device)
            with devices.on_stream(device, lane):
                devices.delay(device)
                for name, x in tensors.items():
                    late[name].copy_(x)
                got = step(case, late)
            devices.synchronize(device)
            same(outcome, f"{case}, {dtype}", got, expected)
    return outcome


def graphs(device: torch.device, budget: Budget) -> Outcome:
    """Forward and backward are recorded once and replayed on other numbers; few queries too, and steps of a cache."""
    outcome, random = Outcome("fused attention, recorded graphs"), budget.random()
    for case in [*chosen(budget), Case(Rule(500, 0), 1, 600, 2, 4, 2, 64, 48)]:
        for dtype in DTYPES:
            tensors = inputs(case, dtype, device, random)
            names = list(step(case, tensors))
            replay, recorded = devices.capture(device, lambda case=case, tensors=tensors: tuple(step(case, tensors).values()))  # type: ignore[misc]
            for number in range(3):
                for name, x in inputs(case, dtype, device, random).items():
                    tensors[name].copy_(x)
                replay()
                devices.synchronize(device)
                got = dict(zip(names, (x.clone() for x in recorded), strict=True))
                same(outcome, f"replay {number}, {case}, {dtype}", got, step(case, tensors))
    for dtype in (torch.float32, torch.bfloat16):
        _check_recorded_cache(outcome, dtype, device, random)
    return outcome


def _check_recorded_cache(outcome: Outcome, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> None:
    """Each replay appends another token, as a call would."""
    tensors = inputs(Case(Rule(16, 0), 60, 60, 2, 4, 2, 32, 16), dtype, device, random)
    recorded, plain = (RollingCache(2, 2, 32, (16, 0), value_head_dim=16, dtype=dtype, device=device) for _ in range(2))

    def tokens(begin: int, end: int) -> list[Tensor]:
        return [tensors[name][:, :, begin:end].contiguous() for name in "qkv"]

    for cache in (recorded, plain):
        cache.attend(*tokens(0, 30))
    given = tokens(30, 31)
    replay, (out,) = devices.capture(device, lambda: (recorded.attend(*given),))  # has run once
    plain.attend(*given)
    for n in range(31, 60):
        for x, y in zip(given, tokens(n, n + 1), strict=True):
            x.copy_(y)
        replay()
        devices.synchronize(device)
        outcome.equal(f"cache, replay of token {n}, {dtype}", out.clone(), plain.attend(*given))


def compiled(device: torch.device, budget: Budget) -> Outcome:
    """torch.compile without a graph break, with gradients: the same bits as without it."""
    outcome, random = Outcome("fused attention, torch.compile"), budget.random()
    for backend in backends(outcome, device, budget):
        for case in chosen(budget):
            tensors = inputs(case, torch.bfloat16, device, random)
            function = torch.compile(case.ours, fullgraph=True, backend=backend)
            ours = leaves(tensors)
            results = function(ours)
            got = gradients(results, ours, (torch.ones_like(results[0]), torch.ones_like(results[1])))
            found = {"output": results[0], "log-sum-exp": results[1]} | {f"gradient of {name}": x for name, x in got.items()}
            same(outcome, f"{backend}, {case}", found, step(case, tensors))
            torch.compiler.reset()
    return outcome


def autocast(device: torch.device, budget: Budget) -> Outcome:
    """q, k, v and the bias are cast to the dtype of autocast, gradients back; float64 is left alone."""
    outcome, random = Outcome("fused attention, autocast"), budget.random()
    for case in chosen(budget):
        for half in (torch.bfloat16, torch.float16):
            tensors = inputs(case, torch.float32, device, random)
            ours = leaves(tensors)
            with torch.autocast(device.type, dtype=half):
                out, lse = case.ours(ours)
                doubles = case.ours({name: x.double() if x.is_floating_point() and name != "bias" else x for name, x in tensors.items()})
            cast = {name: x.to(half) if name in ("q", "k", "v", "bias") else x for name, x in tensors.items()}
            outcome.equal(f"{case}, {half}", out, case.ours(cast)[0])
            kinds = {x.dtype for x in gradients((out, lse), ours, (torch.ones_like(out), torch.ones_like(lse))).values()}
            outcome.true(f"{case}, {half}", kinds == {torch.float32}, f"gradients are {kinds}")
            outcome.true(f"{case}, {half}", doubles[0].dtype == torch.float64, f"float64 became {doubles[0].dtype}")
    return outcome


def canaries(device: torch.device, budget: Budget) -> Outcome:
    """Results are placed between two blocks that hold a pattern, which must be there afterwards."""
    outcome, random, placed = Outcome("fused attention, memory around outputs"), budget.random(), 0
    for case in (*SMALL, Case(Rule(20, 0), 129, 131, 1, 2, 1, 33, 20)):
        for dtype in DTYPES:
            tensors = inputs(case, dtype, device, random)
            ours = leaves(tensors)
            out, lse = case.ours(ours)
            placed += between(outcome, f"output, {case}, {dtype}", lambda case=case, tensors=tensors: case.ours(tensors)[0])  # type: ignore[misc]
            for name in [name for name, x in ours.items() if x.requires_grad]:
                call = partial(torch.autograd.grad, (out, lse), ours[name], (out.detach(), lse.detach()), retain_graph=True)
                placed += between(outcome, f"gradient of {name}, {case}, {dtype}", lambda call=call: call()[0])  # type: ignore[misc]
    if device.type == "cuda":
        outcome.true("placement", placed > 0, "no result was placed between the blocks")
    outcome.notes.append(f"{placed} results lay between two blocks of a pattern")
    return outcome


# ---- wrong arguments ----------------------------------------------------------------------------------------------------------------
def refusals(device: torch.device, budget: Budget) -> Outcome:
    """Each wrong argument is named, and nothing of the device is lost: a right call works afterwards."""
    outcome, elsewhere = Outcome("fused attention, wrong arguments"), devices.elsewhere(device)
    case = Case(Rule(2, 1), 6, 8, 2, 4, 2, 5, 3, bias="full", sinks=True, key_mask=True, global_mask=True, key_lengths=True, offsets=True)
    good = inputs(case, torch.float32, device, budget.random())

    def refuse(where: str, kind: type[Exception], words: tuple[str, ...], **wrong: object) -> None:
        given: dict[str, object] = good | {"window_size": (2, 1)} | wrong
        outcome.raises(where, kind, words, partial(fused.window_attention, **given))

    for name, x in good.items():
        if name != "q":
            refuse(f"{name} on {elsewhere}", ValueError, (name, device.type, elsewhere.type), **{name: x.to(elsewhere)})
    for dtype in (torch.int32, torch.complex64, torch.bool):
        refuse(f"{dtype}", TypeError, ("q", str(dtype)), q=good["q"].to(dtype))
    refuse("two dtypes", TypeError, ("k", "float64", "float32"), k=good["k"].double())
    refuse("shapes", ValueError, ("v",), v=good["v"][:, :, :5])
    refuse("heads", ValueError, ("k", "heads"), q=good["q"][:, :3])
    refuse("mask", ValueError, ("key_mask",), key_mask=good["key_mask"][:1])
    refuse("bias", ValueError, ("bias",), bias=good["bias"][..., :3])
    refuse("window", ValueError, ("window_size", "-2"), window_size=(-2, 0))
    refuse("unbounded window with a bias", ValueError, ("bias",), window_size=None)
    refuse("dilation", ValueError, ("dilation", "0"), dilation=0)
    refuse("softcap", ValueError, ("softcap", "-1"), softcap=-1.0)
    refuse("dropout", ValueError, ("dropout_p", "2"), dropout_p=2.0)
    if device.type == "cuda":
        _refused_here(outcome, device)
    zero = good | {"q": torch.zeros_like(good["q"])}
    one = torch.ones_like(good["v"])
    out, lse = Case(Rule(2, 1), 6, 8, 2, 4, 2, 5, 3).ours({"q": zero["q"], "k": good["k"], "v": one})
    outcome.equal("a right call afterwards", out, torch.ones_like(out))
    outcome.true("a right call afterwards", bool(lse.isfinite().all()), "the log-sum-exp is not finite")
    return outcome


def _refused_here(outcome: Outcome, device: torch.device) -> None:
    """What the kernels of a GPU cannot do, and those of a CPU can."""
    for dtype, dim, most in ((torch.bfloat16, 257, 256), (torch.float16, 300, 256), (torch.float32, 129, 128), (torch.float64, 129, 128)):
        x = torch.ones(1, 1, 4, dim, dtype=dtype, device=device)
        refused = "takes head dims up to", str(most)  # by each row of the table, with its reason
        outcome.raises(f"head dim {dim}, {dtype}", RuntimeError, refused, partial(fused.window_attention, x, x, x, 1))


# ---- what a row does not see --------------------------------------------------------------------------------------------------------
def confinement(device: torch.device, budget: Budget) -> Outcome:
    """What is not a number in a key or value that nobody sees changes no bit; in one that some rows see, it shows in these alone, and in
    the gradients of what they see."""
    outcome, random = Outcome("fused attention, confinement of NaN"), budget.random()
    n = 150 if budget.thorough else 26
    for dtype in DTYPES:
        for garbage in (float("nan"), float("inf")):
            hidden = Case(Rule(9, 5), n, n, 2, 4, 2, 16, 16, key_mask=True, key_lengths=True)
            tensors = inputs(hidden, dtype, device, random)
            unseen = ~tensors["key_mask"] | (torch.arange(n, device=device) >= tensors["key_lengths"][:, None])
            spoilt = {name: x.masked_fill(unseen[:, None, :, None], garbage) if name in "kv" else x for name, x in tensors.items()}
            same(outcome, f"{garbage} where no query sees, {hidden}, {dtype}", step(hidden, spoilt), step(hidden, tensors))
            for softcap in (0.0, 50.0):
                _check_seen(outcome, Case(Rule(9, 5), n, n, 1, 2, 2, 16, 16, softcap=softcap), garbage, dtype, device, random)
    return outcome


def _check_seen(outcome: Outcome, case: Case, garbage: float, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> None:
    tensors, key = inputs(case, dtype, device, random), case.keys // 2
    clean = step(case, tensors)
    at = torch.tensor(key, device=device)
    got = step(case, tensors | {"v": tensors["v"].index_fill(2, at, garbage)})
    i, j = torch.arange(case.queries), torch.arange(case.keys)
    sees = (i - 9 <= key) & (key <= i + 5)
    touched = {"output": sees, "gradient of q": sees, "gradient of k": (j >= key - 14) & (j <= key + 14), "log-sum-exp": sees & False}
    for name, rows in touched.items():
        text = f"{name}, {garbage} in a value, {case}, {dtype}"
        # A block with such a sum is done again, in another order: two results of the same bound each, some roundings of a weighted mean.
        bound = 64 * torch.finfo(dtype).eps * max(1.0, float(clean[name].abs().max()))
        outcome.close(text, got[name][:, :, ~rows], clean[name][:, :, ~rows], bound)
    outcome.true(f"{case}, {dtype}", not bool(got["output"][:, :, sees].isfinite().all(-1).any()), f"rows that see {garbage} hide it")

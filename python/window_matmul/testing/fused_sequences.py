# python/window_matmul/testing/fused_sequences.py: checks of fused attention: packed sequences, dropout to the last bit, memory layouts.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import attention as fused
from . import cases, definition, philox
from .attention_cases import DIFFERENTIABLE, Case, compared, gradients, leaves
from .bounds import DTYPES
from .definition import Rule
from .fused_values import add, check
from .outcome import Budget, Outcome


# ---- packed sequences ---------------------------------------------------------------------------------------------------------------
def packed(device: torch.device, budget: Budget) -> Outcome:
    """Sequences in a row, empty ones among them: each by the definition, alone."""
    outcome, random = Outcome("fused attention, packed sequences"), budget.random()
    lengths = [(130, 130), (0, 4), (7, 0), (1, 90), (45, 60)] if budget.thorough else [(9, 9), (0, 4), (3, 0), (1, 8), (5, 7)]
    base = Case(Rule(9, 4), sum(n for n, _ in lengths), sum(n for _, n in lengths), 1, 4, 2, 24, 16)
    chosen = [base, replace(base, rule=Rule(None, 0), sinks=True), replace(base, bias="slots", key_mask=True)]
    chosen += [replace(base, bias="full", softcap=2.0, global_mask=True), replace(base, rule=Rule(9, 4, 2), global_tokens=2)]
    for case in chosen:
        for dtype in DTYPES:
            _check_packed(outcome, case, lengths, dtype, device, random)
    return outcome


Kept = Callable[[int, tuple[int, int, int, int]], Tensor | None]  # (number of a sequence, (1, H, Lq, Lk))


def _check_packed(
    outcome: Outcome,
    case: Case,
    lengths: list[tuple[int, int]],
    dtype: torch.dtype,
    device: torch.device,
    random: torch.Generator,
    kept: Kept = lambda number, shape: None,
    **options: Any,
) -> None:
    plain, text = case.tensors(dtype, random), f"of {lengths}, {case}, {dtype}"
    ours, (out, lse) = _call_packed(case, plain, lengths, device, options)
    d_out, d_lse = (torch.randn(x.shape, generator=random).to(x.dtype) for x in (out, lse))
    exact = leaves({name: x.double() if name in DIFFERENTIABLE else x for name, x in plain.items()})
    bounds, results, cotangents, q, k = [], [], [], 0, 0
    for number, (lq, lk) in enumerate(lengths):
        part = partial(_part, rows=slice(q, q + lq), keys=slice(k, k + lk))
        mask = kept(number, (1, case.heads, lq, lk))
        dense = case.exact(part(exact), mask)
        own = d_out[q : q + lq].transpose(0, 1)[None], d_lse[None, :, q : q + lq]
        known: dict[str, Any] = part(plain) | {"scale_value": case.dim**-0.5}
        bounds.append(definition.bounds(dense, *own, known, case.rule, mask, definition.rounded_by(device, dtype)))
        results += [dense.out, torch.where(dense.lse.isfinite(), dense.lse, 0.0)]
        cotangents += [x.double() for x in own]
        outcome.close(f"output, {number} {text}", out[q : q + lq].transpose(0, 1)[None], dense.out, bounds[-1].out, dtype)
        outcome.close(f"log-sum-exp, {number} {text}", lse[None, :, q : q + lq], dense.lse, bounds[-1].lse, lse.dtype)
        q, k = q + lq, k + lk
    want = gradients(tuple(results), exact, tuple(cotangents))
    for name, x in gradients((out, lse), ours, (d_out.to(device), d_lse.to(device))).items():
        found = [getattr(b, name) for b in bounds]
        is_shared = name == "sinks" or (name == "bias" and x.ndim == 2)
        bound = torch.stack(found).sum(0) if is_shared else _flat(name, torch.cat(found, 2))
        outcome.close(f"gradient of {name} {text}", x, _flat(name, want[name]), bound, dtype)


def _flat(name: str, x: Tensor) -> Tensor:
    """As packed sequences have it: (L, H, n) of q, k, v, without a batch."""
    if name == "sinks" or (name == "bias" and x.ndim == 2):
        return x
    return x[0].transpose(0, 1) if name in "qkv" else x[0]


def _call_packed(
    case: Case, plain: dict[str, Tensor], lengths: list[tuple[int, int]], device: torch.device, options: dict[str, Any]
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Leaves and results."""
    ours = leaves({name: _flat(name, x).to(device) for name, x in plain.items()})
    cu = [torch.tensor([0, *(n[i] for n in lengths)], device=device).cumsum(0) for i in (0, 1)]
    numbers: dict[str, Any] = ours | case.numbers() | options
    results = fused.window_attention_varlen(
        **numbers, cu_seqlens_q=cu[0], cu_seqlens_k=cu[1].int(), window_size=case.window, return_lse=True
    )
    return ours, results


def _part(tensors: dict[str, Tensor], rows: slice, keys: slice) -> dict[str, Tensor]:
    def cut(name: str, x: Tensor) -> Tensor:
        if name in ("key_mask", "global_tokens"):
            return x[:, keys]
        return x if x.ndim < 4 else x[:, :, keys if name in "kv" else rows]

    return {name: cut(name, x) for name, x in tensors.items()}


# ---- dropout ------------------------------------------------------------------------------------------------------------------------
def dropout(device: torch.device, budget: Budget) -> Outcome:
    """The weights that are dropped are those of the definition, to the last bit, whatever the dtype; gradients know them."""
    outcome, random = Outcome("fused attention, dropout"), budget.random()
    n = 60 if budget.thorough else 21
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for dtype in DTYPES:
            for p in (0.1, 0.5):
                shape = (2, 4, 70 if budget.thorough else 9, n)
                q, k = (torch.zeros(*shape[:2], rows, 8, dtype=dtype, device=device) for rows in shape[2:])
                v = torch.eye(n, dtype=dtype, device=device).expand(*shape[:2], n, n)
                seed = _seed(11, device)
                out = fused.window_attention(q, k, v, None, dropout_p=p)
                outcome.equal(f"weights that are kept, p {p}, {dtype}", (out != 0).cpu(), philox.kept(seed, p, shape) != 0)
                case = Case(Rule(9, 4), *shape[2:], heads=4, kv_heads=2, dim=24, value_dim=16, sinks=True)
                for one in (case, replace(case, bias="slots", softcap=2.0, global_tokens=2, key_mask=True)):
                    seed = _seed(5, device)
                    call = partial(one.ours, dropout_p=p)
                    check(outcome, one, dtype, device, random, kept=philox.kept(seed, p, shape), call=call)
            seed = _seed(7, device)
            lengths = [(9, 9), (0, 4), (3, 0), (1, 8), (5, 7)]
            case = Case(Rule(9, 4), 18, 28, 1, 4, 2, 24, 16)

            def of_sequence(number: int, shape: tuple[int, int, int, int], seed: int = seed) -> Tensor:
                return philox.kept(seed, 0.4, shape, number)

            _check_packed(outcome, case, lengths, dtype, device, random, of_sequence, dropout_p=0.4)
    return outcome


def _seed(number: int, device: torch.device) -> int:
    """The seed that the next call draws from torch's generator of the device."""
    torch.manual_seed(number)
    drawn = int(torch.randint((1 << 63) - 1, (), device=device))
    torch.manual_seed(number)
    return drawn


# ---- memory layouts -----------------------------------------------------------------------------------------------------------------
def layouts(device: torch.device, budget: Budget) -> Outcome:
    """Strides of all kinds, in memory that is otherwise NaN; addresses off by 1 to 8 elements. Inputs and what surrounds them stay."""
    outcome, random = Outcome("fused attention, layouts and alignments"), budget.random()
    n = 140 if budget.thorough else 17
    laid: list[Callable[[Tensor], Tensor]] = [*cases.LAYOUTS, *(partial(cases.shifted, elements=e) for e in (1, 2, 3, 4, 8))]
    base = Case(Rule(9, 4), n, n + 6, 2, 4, 2, 24, 16)
    for case in (base, replace(base, dim=33, value_dim=20, key_mask=True, rule=Rule(9, 4, 2))):
        for dtype in DTYPES:
            for layout in laid:
                name = getattr(layout, "__name__", f"{layout.keywords['elements']} elements on" if isinstance(layout, partial) else "")
                add(outcome, f"{name}, {case}, {dtype}", compared(case, dtype, layout, device=device, random=random))
                plain = {key: x.to(device) for key, x in case.tensors(dtype, random).items()}
                inputs = {key: layout(x) if key in "qkv" else x for key, x in plain.items()}
                memory = [x._base if x._base is not None else x for x in inputs.values()]
                before = [x.clone() for x in memory]
                case.ours(inputs)
                for x, old in zip(memory, before, strict=True):
                    outcome.equal(f"an input afterwards, {name}, {case}, {dtype}", x, old)
    return outcome

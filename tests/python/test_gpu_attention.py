"""tests/python/test_gpu_attention.py: the checks of fused attention on a GPU, run on the CPU: each passes, and each finds what it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from faulty_operators import (
    accepting_everything,
    deaf_to_strides,
    doubled_when_compiled,
    ignoring,
    leaking,
    moved_by_one,
    noisy,
    of_out,
    of_short_factors,
    with_another_seed,
    with_longer_sequences,
    with_wrong_gradient,
    with_wrong_gradient_of_lse,
    without_autocast,
    without_the_last_key,
    writing_beside,
    writing_inputs,
)
from window_matmul import attention, window_attention
from window_matmul.testing import definition, fused_running, fused_sequences, fused_values, philox, program
from window_matmul.testing.attention_cases import Case, compared
from window_matmul.testing.bounds import DTYPES, ROUNDING
from window_matmul.testing.definition import Rounded, Rule
from window_matmul.testing.outcome import Budget, Check, run

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend
CPU = torch.device("cpu")
QUICK = Budget(seconds=0, thorough=False, large=2**20)
OPTIONS = ("dilation", "scale", "key_mask", "key_lengths", "bias", "softcap", "sinks", "global_tokens", "query_offset")
Fault = Callable[[Any], Any]

FAULTS: dict[Check, list[Fault]] = {
    fused_values.each_option: [of_out(moved_by_one), of_out(with_wrong_gradient), with_wrong_gradient_of_lse, *map(ignoring, OPTIONS)],
    fused_values.options_together: [of_out(with_wrong_gradient), with_wrong_gradient_of_lse, *map(ignoring, OPTIONS)],
    fused_values.sizes: [of_out(moved_by_one), of_out(with_wrong_gradient)],
    fused_values.few_queries: [without_the_last_key],
    fused_values.matmul_precision: [of_out(moved_by_one), of_out(of_short_factors)],
    fused_sequences.packed: [with_longer_sequences, of_out(moved_by_one), *map(ignoring, ("bias", "sinks", "global_tokens", "softcap"))],
    fused_sequences.dropout: [with_another_seed, ignoring("dropout_p")],
    fused_sequences.layouts: [deaf_to_strides, of_out(writing_inputs)],
    fused_running.determinism: [of_out(noisy)],
    fused_running.late_inputs: [of_out(noisy)],
    fused_running.graphs: [of_out(noisy)],
    fused_running.compiled: [of_out(doubled_when_compiled)],
    fused_running.autocast: [of_out(without_autocast)],
    fused_running.canaries: [of_out(writing_beside), of_out(noisy)],
    fused_running.refusals: [of_out(accepting_everything)],
    fused_running.confinement: [of_out(leaking)],
}


@pytest.mark.parametrize("check", FAULTS, ids=lambda check: check.__name__)
def test_right_operators_pass(check: Check) -> None:
    outcome = run(check, CPU, QUICK)
    assert outcome.passed and outcome.cases > 0, outcome.failures


@pytest.mark.parametrize("check, fault", [(check, fault) for check, faults in FAULTS.items() for fault in faults], ids=lambda f: f.__name__)
def test_wrong_operators_are_found(check: Check, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("window_attention", "window_attention_varlen"):
        if fault is not with_longer_sequences or name == "window_attention_varlen":
            monkeypatch.setattr(attention, name, fault(getattr(attention, name)))
    outcome = run(check, CPU, QUICK)
    assert not outcome.passed and outcome.failures
    assert outcome.cases > 0 or "Error" in outcome.failures[0], "it must fail by looking, not by breaking"


def test_every_check_of_fused_attention_is_known_to_fail() -> None:
    modules = {fused_running.__name__, fused_sequences.__name__, fused_values.__name__}
    assert {check for check, _ in program.CHECKS if check.__module__ in modules} == set(FAULTS)


def test_every_option_is_among_the_cases() -> None:
    """A case for each option alone, so that one that is ignored is found by its own name."""
    for thorough in (False, True):
        cases = fused_values.each(140, 150, 20, 9) if thorough else fused_values.each(17, 21, 4, 2)
        given = {name for case in cases for name in (*case.tensors(), *case.numbers())}
        assert set(OPTIONS) <= given


# ---- the definition of dropout, and the roundings of a GPU, which no GPU is here to show -------------------------------------------------
def test_words_are_philox() -> None:
    """The answers that its authors publish with it, for a counter and a key of zeros, and of ones."""
    zeros = [int(x) for x in philox.words([torch.zeros((), dtype=torch.int64)] * 4, 0)]
    assert zeros == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = [int(x) for x in philox.words([torch.tensor(0xFFFFFFFF)] * 4, (1 << 64) - 1)]
    assert ones == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


class AsOnAGpu(torch.autograd.Function):
    """Attention over a window in float32 sums, weights and the gradients of scores rounded to the dtype before they are multiplied, as the
    CUDA kernels do it; `out` is rounded before backward takes its product with d_out."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        scores = (q.float() @ k.float().mT * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        total, lse = weights.sum(-1, keepdim=True), scores.logsumexp(-1)
        out = (weights.to(q.dtype).float() @ v.float() / total).to(q.dtype)
        ctx.save_for_backward(q, k, v, seen, out, lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        q, k, v, seen, out, lse = ctx.saved_tensors
        d_out, d_lse = cotangents
        scale = q.shape[-1] ** -0.5
        p = (q.float() @ k.float().mT * scale - lse[..., None]).masked_fill(~seen, -torch.inf).exp()
        d_s = p * (d_out.float() @ v.float().mT - (d_out.float() * out.float()).sum(-1, keepdim=True) + d_lse[..., None])
        d_s, p = d_s.to(q.dtype).float(), p.to(q.dtype).float()
        d_q, d_k, d_v = scale * (d_s @ k.float()), scale * (d_s.mT @ q.float()), p.mT @ d_out.float()
        return d_q.to(q.dtype), d_k.to(q.dtype), d_v.to(q.dtype), None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_roundings_of_a_gpu_are_within_its_bounds(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not within those of a CPU: sums of few weights, some of which cancel, show them."""
    gpu = definition.rounded_by(torch.device("cuda"), dtype)
    assert gpu.weights == ROUNDING[dtype] * 1.01
    for window in ((1, 1), (40, 25)):
        case = Case(Rule(*window), 150, 150, 1, 2, 2, 64, 64)
        seen = case.rule.taps(2, 150, 150)[0]
        ratios = {}
        for name, by in (("gpu", gpu), ("cpu", Rounded())):
            monkeypatch.setattr(definition, "rounded_by", lambda *_, by=by: by)
            found = compared(case, dtype, call=lambda t, seen=seen: AsOnAGpu.apply(t["q"], t["k"], t["v"], seen))
            ratios[name] = max(float(((c.actual.double() - c.exact).abs() / c.bound).max().detach()) for c in found)
        assert 0.2 < ratios["gpu"] <= 1
        assert ratios["cpu"] > 1 or window != (1, 1)


def test_precision_of_a_gpu_is_that_of_torch() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        for precision, splits in (("highest", False), ("high", True), ("medium", True)):
            torch.set_float32_matmul_precision(precision)
            for dtype in DTYPES:
                by = definition.rounded_by(torch.device("cuda"), dtype)
                assert (by.products > 0) == (splits and dtype == torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)


def test_philox_is_what_the_kernels_draw() -> None:
    shape = (2, 3, 5, 9)
    q, k = torch.zeros(*shape[:3], 2), torch.zeros(2, 3, 9, 2)
    torch.manual_seed(3)
    seed = int(torch.randint((1 << 63) - 1, ()))
    torch.manual_seed(3)
    out = window_attention(q, k, torch.eye(9).expand(2, 3, 9, 9), None, dropout_p=0.4)
    torch.testing.assert_close(out.double() * 9, philox.kept(seed, 0.4, shape), rtol=1e-5, atol=0)

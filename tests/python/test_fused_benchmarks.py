"""tests/python/test_fused_benchmarks.py: competitors of fused attention and of decoding, goals, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bars, plots, report
from benchmarks.cases import Case, decode_cases
from benchmarks.cell import check, inference, training
from benchmarks.competitors import entrants, load
from benchmarks.oracle import Check, Wrong
from test_benchmarks import DECODE, SMALL, cell_entry, exact, prepared
from window_matmul import reference

pytestmark = pytest.mark.best_backend


@pytest.mark.parametrize("name", ["ours", "explicit", "band_attention", "local_attention", "sdpa", "onnxruntime"])
def test_competitors_are_right_with_a_causal_window(name: str) -> None:
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    case = Case("fused", 128, 16, causal=True, **SMALL)
    inputs, g = case.inputs(), case.output_gradient()
    for backward in (False, True)[: 1 if name == "onnxruntime" else 2]:
        function = prepared(case, name, backward)
        call = training(function, inputs, g) if backward else inference(function, inputs)
        check(case, load(name), call, inputs, g)
        for actual, wanted in zip(call(), exact(case, inputs, g), strict=False):
            torch.testing.assert_close(actual.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", entrants(Case("decode", 64, 15, **DECODE), "default"))
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_decoders_are_right(name: str, dtype: str) -> None:
    case = Case("decode", 64, 15, dtype, **DECODE)
    inputs, g = case.inputs(), case.output_gradient()
    call = inference(prepared(case, name, False), inputs)
    check(case, load(name), call, inputs, g)
    right = reference.window_attention(inputs[0], *(x.repeat_interleave(2, 1) for x in inputs[1:]), (15, 0)).to(inputs[0].dtype)
    Check(case).run(inputs, right, g)
    with pytest.raises(Wrong, match="output"):
        Check(case).run(inputs, right + 0.1 * right.abs().max(), g)


@pytest.mark.parametrize(("length", "window", "causal"), [(320, 16, False), (512, 64, True), (128, 64, False)])
def test_all_forms_of_the_torch_formulation_are_right(length: int, window: int, causal: bool) -> None:
    from benchmarks.competitors import band_attention

    case = Case("fused", length, window, "fp64", causal=causal, **SMALL)
    inputs, g = case.inputs(), case.output_gradient()
    wanted = exact(case, inputs, g)
    for form in band_attention.forms(case, backward=True):
        for actual, one in zip(training(band_attention.function_of(case, form), inputs, g)(), wanted, strict=True):
            torch.testing.assert_close(actual, one)


def fused_entries() -> list[dict[str, Any]]:
    """One cell where ours takes a millisecond, one of decoding, and the rows of two one-thread jobs."""
    case, decode = Case("fused", 4096, 64), decode_cases(2, quick=True)[0]
    cells = [("ours", 0.001), ("band_attention", 0.00195), ("local_attention", 0.003), ("flex_attention", 0.0024), ("sdpa_causal", 0.0005)]
    entries = [cell_entry(name, seconds, case=case) for name, seconds in cells]
    entries += [cell_entry(name, seconds, case=decode) for name, seconds in [("ours", 0.001), ("rolling_cache", 0.0011), ("sdpa", 0.0056)]]
    row = {"backend": "cpu.avx2", "direction": "forward", "gflops": 50.0}
    rows = [
        row | {"case": Case("fused", 4096, w, dtype, 1, heads=1).to_json(), "share": share}
        for w, dtype, share in [(64, "fp32", 0.63), (128, "fp32", 0.69), (128, "fp64", 0.60)]
    ]
    options_rows = [{"option": "dilation 2", "length": 4096, "direction": "forward", "ratio": 0.93, "ratio_p10": 0.9}]
    return [
        *entries,
        *({"task": task, "label": "", "malloc": "default", "result": r} for task, r in (("shares", rows), ("options", options_rows))),
    ]


def test_bars_of_fused_attention_are_judged() -> None:
    verdicts = {bar.goal: (bar.seen, bar.verdict) for bar in bars.fused_bars(fused_entries())}

    def found(*words: str) -> tuple[str, str]:
        return next(value for goal, value in verdicts.items() if all(word in goal for word in words))

    assert found("w >= 64", "formulation, forward, L 4096", "default") == ("1.95x at w = 64 (1 of 1 cells)", "**met**")
    assert found("w >= 64", "installed, forward, L 4096", "default") == ("2.40x at w = 64 (0 of 1 cells)", "**missed**")
    assert found("w >= 64", "forward + backward")[1] == found("25x SDPA")[1] == "not measured"
    assert found("cpu.avx2, fused forward, d = 64")[1] == "**met**" and found("cpu.avx2", "fp64")[1] == "**missed**"
    assert found("decoding", "bandwidth") == ("76%", "**met**") and found("decoding", "SDPA") == ("5.09x", "**met**")
    assert found("dilation")[1] == "**met**" and found("global tokens")[1] == "not measured"


def test_report_and_pictures_of_fused_attention(tmp_path: Path) -> None:
    entries = [*fused_entries(), cell_entry("ours", 0.002, case=Case("fused", 4096, 128))]
    entries[1]["result"]["unsupported"] = "a reason"
    for row in entries[-3]["result"]:
        row |= {"peak_gflops": 100.0, "share_best": 0.7, "share_p10": 0.6}
    results = {"machine": {}, "quick": True, "threads": 2, "minutes": 1.0, "entries": entries}
    assert plots.draw(entries, tmp_path) == ["fused-L4096.png", "fused-shares.png"]
    text = report.render(results, [])
    headings = ["Fused attention, fp32, malloc default", "Memory of fused attention", "Decoding", "Speed with an option"]
    headings.append("What others could not do")
    assert all(f"\n## {heading}" in text for heading in headings)
    assert "1.95x" in text and "a reason" in text and "window_attention" in text

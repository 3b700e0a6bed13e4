"""tests/python/test_gpu_fused_benchmarks.py: fused attention in the GPU benchmarks, on the CPU: everybody, goals, pieces."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl

import window_matmul.compat.torch_varlen  # noqa: F401  registers what stands in for torch's flash attention here

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are run from the source tree, no part of the package

from benchmarks.competitors import ours
from benchmarks.gpu import report, run, varlen
from benchmarks.gpu.cases import STEP, GpuCase, fused_cases
from benchmarks.gpu.cell import FUSED, entrants, run_cell
from benchmarks.gpu.device import Host
from window_matmul import window_attention

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend
CASE = GpuCase("fused", 64, 16, "fp32", heads=2, dim=8)


@pytest.fixture
def varlen_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(varlen, "ON", ("cpu",))
    activate_flash_attention_impl("window_matmul")
    yield
    restore_flash_attention_impl()


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("case", [CASE, GpuCase("fused", 128, 32, "bf16", heads=2, dim=8, causal=True)], ids=str)
def test_everybody_is_checked_and_timed(case: GpuCase, name: str, varlen_on_cpu: None) -> None:
    entry = run_cell(Host(), case, name, 0.0)
    assert "failed" not in entry, entry
    if name == "flex_attention":
        assert "backward on CPU" in entry["unsupported"]
        return
    assert all(entry[d]["tflops"] > 0 and entry[d]["gbytes"] > 0 and entry[d]["calls"] >= 10 for d in STEP)


def test_who_cannot_says_why() -> None:
    assert "on cuda, not on cpu" in run_cell(Host(), CASE, "varlen", 0.0)["unsupported"]


def test_what_varlen_attn_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "ON", ("cpu",))
    assert "it refuses: " in run_cell(Host(), CASE, "varlen", 0.0)["unsupported"]


def test_a_wrong_window_is_a_failure_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "prepare", lambda *_: (lambda q, k, v: window_attention(q, k, v, (15, 16)), ""))
    entry = run_cell(Host(), CASE, "ours", 0.0)
    assert "is off by" in entry["failed"] and not set(STEP) & set(entry)


def test_work_is_counted_from_the_pairs_that_are_seen() -> None:
    seen = sum(int(CASE.sees(0, 64, 0, 64).sum()) for _ in range(2))
    assert [CASE.useful_flops(d) for d in STEP] == [2 * 8 * seen * n for n in (2, 5, 7)]
    assert CASE.floor_bytes("step") == CASE.floor_bytes("forward") + CASE.floor_bytes("backward")
    rows = 2 * 64 * 8 * 4
    assert CASE.floor_bytes("forward") == 4 * rows + 2 * 64 * 4


def test_plan() -> None:
    cases = fused_cases(quick=False)
    names = [str(case) for case in cases]
    assert len(set(names)) == len(names) and names[0] == "fused-L16384-h64-w128-d128-bf16"
    assert {128, 512, 2048} <= {c.window for c in cases if (c.heads, c.length, c.dim, c.dtype) == (64, 16384, 128, "bf16")}
    assert all(set(entrants(c)) >= {"ours", "varlen", "flex_attention"} for c in cases)
    assert len(fused_cases(quick=True)) == 1


def results_of(tflops: float, times: float, processor: str = "NVIDIA H200") -> dict[str, Any]:
    """Ours at this rate, everybody else so many times as long."""
    entries = []
    for case in fused_cases(quick=False):
        for name in FUSED:
            entry: dict[str, Any] = {"case": case.to_json(), "name": str(case), "competitor": name, "error": 1e-7}
            for direction in STEP:
                entry[direction] = {"median": 1e-3 * (1 if name == "ours" else times), "gbytes": 1.0, "tflops": tflops}
            entries.append(entry)
    return {"machine": {"processor": processor}, "entries": entries}


def test_goals_are_judged() -> None:
    assert {bar.verdict for bar in report.fused_bars(results_of(331, 1.1))} == {"**met**"}
    assert {bar.verdict for bar in report.fused_bars(results_of(169, 0.9))} == {"**missed**"}
    assert [bar.verdict for bar in report.fused_bars(results_of(300, 1.1))].count("**missed**") == 2
    elsewhere = report.fused_bars(results_of(100, 1.1, "another GPU"))
    assert [bar.verdict for bar in elsewhere] == ["not measured"] * 6 + ["**met**"]


def test_pieces_go_on_where_the_last_one_ended(tmp_path: Path, varlen_on_cpu: None) -> None:
    said: list[str] = []
    plan = [CASE, GpuCase("fused", 32, 16, "fp32", heads=2, dim=8)]
    none = run.measure(Host(), plan, True, 0.0, said.append, minutes=0)
    assert none["left"] == 2 * len(FUSED) and not none["entries"] and not said
    first = run.measure(Host(), plan[:1], True, 0.0, said.append)
    run.write(first, tmp_path)
    earlier = run.taken_up(tmp_path, Host(), True)
    assert earlier is not None and len(said) == len(FUSED)
    both = run.measure(Host(), plan, True, 0.0, said.append, earlier)
    assert len(said) == len(both["entries"]) == 2 * len(FUSED) and both["left"] == 0 and both["rates"] == first["rates"]
    text = report.render(both)
    assert "## Fused attention: ms, useful TFLOP/s" in text and "varlen_attn" in text and "does not support backward" in text
    assert run.taken_up(tmp_path / "nowhere", Host(), True) is None
    with pytest.raises(SystemExit, match="another machine, torch or plan"):
        run.taken_up(tmp_path, Host(), False)


def test_torch_is_asked_for_the_window(monkeypatch: pytest.MonkeyPatch, varlen_on_cpu: None) -> None:
    function, _ = varlen.prepare(CASE, True, lambda _: ("", 0.0))
    q, k, v = torch.randn(3, 1, 2, 64, 8)
    torch.testing.assert_close(function(q, k, v), window_attention(q, k, v, 16))

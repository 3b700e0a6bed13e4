"""tests/python/test_gpu_benchmarks.py: the GPU benchmarks on the CPU: all are right, a wrong one is no number, a run ends in a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are run from the source tree, no part of the package

from benchmarks import __main__ as command
from benchmarks.cases import PAIR
from benchmarks.competitors import Unsupported, ours
from benchmarks.gpu import gathered, report, run, strided_bmm
from benchmarks.gpu.cases import DIRECTIONS, GpuCase, gpu_cases
from benchmarks.gpu.cell import NAMES, entrants, run_cell
from benchmarks.gpu.device import Host, copy_rate, gemm_rate, time_calls
from window_matmul import window_matmul

pytestmark = pytest.mark.best_backend
SMALL: dict[str, Any] = {"heads": 2, "dim": 8}


@pytest.fixture(autouse=True)
def compiles_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "BACKEND", "eager")


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("op", PAIR)
def test_everybody_is_checked_and_timed(op: str, name: str, dtype: str) -> None:
    for length, window in ((64, 16), (128, 32), (256, 64)):
        entry = run_cell(Host(), GpuCase(op, length, window, dtype, **SMALL), name, 0.0)
        assert not {"failed", "unsupported"} & set(entry), entry
        measured = [direction for direction in DIRECTIONS if direction in entry]
        assert measured == (list(DIRECTIONS) if name == "ours" else ["forward", "backward"])
        assert all(entry[d]["gbytes"] > 0 and entry[d]["calls"] >= 10 for d in measured)


@pytest.mark.parametrize("block", [16, 32, 64, 128])
def test_every_block_size_gives_the_band(block: int) -> None:
    q, k, g = torch.randn(3, 128, 8), torch.randn(3, 128, 8), torch.randn(3, 128, 129)
    a = window_matmul(q, k.mT, 64)
    torch.testing.assert_close(strided_bmm.band_out(q, k, 64, block), a)
    leaves = q.requires_grad_(), k.requires_grad_()
    dq, dk = torch.autograd.grad(window_matmul(q, k.mT, 64), leaves, g)
    torch.testing.assert_close(strided_bmm.band_in(g, k.detach(), 64, block), dq, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(strided_bmm.band_in_transposed(g, q.detach(), 64, block), dk, rtol=1e-4, atol=1e-4)


def wrong(q: Tensor, k: Tensor) -> Tensor:
    """One slot of one row."""
    a = window_matmul(q, k, 16)
    spoilt = torch.zeros_like(a)
    spoilt[0, 0, 20, 20] = 1
    return a + spoilt


@pytest.mark.parametrize(
    "function, reason",
    [
        (wrong, "off by"),
        (lambda q, k: window_matmul(q.detach(), k, 16) + 0 * q.sum(), "gradient of q"),
        (lambda q, k: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_a_failure_and_no_number(function: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "prepare", lambda *_: (function, ""))
    entry = run_cell(Host(), GpuCase("window", 64, 16, "fp32", **SMALL), "ours", 0.0)
    assert reason in entry["failed"] and not set(DIRECTIONS) & set(entry)


@pytest.mark.parametrize("error", [Unsupported("it cannot"), ImportError("nothing"), torch.OutOfMemoryError("it is full")])
def test_who_cannot_is_left_out_with_the_reason(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(strided_bmm, "prepare", refuse)
    entry = run_cell(Host(), GpuCase("window", 64, 16, "fp32", **SMALL), "strided_bmm", 0.0)
    assert entry["unsupported"] and "failed" not in entry


def test_floor_counts_each_operand_once() -> None:
    for op in PAIR:
        case = GpuCase(op, 64, 16, "bf16", **SMALL)
        inputs, g = case.tensors(torch.device("cpu"))
        output = window_matmul(*inputs, 16) if op == "window" else g
        assert case.floor_bytes("forward") == sum(x.numel() for x in (*inputs, output)) * 2
        assert case.floor_bytes("backward") == 2 * case.floor_bytes("first gradient")
        assert g.shape == output.shape


def test_plan() -> None:
    cases = gpu_cases(quick=False)
    assert {(c.window, c.dim) for c in cases if c.dtype == "bf16"} == {(w, d) for w in (64, 128, 256, 512) for d in (64, 128)}
    assert {c.dtype for c in cases} == {"bf16", "fp32", "fp16", "fp64"} and {c.op for c in cases} == set(PAIR)
    assert all(c.length % (2 * c.window) == 0 for c in cases)  # as Hugging Face's chunks need
    assert len(gpu_cases(quick=True)) == 4 and all(entrants(c) == list(NAMES) for c in gpu_cases(quick=True))
    assert {c.window for c in cases if "gathered" in entrants(c)} == {128, 256}


def test_device() -> None:
    host = Host()
    assert copy_rate(host) > 0 and gemm_rate(host, torch.float32) > 0
    assert len(time_calls(host, lambda: None, 0.0, 7).seconds) == 7
    assert {"processor", "date", "torch"} <= set(host.describe())


def results_of(share: float, times: float) -> dict[str, Any]:
    """Ours at a share of the copy rate, everybody else that many times as long."""
    entries = []
    for case in gpu_cases(quick=True):
        for name in NAMES:
            entry: dict[str, Any] = {"case": case.to_json(), "name": str(case), "competitor": name, "error": 1e-7}
            for direction in DIRECTIONS if name == "ours" else ("forward", "backward"):
                entry[direction] = {"median": 1e-3 * (1 if name == "ours" else times), "gbytes": 1000 * share}
            entries.append(entry)
    rates = {"copy_gbytes": 1000.0} | {f"gemm_tflops {name}": 1.0 for name in ("fp64", "fp32", "bf16", "fp16")}
    return {"machine": {"processor": "a GPU"}, "quick": True, "rates": rates, "entries": entries, "minutes": 1.0, "left": 0}


def test_goals_are_judged() -> None:
    assert {bar.verdict for bar in report.pair_bars(results_of(0.81, 5.1))} == {"**met**"}
    assert {bar.verdict for bar in report.pair_bars(results_of(0.79, 2.9))} == {"**missed**"}
    assert [bar.verdict for bar in report.pair_bars(results_of(0.81, 4.0))] == ["**met**", "**met**", "**missed**", "**met**"]
    empty = results_of(1, 1) | {"entries": []}
    assert {bar.verdict for bar in report.pair_bars(empty)} == {"not measured"}


@pytest.mark.long
def test_a_tiny_run_ends_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = [GpuCase(op, 64, 16, "fp32", **SMALL) for op in PAIR] + [GpuCase("window", 60, 16, "fp32", **SMALL)]
    said: list[str] = []
    results = run.measure(Host(), plan, True, 0.0, said.append)
    assert len(said) == len(results["entries"]) == 3 * 3 and not report.failures(results["entries"])
    run.write(results, tmp_path)
    text = (tmp_path / "report.md").read_text()
    for heading in ("Goals", "Ours", "Against others", "What could not be measured", "How it was measured"):
        assert f"\n## {heading}" in text
    assert "multiple of 2w" in text  # the third case, which has no whole chunks
    (tmp_path / "report.md").unlink()
    assert command.main(["--render", str(tmp_path)]) == 0
    assert (tmp_path / "report.md").read_text() == text
    results["entries"][0]["failed"] = "it is wrong"
    assert "it is wrong" in report.summary(results)
    assert json.loads((tmp_path / "results.json").read_text())["rates"]["copy_gbytes"] > 0


def test_without_a_gpu_there_is_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert command.main(["--device", "cuda", "--quick"]) == 3
    assert "nothing to measure on" in capsys.readouterr().err

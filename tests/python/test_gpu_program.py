"""tests/python/test_gpu_program.py: the checks of a GPU, run on the CPU: each passes, and each finds what it is there for."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from child import run as run_child
from faulty_operators import (
    Operator,
    accepting_everything,
    doubled_when_compiled,
    leaking,
    moved_by_one,
    noisy,
    of_short_factors,
    with_wrong_gradient,
    without_autocast,
    without_late_batches,
    writing_beside,
    writing_inputs,
)
from window_matmul import functional, reference
from window_matmul.testing import __main__ as command
from window_matmul.testing import device as devices
from window_matmul.testing import gradients, limits, program, running, tools, values
from window_matmul.testing.outcome import Budget, Check, Outcome, run

pytestmark = pytest.mark.best_backend
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
QUICK = Budget(seconds=0, thorough=False, large=2**20)
CHECKS = [check for check, _ in program.CHECKS]
PLAIN = {name: getattr(functional, name) for name in ("window_matmul", "unwindow_matmul", "window_softmax")}


FAULTS: dict[Check, list[Callable[[Operator], Operator]]] = {
    values.small_sizes: [moved_by_one, of_short_factors],
    values.large_sizes: [moved_by_one],
    values.random_sizes: [moved_by_one],
    values.layouts_and_alignments: [moved_by_one, writing_inputs],
    values.beside_torch: [noisy],
    values.matmul_precision: [moved_by_one, of_short_factors],
    gradients.first_derivatives: [with_wrong_gradient],
    gradients.second_derivatives: [with_wrong_gradient],
    gradients.finite_differences: [with_wrong_gradient],
    running.determinism: [noisy],
    running.streams: [noisy],
    running.graphs: [noisy],
    running.other_devices: [noisy],
    running.compiled: [doubled_when_compiled],
    running.mapped: [noisy],
    running.autocast: [without_autocast],
    limits.canaries: [writing_beside, noisy],
    limits.confinement: [leaking],
    limits.refusals: [accepting_everything],
    limits.many_batches: [without_late_batches],
    limits.large_tensors: [moved_by_one],
}


@pytest.mark.parametrize("check", [check for check in CHECKS if check in FAULTS], ids=lambda check: check.__name__)
def test_right_operators_pass(check: Check) -> None:
    outcome = run(check, CPU, QUICK)
    assert outcome.passed and outcome.cases > 0, outcome.failures


@pytest.mark.parametrize("check, fault", [(check, fault) for check, faults in FAULTS.items() for fault in faults], ids=lambda f: f.__name__)
def test_wrong_operators_are_found(check: Check, fault: Callable[[Operator], Operator], monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(PLAIN)[:2] if fault in (of_short_factors, accepting_everything) else list(PLAIN)
    for name in names:
        monkeypatch.setattr(functional, name, fault(PLAIN[name]))
    outcome = run(check, CPU, QUICK)
    assert not outcome.passed and outcome.failures
    assert outcome.cases > 0 or "Error" in outcome.failures[0], "it must fail by looking, not by breaking"


def test_every_check_is_known_to_fail() -> None:
    """Those of fused attention by test_gpu_attention.py."""
    of_the_pair = {check for check in CHECKS if ".fused_" not in check.__module__}
    assert of_the_pair == set(FAULTS) | {tools.primitives, tools.sanitizer}


def test_what_is_not_there_is_not_taken_for_right() -> None:
    outcome = Outcome("comparing")
    nan, one = torch.tensor([torch.nan]), torch.ones(1)
    outcome.close("NaN", nan, one, 1e9)
    outcome.close("shape", torch.ones(2), one, 1e9)
    outcome.close("dtype", one, one, 1e9, torch.float64)
    outcome.close("too far", one + 1e-3, one, 1e-4)
    outcome.close("infinity", torch.tensor([torch.inf]), torch.tensor([-torch.inf]), 0.0)
    outcome.equal("bits", torch.tensor([0.0]), torch.tensor([-0.0]))
    outcome.raises("nothing", ValueError, (), lambda: None)
    outcome.raises("another", ValueError, (), lambda: [][0])
    outcome.raises("its text", ValueError, ("name",), lambda: int("x"))
    assert outcome.failed == outcome.cases == 9 and not outcome.passed
    assert outcome.worst == torch.inf
    right = Outcome("comparing")
    right.close("near", one + 1e-5, one, 1e-4)
    right.close("infinity", torch.tensor([-torch.inf]), torch.tensor([-torch.inf]), 0.0)
    right.equal("NaN", nan, nan)
    assert right.passed and 0 < right.worst < 1


# ---- other programs -------------------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(tools.conformance_program() is None, reason="no nvcc when the package was built; the C++ tests run its emulated half")
def test_primitives_of_the_emulation_pass() -> None:
    outcome = run(tools.primitives, CPU, QUICK)
    assert outcome.passed and outcome.cases > 30, outcome.failures


def test_every_primitive_has_a_kernel() -> None:
    """A primitive that kernels may call is a name that the conformance kernels call."""
    source = (ROOT / "src/cuda/primitives/ptx.cuh").read_text()
    names = set(re.findall(r"WINDOW_MATMUL_DEVICE [\w:]+ (\w+)\(", source)) - {
        "shared_address",
        "forget",
    }  # its own; no effect
    kernels = "".join((ROOT / "src/cuda/conformance" / name).read_text() for name in ("kernels.cuh", "arithmetic.cuh"))
    assert len(names) > 20
    assert {name for name in names if not re.search(rf"\b{name}[<(]", kernels)} == set()


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


PASSED = '{"check": "mma", "runs": 4, "numbers": 9, "verdict": "passed", "note": ""}'
SUMMARY = '{"device": "a GPU", "passed": 1, "failed": 0}'


@pytest.mark.parametrize(
    "said, status, passed",
    [
        ([PASSED, SUMMARY], 0, True),
        ([PASSED.replace("passed", "failed"), SUMMARY], 0, False),
        ([PASSED, SUMMARY], 1, False),
        ([PASSED], 0, False),
        ([SUMMARY], 0, False),
        ([], 0, False),
        ([PASSED.replace("passed", "not run"), SUMMARY.replace("1", "0")], 0, False),
        ([PASSED.replace("passed", "not run"), PASSED, SUMMARY], 0, True),
    ],
)
def test_what_the_conformance_program_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], status: int, passed: bool
) -> None:
    echo = "\n".join(f"echo '{line}'" for line in said)
    path = script(tmp_path / "program", f"{echo}\nexit {status}")
    monkeypatch.setattr(tools, "conformance_program", lambda: path)
    assert run(tools.primitives, CPU, QUICK).passed == passed


def test_a_missing_conformance_program_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "conformance_program", lambda: None)
    outcome = run(tools.primitives, CPU, QUICK)
    assert not outcome.passed and "nvcc" in outcome.failures[0]


@pytest.mark.parametrize(
    "text, passed",
    [
        ('echo "========= ERROR SUMMARY: 0 errors"', True),
        ('echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"', True),
        ('echo "========= ERROR SUMMARY: 3 errors"; exit 9', False),
        ('echo "========= ERROR SUMMARY: 0 errors"; exit 1', False),
        ('echo "Unable to attach"', False),
    ],
)
def test_compute_sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, passed: bool) -> None:
    script(tmp_path / "bin/compute-sanitizer", f'echo "$@" >> {tmp_path}/calls\n{text}')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(tools, "conformance_program", lambda: tmp_path / "conformance")
    outcome = run(tools.sanitizer, CPU, QUICK)
    assert outcome.passed == passed and outcome.cases == 6
    calls = (tmp_path / "calls").read_text()
    assert all(calls.count(f"--tool {tool}") == 2 for tool in tools.TOOLS) and "window_matmul.testing small --device cpu" in calls


def test_the_calls_for_tools_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["small", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("passed") == 3


# ---- the program ------------------------------------------------------------------------------------------------------------------------
def fine(device: torch.device, budget: Budget) -> Outcome:
    outcome = Outcome("fine")
    exact = reference.window_matmul(torch.ones(3, 2), torch.ones(2, 3), 1)
    outcome.close("ones", functional.window_matmul(torch.ones(3, 2), torch.ones(2, 3), 1), exact, 1e-6)
    return outcome


def nothing(device: torch.device, budget: Budget) -> Outcome:
    return Outcome("nothing")


def broken(device: torch.device, budget: Budget) -> Outcome:
    raise RuntimeError("an illegal memory access")


def absent(device: torch.device, budget: Budget) -> Outcome:
    return Outcome("compute-sanitizer", not_run="it is not here")


def left_out(device: torch.device, budget: Budget) -> Outcome:
    return Outcome("streams", not_run="no time")


@pytest.mark.parametrize(
    "checks, status, words",
    [
        ([fine], 0, ["PASSED (1 cases in 1 checks", "nothing was left out"]),
        ([fine, absent], 0, ["PASSED", "not run: compute-sanitizer: it is not here"]),
        ([fine, nothing], 1, ["FAILED: nothing"]),
        ([fine, broken], 1, ["FAILED: broken", "illegal memory access"]),
        ([fine, left_out], 1, ["FAILED: streams"]),
        ([absent], 1, ["FAILED"]),
        ([], 1, ["FAILED: nothing was run"]),
    ],
    ids=lambda x: "-".join(getattr(y, "__name__", "") for y in x) if isinstance(x, list) else str(x),
)
def test_exit_status_and_report(tmp_path: Path, checks: list[Check], status: int, words: list[str]) -> None:
    said: list[str] = []
    session = program.Session(CPU, tmp_path / "out", 1.0, False, 0)
    assert session.run(tuple((check, 0.0) for check in checks), said.append) == status
    report, results = (tmp_path / "out/gpu.md").read_text(), json.loads((tmp_path / "out/gpu.json").read_text())
    assert results["passed"] == (status == 0) and results["verdict"] == said[-1]
    for word in words:
        assert word in "\n".join(said) and word in report
    assert {"device", "torch", "window_matmul", "seed"} <= set(results["machine"])
    assert [c["title"] for c in results["checks"]] == [run(check, CPU, QUICK).title for check in checks]


def test_without_a_gpu_nothing_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert command.main(["gpu", "--out", str(tmp_path / "out")]) == 3
    assert re.search("without CUDA|finds no GPU", capsys.readouterr().err) and not (tmp_path / "out").exists()
    assert command.main(["small"]) == 3


def test_a_check_that_hangs_ends_the_program(tmp_path: Path) -> None:
    out = run_child(
        """
        import sys, time
        from pathlib import Path
        import torch
        from window_matmul.testing import program
        from window_matmul.testing.outcome import Outcome
        def hangs(device, budget):
            time.sleep(100)
            return Outcome("hangs")
        program.Session(torch.device("cpu"), Path(sys.argv[1]), 0.005, False, 0).run(((hangs, 0.0),), print)
        """,
        tmp_path,
        status=1,
    )
    assert out.startswith("FAILED: hangs")
    assert "not done after" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize(
    "cuda, available, count, name, reason",
    [
        (None, False, 0, "cuda", "without CUDA"),
        ("13.0", False, 0, "cuda", "no GPU, or no driver"),
        ("13.0", True, 2, "cuda:2", "there are 2 GPUs"),
        ("13.0", True, 2, "cuda:1", ""),
        ("13.0", True, 1, "cuda", ""),
    ],
)
def test_devices_are_found_or_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, available: bool, count: int, name: str, reason: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    for attribute, value in (("is_available", available), ("device_count", count), ("current_device", 0), ("set_device", None)):
        monkeypatch.setattr(torch.cuda, attribute, lambda *_, value=value: value)
    device, why_not = devices.find(name)
    assert (device is None) == bool(reason) and reason in why_not
    if device is not None:
        assert device == torch.device(name if ":" in name else "cuda:0")
        assert [other.index for other in devices.others(device)] == [i for i in range(count) if i != device.index]


def test_names_of_torch_cuda_are_there() -> None:
    """What the program asks of torch.cuda exists under these names, in a CPU build too."""
    for name in ("_sleep", "CUDAGraph", "graph", "Stream", "stream", "mem_get_info", "get_device_properties", "empty_cache", "Event"):
        assert hasattr(torch.cuda, name), name

# python/window_matmul/testing/tools.py: checks by other programs: the primitives' conformance, and compute-sanitizer around both.
from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import __path__ as _folders
from .outcome import Budget, Outcome

PROGRAM = "window_matmul_cuda_conformance"
# Calls of the CUDA runtime that fail are left out: torch tries what a device can do.
TOOLS = {"memcheck": ("--report-api-errors", "no"), "racecheck": (), "synccheck": ()}


def conformance_program() -> Path | None:
    found = [path for folder in _folders if (path := Path(folder, "bin", PROGRAM)).exists()]
    return found[0] if found else None


def primitives(device: torch.device, budget: Budget) -> Outcome:
    """Each primitive: GPU, emulation and definition, bit for bit. On a CPU the emulation and the definition."""
    outcome, program = Outcome("primitives"), conformance_program()
    if program is None:
        outcome.fail(PROGRAM, "it is not in this installation: nvcc was not found when the package was built")
        return outcome
    where = ["--device", str(device.index or 0)] if device.type == "cuda" else ["--emulation-only"]
    done = subprocess.run([program, *where, "--runs", "64" if budget.thorough else "4"], capture_output=True, text=True, timeout=120)
    summary: dict[str, object] = {}
    for line in done.stdout.splitlines():
        said = json.loads(line)
        if "check" in said:
            _take(outcome, said)
        else:
            summary = said
    outcome.true("exit status", done.returncode == 0, f"{done.returncode} {done.stderr.strip()}")
    said_passed = int(str(summary.get("passed", 0)))
    outcome.true("summary", said_passed == outcome.cases - 1 > 0, f"it counts {said_passed} that passed, of {outcome.cases - 1} that ran")
    return outcome


def _take(outcome: Outcome, said: dict[str, object]) -> None:
    if said["verdict"] == "not run":
        outcome.left_out.append(f"{said['check']}, {said['note']}")
        return
    outcome.true(str(said["check"]), said["verdict"] == "passed", str(said["note"]))
    outcome.numbers += int(str(said.get("numbers", 0)))


def sanitizer_program() -> str | None:
    places = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), *sorted(glob.glob("/usr/local/cuda*"), reverse=True)]
    folders = os.pathsep.join([os.environ.get("PATH", ""), *(f"{place}/bin" for place in places if place)])
    return shutil.which("compute-sanitizer", path=folders)


def sanitizer(device: torch.device, budget: Budget) -> Outcome:
    """compute-sanitizer around the conformance program and around calls of every operator on small shapes, all within the budget."""
    outcome, program = Outcome("compute-sanitizer"), sanitizer_program()
    if program is None:
        outcome.not_run = "there is no compute-sanitizer on the PATH, in CUDA_HOME or under /usr/local"
        return outcome
    python = [sys.executable, "-m", "window_matmul.testing", "small", "--device", str(device)]
    commands = {"calls": ["--kernel-name", "kns=window_matmul", *python]}  # none of torch's own kernels
    if (conformance := conformance_program()) is not None:
        commands["conformance"] = [str(conformance), "--runs", "1", "--device", str(device.index or 0)]
    end = time.perf_counter() + max(budget.seconds, 60)
    for tool, options in TOOLS.items():
        for name, command in commands.items():
            under = [program, "--tool", tool, "--error-exitcode", "9", *options, *command]
            _run_under(outcome, f"{tool}, {name}", under, max(1.0, end - time.perf_counter()))
    return outcome


def _run_under(outcome: Outcome, where: str, command: Sequence[str], seconds: float) -> None:
    """No error in the tool's own count, and none of the program's: a tool that did not attach says no count."""
    try:  # torch's cache would hide accesses that lie beyond a tensor and within a cached block
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        outcome.true(where, False, f"not done after {seconds:.0f} seconds, what was left for it")
        return
    said = done.stdout + done.stderr
    clean = done.returncode == 0 and ("ERROR SUMMARY: 0 errors" in said or "RACECHECK SUMMARY: 0 hazards displayed" in said)
    outcome.true(where, clean, f"exit status {done.returncode}: {said.strip()[-600:]}")

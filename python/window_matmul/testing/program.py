# python/window_matmul/testing/program.py: all checks of a device in a row, the clock that stops them, the report, the exit status.
from __future__ import annotations

import datetime
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from . import device as devices
from . import fused_running, fused_sequences, fused_values, gradients, limits, running, tools, values
from .outcome import Budget, Check, Outcome, run

# In order: what a wrong primitive breaks comes after it. The number is the share of all time that random cases and slow tools may take.
CHECKS: tuple[tuple[Check, float], ...] = (
    (tools.primitives, 0),
    (values.small_sizes, 0),
    (fused_values.each_option, 0),
    (fused_values.sizes, 0),
    (fused_values.few_queries, 0),
    (fused_sequences.packed, 0),
    (fused_sequences.dropout, 0),
    (fused_sequences.layouts, 0),
    (values.layouts_and_alignments, 0),
    (values.large_sizes, 0),
    (fused_running.confinement, 0),
    (limits.confinement, 0),
    (fused_running.canaries, 0),
    (limits.canaries, 0),
    (fused_running.refusals, 0),
    (limits.refusals, 0),
    (gradients.first_derivatives, 0),
    (gradients.second_derivatives, 0),
    (gradients.finite_differences, 0),
    (values.beside_torch, 0),
    (values.matmul_precision, 0),
    (fused_values.matmul_precision, 0),
    (fused_running.determinism, 0),
    (running.determinism, 0),
    (fused_running.late_inputs, 0),
    (running.streams, 0),
    (fused_running.graphs, 0),
    (running.graphs, 0),
    (running.other_devices, 0),
    (fused_running.compiled, 0),
    (running.compiled, 0),
    (running.mapped, 0),
    (fused_running.autocast, 0),
    (running.autocast, 0),
    (limits.many_batches, 0),
    (limits.large_tensors, 0),
    (fused_values.options_together, 0.05),
    (values.random_sizes, 0.05),
    (tools.sanitizer, 0.3),
)
MAY_BE_ABSENT = ("compute-sanitizer",)  # a check that may not run at all
Say = Callable[[str], None]
TO_BE_CONTINUED = 4


def name_of(check: Check) -> str:
    return f"{check.__module__.rpartition('.')[2]}.{check.__name__}"


class Session:
    """The checks on one device, and the report of as many as were done. With `resume`, those that the folder's results hold are not done
    again, and time that is up ends a piece: the next one goes on with the check that was cut off."""

    def __init__(self, device: torch.device, folder: Path, minutes: float, thorough: bool, seed: int, resume: bool = False) -> None:
        self.device, self.folder, self.minutes = device, folder, minutes
        self.thorough, self.seed, self.resume = thorough, seed, resume
        self.outcomes: dict[str, Outcome] = {}  # by the names of checks
        self.current = self.cut_off = ""
        self.earlier = 0.0  # seconds of earlier pieces
        self.num_checks = 0
        self.machine = devices.describe(device) | {"window_matmul": __version__, "seed": str(seed), "thorough": str(thorough)}
        self.start = time.monotonic()

    def run(self, checks: tuple[tuple[Check, float], ...], say: Say) -> int:
        """Exit status: 0 if everything that must run ran and passed."""
        self.num_checks = len(checks)
        if self.resume and (why_not := self._take_earlier()):
            say(why_not)
            return 2
        clock = threading.Timer(60 * self.minutes, self._time_is_up)
        clock.daemon = True  # a kernel that hangs cannot be interrupted, but left behind
        clock.start()
        try:
            for number, (check, share) in enumerate(checks, 1):
                self.current = name_of(check)
                if self.current in self.outcomes:
                    continue
                self.outcomes[self.current] = outcome = run(check, self.device, self._budget(share))
                say(f"[{number}/{len(checks)}] {line(outcome)}")
                if self.resume:
                    self.write()
        finally:
            clock.cancel()
        self.current = ""
        self.write()
        say(self.verdict())
        return 0 if self.passed else 1

    def _take_earlier(self) -> str:
        """What the folder holds of earlier pieces; or why these are of no use here."""
        path = self.folder / "gpu.json"
        if not path.exists():
            return ""
        earlier = json.loads(path.read_text())
        if different := [
            f"{name}: {earlier['machine'].get(name)}" for name, x in self.machine.items() if earlier["machine"].get(name) != x
        ]:
            return f"{path} is of something else ({', '.join(different)}); remove it, or give another --out"
        known = {field.name for field in fields(Outcome)}
        self.outcomes = {c["check"]: Outcome(**{name: x for name, x in c.items() if name in known}) for c in earlier["checks"]}
        self.cut_off, self.earlier = earlier["cut_off"], earlier["seconds"]
        return ""

    def _budget(self, share: float) -> Budget:
        large = Budget.large if self.thorough else 2**20
        return Budget(seconds=60 * self.minutes * share, thorough=self.thorough, large=large, seed=self.seed)

    @property
    def passed(self) -> bool:
        found = self.outcomes.values()
        return any(o.passed for o in found) and all(o.passed or may_be_left_out(o) for o in found) and len(found) >= self.num_checks

    def verdict(self) -> str:
        found = self.outcomes.values()
        wrong = [o.title for o in found if not o.passed and not may_be_left_out(o)]
        left_out = [f"{o.title}: {text}" for o in found for text in (o.not_run, *o.left_out) if text]
        count = f"{sum(o.cases for o in found)} cases in {len(found)} checks, {self._seconds():.0f} s"
        if self.resume and not wrong and self.current:
            return f"TO BE CONTINUED from {self.current} on ({count} so far)"
        result = "PASSED" if self.passed else f"FAILED: {', '.join(wrong) or 'nothing was run'}"
        return f"{result} ({count}); " + (f"not run: {'; '.join(left_out)}" if left_out else "nothing was left out")

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.start

    def _time_is_up(self) -> None:
        """Of the whole run, or of a piece: a check that has had a piece of its own has failed."""
        goes_on = self.resume and self.current != self.cut_off
        if not goes_on:
            late = Outcome(self.current.rpartition(".")[2])
            late.fail(late.title, f"not done after {self.minutes} minutes in all")
            self.outcomes[self.current] = late
        self.cut_off = self.current if goes_on else ""
        self.write()
        print(self.verdict(), flush=True)
        os._exit(TO_BE_CONTINUED if self.resume else 1)

    def results(self) -> dict[str, Any]:
        return {
            "machine": self.machine | {"date": datetime.datetime.now().isoformat(timespec="seconds")},
            "passed": self.passed,
            "verdict": self.verdict(),
            "seconds": self._seconds(),
            "cut_off": self.cut_off,
            "checks": [asdict(o) | {"check": name, "passed": o.passed} for name, o in self.outcomes.items()],
        }

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        results = self.results()
        (self.folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (self.folder / "gpu.md").write_text(markdown(results))


def may_be_left_out(outcome: Outcome) -> bool:
    return bool(outcome.not_run) and outcome.title in MAY_BE_ABSENT and not outcome.failed


def line(outcome: Outcome) -> str:
    if outcome.not_run:
        return f"{outcome.title}: not run, {outcome.not_run}"
    text = f"{outcome.title}: {outcome.cases} cases, {outcome.numbers} numbers, {outcome.seconds:.1f} s, "
    text += f"{outcome.failed} failed" if outcome.failed else "passed"
    return text + "".join(f"\n    {failure}" for failure in outcome.failures)


def markdown(results: dict[str, Any]) -> str:
    head = (
        "| check | verdict | cases | numbers | failed | worst error | its tolerance | seconds |\n|---|---|---:|---:|---:|---:|---:|---:|\n"
    )
    rows = ""
    for c in results["checks"]:
        verdict = "not run" if c["not_run"] else "passed" if c["passed"] else "**FAILED**"
        errors = f"{c['worst_error']:.2e} | {c['worst_tolerance']:.2e}" if c["worst"] else " | "
        rows += f"| {c['title']} | {verdict} | {c['cases']} | {c['numbers']} | {c['failed']} | {errors} | {c['seconds']:.1f} |\n"
    machine = "".join(f"- {name}: {value}\n" for name, value in results["machine"].items())
    text = f"# Checks of a device\n\n{results['verdict']}\n\n{machine}\n{head}{rows}"
    worst = [f"- {c['title']}: {c['worst']:.0%} of its tolerance, {c['worst_where']}\n" for c in results["checks"] if c["worst"]]
    text += "\n## Nearest to its tolerance\n\n" + "".join(worst) if worst else ""
    left_out = [f"- {c['title']}: {what}\n" for c in results["checks"] for what in (c["not_run"], *c["left_out"]) if what]
    text += "\n## Not run\n\n" + "".join(left_out) if left_out else ""
    notes = [f"- {c['title']}: {note}\n" for c in results["checks"] for note in c["notes"]]
    text += "\n## Notes\n\n" + "".join(notes) if notes else ""
    failures = [f"- {c['title']}: {failure}\n" for c in results["checks"] for failure in c["failures"]]
    return text + ("\n## Failures\n\n" + "".join(failures) if failures else "")


def check_device(name: str, folder: Path, minutes: float, thorough: bool, seed: int, resume: bool = False) -> int:
    device, why_not = devices.find(name)
    if device is None:
        print(f"no checks were run: {why_not}", file=sys.stderr)
        return 3
    return Session(device, folder, minutes, thorough, seed, resume).run(CHECKS, lambda text: print(text, flush=True))


def check_small(name: str) -> int:
    """A few calls of every operator, for tools that make each of them slow."""
    device, why_not = devices.find(name)
    if device is None:
        print(f"no checks were run: {why_not}", file=sys.stderr)
        return 3
    few = (values.under_tools, gradients.under_tools, fused_values.under_tools)
    outcomes = [run(check, device, Budget(seconds=0, thorough=False)) for check in few]
    for outcome in outcomes:
        print(line(outcome), flush=True)
    return 0 if all(outcome.passed for outcome in outcomes) else 1

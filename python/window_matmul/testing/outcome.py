# python/window_matmul/testing/outcome.py: what a check is given, and what it found: how much ran, what failed, how near to its tolerance.
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MOST_MESSAGES = 10  # what is wrong is wrong in many cases


@dataclass(frozen=True)
class Budget:
    """How much a check may do. Everything but random cases runs in any case; those go on until `seconds` have passed."""

    seconds: float = 20.0
    thorough: bool = True  # large sizes, and compilers; without it a check takes seconds on a CPU
    large: int = 2**31 + 2**21  # elements of a tensor whose offsets take more than 32 bits
    seed: int = 0

    def random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@dataclass
class Outcome:
    title: str
    cases: int = 0
    numbers: int = 0  # compared
    failed: int = 0
    failures: list[str] = field(default_factory=list)  # the first few
    worst: float = 0.0  # the largest error over its tolerance
    worst_error: float = 0.0
    worst_tolerance: float = 0.0
    worst_where: str = ""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # parts that could not be run here, and why
    not_run: str = ""  # why nothing could: for tools that a machine may lack

    @property
    def passed(self) -> bool:
        return self.failed == 0 and self.cases > 0

    def fail(self, where: str, what: str) -> None:
        self.failed += 1
        if len(self.failures) < MOST_MESSAGES:
            self.failures.append(f"{where}: {what}")

    def true(self, where: str, condition: bool, what: str) -> None:
        self.cases += 1
        if not condition:
            self.fail(where, what)

    def close(self, where: str, actual: Tensor, exact: Tensor, bound: Tensor | float, dtype: torch.dtype | None = None) -> None:
        """`actual` has this dtype and the shape of `exact`, equals it where that is not finite, and is within `bound` elsewhere."""
        self.cases += 1
        if actual.shape != exact.shape or (dtype is not None and actual.dtype != dtype):
            self.fail(where, f"{actual.dtype} of {tuple(actual.shape)}, expected {dtype} of {tuple(exact.shape)}")
            return
        got, want = actual.detach().to("cpu", torch.float64), exact.detach().to("cpu", torch.float64)
        allowed = torch.as_tensor(bound, dtype=torch.float64).detach().cpu().expand(want.shape)
        self.numbers += want.numel()
        same = got == want
        error = torch.where(same, 0.0, (got - want).abs())
        wrong = ~same & ~(error <= allowed)  # a NaN is wrong too
        self._remember(where, error, allowed)
        if wrong.any():
            at = tuple(int(x) for x in wrong.nonzero()[0])
            text = f"{got[at]:.9g}, expected {want[at]:.9g}, allowed error {allowed[at]:.3g}"
            self.fail(where, f"{int(wrong.sum())} of {wrong.numel()} wrong; first at {at}: {text}")

    def _remember(self, where: str, error: Tensor, allowed: Tensor) -> None:
        """Where an error came nearest to what was allowed."""
        if error.numel() == 0:
            return
        ratio = torch.where(error > 0, error / allowed, 0.0).nan_to_num(torch.inf, torch.inf).flatten()
        at = int(ratio.argmax())
        if float(ratio[at]) > self.worst:
            self.worst, self.worst_where = float(ratio[at]), where
            self.worst_error, self.worst_tolerance = float(error.flatten()[at]), float(allowed.flatten()[at])

    def equal(self, where: str, actual: Tensor, expected: Tensor) -> None:
        """The same bytes."""
        self.cases += 1
        self.numbers += expected.numel()
        a, b = (x.detach().contiguous() for x in (actual, expected))
        if a.shape != b.shape or a.dtype != b.dtype:
            self.fail(where, f"{a.dtype} of {tuple(a.shape)}, expected {b.dtype} of {tuple(b.shape)}")
        elif a.numel() and not torch.equal(a.flatten().view(torch.uint8), b.to(a.device).flatten().view(torch.uint8)):
            different = (a != b.to(a.device)) | a.isnan()
            self.fail(where, f"{int(different.sum())} of {a.numel()} numbers differ")

    def raises(
        self, where: str, kind: type[Exception] | tuple[type[Exception], ...], words: tuple[str, ...], call: Callable[[], Any]
    ) -> None:
        """The call is refused with an error of that kind, whose text has all these words."""
        self.cases += 1
        try:
            call()
        except kind as error:
            missing = [word for word in words if word not in str(error)]
            if missing:
                self.fail(where, f"the error does not say {missing}: {error}")
        except Exception as error:
            self.fail(where, f"{type(error).__name__} instead of {kind}: {error}")
        else:
            self.fail(where, "not refused")


Check = Callable[[torch.device, Budget], Outcome]


def run(check: Check, device: torch.device, budget: Budget) -> Outcome:
    """What the check found; whatever it raises is a failure, and so is having run nothing."""
    start = time.perf_counter()
    try:
        outcome = check(device, budget)
    except Exception as error:
        outcome = Outcome(check.__name__)
        outcome.fail(check.__name__, f"{type(error).__name__}: {error}")
    if outcome.cases == 0 and not outcome.not_run and not outcome.failed:
        outcome.fail(outcome.title, "it ran nothing")
    outcome.seconds = time.perf_counter() - start
    return outcome

# examples/text_lm/cost.py: time and peak memory of each kind of attention, measured in processes of their own.
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from .attention import KINDS
from .model import Shape
from .training import Plan

SHORTEST = 1024
PATIENCE = 20.0  # seconds: a length that would take longer is not run
PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True)
class Cost:
    length: int
    seconds: float
    mebibytes: float  # growth of the process's peak resident memory


@dataclass(frozen=True)
class Curve:
    """The costs of one kind of attention, and why they end where they do."""

    kind: str
    costs: list[Cost]
    ended: str | None = None


def measure_layers(shape: Shape, longest: int, threads: int) -> list[Curve]:
    """One layer of each kind, forward and backward, at lengths that double."""
    return [_measure_kind(kind, shape, longest, threads) for kind in KINDS]


def measure_steps(plan: Plan) -> dict[str, Cost]:
    """A training step of the plan with each kind; those that failed are left out."""
    settings = asdict(plan)
    found = {kind: _probe("step", kind, settings, plan.context, plan.threads) for kind in KINDS}
    return {kind: cost for kind, cost in found.items() if isinstance(cost, Cost)}


def _measure_kind(kind: str, shape: Shape, longest: int, threads: int) -> Curve:
    costs: list[Cost] = []
    length = SHORTEST
    while length <= longest:
        expected = _extrapolated(costs)
        if expected > PATIENCE:
            return Curve(kind, costs, f"not run at L = {length}: about {expected:.0f} s by its own slope")
        found = _probe("layer", kind, asdict(shape) | {"length": length}, length, threads)
        if isinstance(found, str):
            return Curve(kind, costs, found)
        costs.append(found)
        length *= 2
    return Curve(kind, costs)


def _probe(what: str, kind: str, settings: dict[str, object], length: int, threads: int) -> Cost | str:
    """The cost, or why there is none."""
    command = [sys.executable, str(PROBE), what, kind, json.dumps(settings), str(threads)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE)
    except subprocess.TimeoutExpired:
        return f"not finished at L = {length}: more than {5 * PATIENCE:.0f} s"
    if found.returncode != 0:
        return f"failed at L = {length} ({found.stderr.strip().splitlines()[-1:] or found.returncode})"
    return Cost(length, **json.loads(found.stdout))


def _extrapolated(costs: list[Cost]) -> float:
    """Seconds at twice the last length if it grows as it did between the last two."""
    return 0.0 if len(costs) < 2 else costs[-1].seconds ** 2 / costs[-2].seconds

# examples/text_lm/bound.py: the held-out loss a run must reach, and the broken attentions that do not reach it.
from dataclasses import replace

from .training import Plan

BROKEN: dict[str, float] = {}
HELD_OUT_BOUND = 9.0


def for_plan(plan: Plan) -> float | None:
    """The bound is known for the default settings, with any seed and any number of threads."""
    default = Plan()
    return HELD_OUT_BOUND if replace(plan, seed=default.seed, threads=default.threads) == default else None

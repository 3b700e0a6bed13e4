# benchmarks/bar.py: a goal, what was seen, and whether that meets it.
from __future__ import annotations

from typing import NamedTuple


class Bar(NamedTuple):
    goal: str
    seen: str
    met: bool | None  # None: not measured

    @property
    def verdict(self) -> str:
        return "not measured" if self.met is None else "**met**" if self.met else "**missed**"


def at_least(goal: str, needed: float, seen: float | None, form: str = "{:.2f}", note: str = "") -> Bar:
    if seen is None:
        return Bar(goal, "", None)
    return Bar(goal, form.format(seen) + note, seen >= needed)


def at_most(goal: str, allowed: float, seen: float | None, form: str = "{:.1f}", note: str = "") -> Bar:
    if seen is None:
        return Bar(goal, "", None)
    return Bar(goal, form.format(seen) + note, seen <= allowed)

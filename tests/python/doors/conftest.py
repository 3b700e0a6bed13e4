"""tests/python/doors/conftest.py: what the tests of doors say at the end: how far each model is from the peer's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

KEY = "door"


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """A line for the summary; it travels with the report of the test, also from another process."""
    return lambda line: record_property(KEY, line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    lines = sorted({str(line) for report in reports for key, line in getattr(report, "user_properties", []) if key == KEY})
    if lines:
        terminalreporter.section("doors: differences from the peer, as parts of the size of its outputs and gradients")
        for line in lines:
            terminalreporter.write_line(line)

"""tests/python/conftest.py: runs each kernel test on every row of the kernel table that this machine has.

The fixture `backend` is such a row. Tests without it run on each row too: once as the library chooses, then with WINDOW_MATMUL_BACKEND set
to each other row, in the same process: the library reads the variable at each call. Where the user has set it, it is that row for all.
The marker `best_backend` is on tests that are costly or do not depend on the kernel: they run on the best row only. The marker `long` is on
tests that take a processor more than some seconds: files that hold one are begun first, so that none is left over for one process alone.
    pytest tests/python                                     everything
    pytest tests/python --tenth                             the telling tenth: see `pytest_collection_modifyitems`
    WINDOW_MATMUL_BACKEND=cpu.scalar pytest tests/python    one row
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from window_matmul.testing import backends

VARIABLE = "WINDOW_MATMUL_BACKEND"
FORCED = os.environ.get(VARIABLE, "")
ROWS = [FORCED] if FORCED else backends()


def rows_of(module: object, dtype: str = "float32") -> list[str]:
    """Those that can run what this module tests: OPERATOR, where it says so."""
    usable = backends(getattr(module, "OPERATOR", "") or "band_out", dtype)
    return [row for row in ([FORCED] if FORCED else usable) if row in usable]


hypothesis.settings.register_profile(
    "same examples every time",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("same examples every time")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tenth", action="store_true", help="each test once or twice, none that is long")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "best_backend: costly, or independent of the kernel: runs on the best row only")
    config.addinivalue_line("markers", "long: takes a processor more than some seconds: begun first, and left out by --tenth")
    if not config.option.verbose < 0 or config.option.durations is not None or config.option.xmlpath is not None:
        return  # they show or count what is left out
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor":
            plugin.sendevent = functools.partial(tell, plugin.sendevent)


def tell(send: Callable[..., None], name: str, **of_event: Any) -> None:
    """What pytest-xdist's worker says of a test: seven messages, of which two are read where it passes: that it did, and that it is done.
    The others take the process that counts, beside the two that test, a millisecond a test."""
    report = of_event.get("data", {})
    is_read = report.get("when") == "call" or report.get("outcome") != "passed"
    if name not in ("logstart", "logfinish") and (name != "testreport" or is_read):
        send(name, **of_event)


def pytest_report_header() -> str:
    return f"window_matmul rows: {', '.join(ROWS)}" + (f" (from {VARIABLE})" if FORCED else "") + f"; torch {torch.__version__}"


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Rows vary fastest: what is expected of all of them may be computed once."""
    only_best = metafunc.definition.get_closest_marker("best_backend") is not None
    rows = rows_of(metafunc.module)
    of_bf16 = [row for row in rows_of(metafunc.module, "bfloat16") if row not in rows]  # and of nothing else
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", rows[:1] if only_best else of_bf16 + rows, indirect=True)
    elif not only_best:
        others = ["", *(rows if of_bf16 else rows[1:])]
        metafunc.fixturenames.append("another_backend")  # a parameter that no test asks for
        metafunc.parametrize("another_backend", others, ids=lambda row: row or "any row")


def parameters_of(item: pytest.Item) -> dict[str, object]:
    return dict(item.callspec.params) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def is_taken(item: pytest.Item) -> bool:
    """Whether the row runs what this test asks for: a row of bf16 alone, where its parameter says bf16."""
    parameters = parameters_of(item)
    rows = rows_of(getattr(item, "module", None), "bfloat16" if parameters.get("dtype") is torch.bfloat16 else "float32")
    if not rows:
        return False
    return parameters.get("backend", rows[0]) in rows and (parameters.get("another_backend") or rows[-1]) in (*rows[1:], rows[-1])


def is_of_best_row(item: pytest.Item) -> bool:
    parameters = parameters_of(item)
    return all(parameters.get(name, row) == row for name, row in (("backend", ROWS[0]), ("another_backend", "")))


def telling(items: list[pytest.Item]) -> set[pytest.Item]:
    """Each test that is not long, on its best row, with the first and the last of its parameters."""
    of_test: dict[str, list[pytest.Item]] = {}
    for item in items:
        if is_of_best_row(item) and item.get_closest_marker("long") is None:
            of_test.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return {item for of_one in of_test.values() for item in (of_one[0], of_one[-1])}


def pytest_collectstart() -> None:
    """Until all tests are collected: they stay, and need not be looked through for garbage again and again."""
    gc.disable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    builds = Path(__file__).parents[1] / "install"  # of packages, where there are tests of those too
    long = {item.path for item in items if item.get_closest_marker("long") is not None or item.path.parent == builds}
    items[:] = [item for item in items if is_taken(item)]
    items.sort(key=lambda item: item.path not in long)
    if config.getoption("--tenth"):
        chosen = telling(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test draws the same numbers, alone or in any order, on one thread; tests about threads set more. And it runs on its row. No
    fixtures: each takes a test 0.1 ms, as long as most calls of the library."""
    torch.default_generator.manual_seed(20240229)  # torch.manual_seed writes down for each kind of GPU who called it, which takes 2 ms
    torch.set_num_threads(1)
    parameters = parameters_of(item)
    if row := parameters.get("backend") or parameters.get("another_backend"):
        os.environ[VARIABLE] = str(row)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    if FORCED:
        os.environ[VARIABLE] = FORCED
    else:
        os.environ.pop(VARIABLE, None)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The kernel row under test; the library reads the variable at each call."""
    return str(request.param)

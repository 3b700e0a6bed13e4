"""tests/python/conftest.py: runs each kernel test on every row of the kernel table that this machine has.

The fixture `backend` is such a row. Where the user has set WINDOW_MATMUL_BACKEND, it is that row alone, for every test.
The marker `best_backend` is on tests that are costly or do not depend on the kernel: they run on the best row only. So
    pytest tests/python                                                             everything, kernel tests on all rows
    WINDOW_MATMUL_BACKEND=cpu.scalar pytest tests/python -m "not best_backend"      what another row can get wrong, in little time
"""

from __future__ import annotations

import os

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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "best_backend: costly, or independent of the kernel: runs on the best row only")


def pytest_report_header() -> str:
    return f"window_matmul rows: {', '.join(ROWS)}" + (f" (from {VARIABLE})" if FORCED else "") + f"; torch {torch.__version__}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        only_best = metafunc.definition.get_closest_marker("best_backend") is not None
        rows = rows_of(metafunc.module)
        some = [row for row in rows_of(metafunc.module, "bfloat16") if row not in rows]  # of bf16 alone
        metafunc.parametrize("backend", rows[:1] if only_best else some + rows, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A row of bf16 alone runs the tests whose parameter says bf16."""

    def is_taken(item: pytest.Item) -> bool:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        dtype = str(parameters.get("dtype", torch.float32)).removeprefix("torch.")
        return "backend" not in parameters or parameters["backend"] in rows_of(item.module, dtype)

    items[:] = [item for item in items if is_taken(item)]


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel row under test; the library reads the variable at each call."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Each test draws the same numbers, alone or in any order, on one thread; tests about threads set more."""
    torch.manual_seed(20240229)
    torch.set_num_threads(1)

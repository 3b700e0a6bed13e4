"""tests/python/test_docs.py: every example runs: docstrings of the package, and Python blocks of README.md and docs/."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import window_matmul

pytestmark = pytest.mark.best_backend
ROOT = Path(__file__).parents[2]
MODULES = sorted(name for _, name, _ in pkgutil.walk_packages(window_matmul.__path__, "window_matmul.") if not name.endswith("__main__"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:python|py|pycon)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def skip_without_package(error: ImportError) -> None:
    """Where a door says which package it lacks."""
    if "pip install" not in str(error):
        raise error
    pytest.skip(str(error))


def check(module: ModuleType) -> int:
    """Number of examples; a failure says which."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    failed = sum(runner.run(test, out=said.append).failed for test in tests)
    assert not failed, "".join(said)
    return sum(len(test.examples) for test in tests)


@pytest.mark.parametrize("name", ["window_matmul", "window_matmul.__main__", *MODULES])
def test_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        skip_without_package(error)
    check(module)


def test_there_are_examples() -> None:
    for name in ("functional", "window", "testing"):
        assert check(importlib.import_module(f"window_matmul.{name}")) > 0, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is one program: later blocks use what earlier ones made. It runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    text = page.read_text()
    for block in BLOCK.finditer(text):
        line = text[: block.start()].count("\n") + 1
        where = f"{page.relative_to(ROOT)}:{line}"
        if block[1].lstrip().startswith(">>>"):
            said: list[str] = []
            example = doctest.DocTestParser().get_doctest(block[1], names, where, str(page), line)
            result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=said.append, clear_globs=False)
            names.update(example.globs)
            assert not result.failed, "".join(said)
        else:
            try:
                exec(compile("\n" * line + block[1], str(page), "exec"), names)
            except ImportError as error:
                skip_without_package(error)


def test_the_readme_has_an_example_that_uses_the_package() -> None:
    assert any("window_matmul" in block[1] for block in BLOCK.finditer(PAGES[0].read_text()))

"""tests/install/test_sources.py: what the sources promise of their own shape."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = [*(ROOT / "include").rglob("*.hpp"), *(ROOT / "src").rglob("*.[ch]pp")]


@pytest.mark.parametrize("path", sorted((ROOT / "src/cpu/isa").glob("*.cpp")), ids=lambda path: path.stem)
def test_an_instruction_set_is_a_vocabulary_and_a_file_of_25_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 25
    assert (ROOT / "src/cpu/simd" / f"{path.stem}.hpp").is_file()


def test_intrinsics_stay_in_the_vocabularies() -> None:
    users = {path.parent.name for path in CORE if "immintrin.h" in path.read_text() or "_mm256_" in path.read_text()}
    assert users == {"simd"}


def test_the_core_knows_no_torch() -> None:
    assert [path for path in CORE if "#include <torch" in path.read_text()] == []


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_says_path_and_purpose(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"// {path.relative_to(ROOT)}: ") and first.endswith(".")

"""tests/python/doors/test_longformer_document.py: the example in miniature: costs, a picture, and an exit code that equality decides."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples"))

import longformer_document
from longformer_document import main, measure

pytestmark = pytest.mark.best_backend

TINY = ["--length", "160", "--window", "16", "--layers", "1", "--width", "16", "--heads", "2", "--threads", "1", "--repeats", "1"]


def here(kind: str, args: Any, argv: list[str]) -> dict[str, Any]:
    """In this process, where a process for each model would mostly import."""
    return measure(kind, args, args.out)


@pytest.mark.parametrize("part", ["model", "attention"])
def test_results_are_equal_and_drawn(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--out", str(tmp_path), "--part", part], here) == 0
    printed = capsys.readouterr().out
    assert printed.count("check: ") == 4 and "FAILED" not in printed
    assert (tmp_path / "longformer.png").stat().st_size > 10_000


def test_a_model_that_differs_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def narrowed(model: Any) -> Any:
        model.longformer.encoder.layer[0].attention.self.one_sided_attn_window_size -= 1
        return patch(model)

    patch = longformer_document.patch_longformer
    monkeypatch.setattr(longformer_document, "patch_longformer", narrowed)
    assert main([*TINY, "--out", str(tmp_path)], here) == 1
    assert capsys.readouterr().out.count("FAILED: ") == 4


def test_a_text_that_is_too_short_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "short.txt"
    short.write_text("few words")
    assert main([*TINY, "--out", str(tmp_path), "--text", str(short)], here) == 2
    assert "the text has 9 bytes" in capsys.readouterr().err

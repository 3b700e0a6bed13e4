"""tests/python/test_train_text.py: the demo in miniature: it resumes to the same bits, and refuses to claim what does not hold."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import train_text
from text_lm import attention, bound, text, training

pytestmark = pytest.mark.best_backend

STEPS = 6


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20 000 bytes in which no paragraph stands twice."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n\n".join(f"Paragraph {n} counts {n * n} apples and {n * n * n} pears in the garden." for n in range(300)))
    return path


@pytest.fixture
def demo(words: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the demo with a tiny model and a short generated text; gives its exit code."""
    monkeypatch.setattr(train_text, "WRITTEN", 20)
    tiny = ["--text", str(words), "--rows", "2", "--context", "48", "--window", "12", "--layers", "2", "--width", "16", "--heads", "2"]

    def run(out: Path, *more: str) -> int:
        return train_text.main([*tiny, "--steps", str(STEPS), "--threads", "1", "--longest", "0", "--out", str(out), *more])

    return run


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = training.Trainer.train_step

    def step(self: training.Trainer) -> float:
        bits = original(self)
        if self.step == steps:
            signal.raise_signal(signal.SIGINT)
        return bits

    monkeypatch.setattr(training.Trainer, "train_step", step)


def assert_same(one: Any, other: Any) -> None:
    """Equal structures, tensors bit for bit."""
    if isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def test_resumed_run_equals_an_uninterrupted_one(demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(tmp_path / "whole") == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(3, patch)
        assert demo(tmp_path / "parts") == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert torch.load(tmp_path / "parts" / "checkpoint.pt")["step"] == 3
    assert train_text.main(["--resume", "--longest", "0", "--out", str(tmp_path / "parts")]) == 0
    assert_same(torch.load(tmp_path / "parts" / "checkpoint.pt"), torch.load(tmp_path / "whole" / "checkpoint.pt"))
    written = [(tmp_path / part / "report.md").read_text() for part in ("whole", "parts")]
    assert written[0] == written[1]
    assert all((tmp_path / "parts" / picture).stat().st_size > 10_000 for picture in ("loss.png", "bands.png"))


def test_resume_refuses_other_settings_and_other_text(demo: Any, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(tmp_path, "--resume") == 2
    assert "there is no" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(1, patch)
        assert demo(tmp_path) == 130
    assert demo(tmp_path, "--resume", "--seed", "7") == 2
    assert "--seed 7: the run in" in capsys.readouterr().err
    before = words.read_text()
    words.write_text("More. " + before)
    try:
        assert demo(tmp_path, "--resume") == 2
    finally:
        words.write_text(before)
    assert "is not the text" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["scores", "values"])
def test_a_wrong_gradient_ends_the_demo_before_it_trains(
    broken: str, demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = attention.unwindow_matmul

    def half_gradient(x: Tensor) -> Tensor:
        return (x + x.detach()) / 2

    def unwindow_matmul(a: Tensor, v: Tensor, window: tuple[int, int]) -> Tensor:
        return exact(half_gradient(a) if broken == "scores" else a, half_gradient(v) if broken == "values" else v, window)

    monkeypatch.setattr(attention, "unwindow_matmul", unwindow_matmul)
    assert demo(tmp_path) == 1
    assert f"FAILED: gradient of {'q' if broken == 'scores' else 'v'}" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_wrong_output_ends_the_demo(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = attention.window_matmul
    monkeypatch.setattr(attention, "window_matmul", lambda q, k, window: exact(q, k, window).roll(1, dims=-1))
    assert demo(tmp_path) == 1
    assert "FAILED: output" in capsys.readouterr().err


def test_a_loss_above_the_target_ends_the_demo_and_stands_in_the_report(
    demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path, "--target", "0.5") == 1
    assert "bits per byte, 0.500 had to be reached" in capsys.readouterr().err
    assert "**NOT REACHED.**" in (tmp_path / "report.md").read_text()


def test_default_settings_have_a_bound_that_no_broken_attention_reached() -> None:
    assert bound.for_plan(training.Plan(seed=5, threads=1)) == bound.HELD_OUT_BOUND
    assert bound.for_plan(training.Plan(steps=7)) is None
    assert min(bound.BROKEN.values()) > bound.HELD_OUT_BOUND


def test_held_out_text_is_not_in_the_training_text() -> None:
    corpus = text.split(*text.read_text(None))
    learned = bytes(corpus.training.tolist())
    paragraphs = [part for block in corpus.held_out for part in bytes(block.tolist()).split(b"\n\n")[1:-1] if len(part) > 60]
    assert len(paragraphs) > 50
    assert not [part for part in paragraphs if part in learned]


def test_one_byte_floor_is_the_entropy_of_the_next_byte() -> None:
    certain = torch.tensor([list(b"abababab")])
    assert text.one_byte_floor(certain) == 0.0
    even_odds = torch.tensor([list(b"aabba")])  # aa, ab, bb, ba: one bit each
    assert text.one_byte_floor(even_odds) == pytest.approx(1.0)


def test_bad_options_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_text.main(["--steps", "0"])
    assert "--steps: got 0, needs at least 1" in capsys.readouterr().err
    assert train_text.main(["--text", "/no/such/file"]) == 2
    assert "/no/such/file" in capsys.readouterr().err

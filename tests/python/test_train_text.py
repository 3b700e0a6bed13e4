"""tests/python/test_train_text.py: the demo in miniature: it resumes to the same bits, and refuses to claim what does not hold."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import train_text
from text_lm import attention, bound, broken, checks, cost, model, pictures, text, training, writing

from window_matmul import RollingCache

pytestmark = [pytest.mark.best_backend, pytest.mark.long]

STEPS = 6
SPEED = re.compile(r"[\d,]+ bytes/s")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20 000 bytes in which no paragraph stands twice."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n\n".join(f"Paragraph {n} counts {n * n} apples and {n * n * n} pears in the garden." for n in range(300)))
    return path


@pytest.fixture(scope="module")
def demo(words: Path) -> Iterator[Any]:
    """Runs the demo with a tiny model and a short generated text; gives its exit code."""
    tiny = ["--text", str(words), "--rows", "2", "--context", "48", "--window", "12", "--layers", "2", "--width", "16", "--heads", "2"]

    def run(out: Path, *more: str) -> int:
        return train_text.main([*tiny, "--steps", str(STEPS), "--threads", "1", "--longest", "0", "--out", str(out), *more])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_text, "WRITTEN", 20)
        yield run


@pytest.fixture(scope="module")
def whole(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole")
    assert demo(out) == 0
    return out


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


def test_resumed_run_equals_an_uninterrupted_one(demo: Any, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(3, patch)
        assert demo(tmp_path) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 3
    assert train_text.main(["--resume", "--longest", "0", "--out", str(tmp_path)]) == 0
    assert_same(torch.load(tmp_path / "checkpoint.pt"), torch.load(whole / "checkpoint.pt"))
    reports = [SPEED.sub("", (folder / "report.md").read_text()) for folder in (whole, tmp_path)]
    assert reports[0] == reports[1]
    assert all((tmp_path / picture).stat().st_size > 10_000 for picture in ("loss.png", "bands.png"))


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


@pytest.mark.parametrize("kind", attention.KINDS)
def test_every_kind_of_attention_passes_the_checks(kind: str) -> None:
    findings = checks.check_attention(attention.KINDS[kind](left=20), 20, 16, ("float32", "bfloat16"))
    assert len(findings) == 32
    assert {f.against for f in findings} == {"dense attention", "the explicit pair"}


@pytest.mark.parametrize("fault", broken.FAULTS)
def test_the_checks_see_every_fault(fault: str) -> None:
    failed = broken.failed_check(broken.FAULTS[fault], 20, 16)
    assert failed is not None
    gradient = next((f"gradient of {name}" for name in "qkv" if "gradient" in fault and f" {name}" in fault), "output")
    assert failed.startswith(gradient)


@pytest.mark.parametrize("operand", [0, 2])
def test_a_wrong_gradient_ends_the_demo_before_it_trains(
    operand: int, demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = attention.window_attention

    def window_attention(*args: Any) -> Any:
        halved = [(x + x.detach()) / 2 if place == operand else x for place, x in enumerate(args)]
        return exact(*halved)

    monkeypatch.setattr(attention, "window_attention", window_attention)
    assert demo(tmp_path) == 1
    assert f"FAILED: gradient of {'qkv'[operand]}" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("kind", ["fused", "explicit"])
def test_a_wrong_output_ends_the_demo(
    kind: str, demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "fused":
        exact = attention.window_attention
        monkeypatch.setattr(attention, "window_attention", lambda q, k, v, window: exact(q, k, v, (window[0] - 1, 0)))
    else:
        scores = attention.window_matmul
        monkeypatch.setattr(attention, "window_matmul", lambda q, k, window: scores(q, k, window).roll(1, dims=-1))
    assert demo(tmp_path, "--attention", kind) == 1
    assert "FAILED: output" in capsys.readouterr().err


def test_a_cache_that_forgets_ends_the_demo(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_key_short(*sizes: Any, **others: Any) -> RollingCache:
        *others_before, (left, right) = sizes
        return RollingCache(*others_before, (left - 1, right), **others)

    monkeypatch.setattr(model, "RollingCache", one_key_short)
    assert demo(tmp_path) == 1
    assert "FAILED: logits from the rolling caches" in capsys.readouterr().err


def test_explicit_attention_learns_the_same(demo: Any, whole: Path, tmp_path: Path) -> None:
    assert demo(tmp_path, "--attention", "explicit") == 0
    ends = [torch.load(folder / "checkpoint.pt")["losses"] for folder in (whole, tmp_path)]
    torch.testing.assert_close(*(torch.tensor(losses) for losses in ends), rtol=1e-3, atol=0)  # six steps of float32
    assert "`window_matmul -> window_softmax -> unwindow_matmul`" in (tmp_path / "report.md").read_text()


def test_attention_in_bf16_learns_the_same(demo: Any, whole: Path, tmp_path: Path) -> None:
    assert demo(tmp_path, "--dtype", "bf16") == 0
    ends = [torch.load(folder / "checkpoint.pt") for folder in (whole, tmp_path)]
    losses, held_out = ([end[name] for end in ends] for name in ("losses", "held_out"))
    assert losses[0][1:] != losses[1][1:]  # at the first step a block passes nothing on
    (_, single), (_, half) = (all_of_one[-1] for all_of_one in held_out)
    assert half == pytest.approx(single, rel=0.01)
    assert all(weight.dtype == torch.float32 for weight in ends[1]["model"].values())
    report = (tmp_path / "report.md").read_text()
    assert "| dtype | bf16 |" in report and "allowed in bfloat16" in report


def test_half_the_heads_begin_by_looking_near() -> None:
    torch.manual_seed(0)
    fresh = model.LanguageModel(model.Shape(layers=1, width=64, heads=4, window=255))
    (band,) = pictures.attention_bands(fresh, torch.randint(0, 256, (512,)))
    near = band[:, 256:, -10:].sum(dim=-1).mean(dim=-1)  # weight of the last ten bytes where every window is full, a head
    assert near[:2].min() > 3 * near[2:].max()


def test_writing_from_the_cache_equals_recomputing() -> None:
    torch.manual_seed(0)
    small = model.LanguageModel(model.Shape(layers=2, width=16, heads=2, window=7)).double()
    torch.nn.init.normal_(small.head.weight)
    written = writing.write(small, b"The ", 40, 1.0, seed=3)
    generator = torch.Generator().manual_seed(3)
    text = bytearray(b"The ")
    with torch.inference_mode():
        while len(text) < 44:
            chances = torch.softmax(small(writing.as_tokens(text))[0, -1], dim=-1)
            text.append(int(torch.multinomial(chances, 1, generator=generator)))
    assert written.text == text
    assert written.cache_bytes == 2 * 2 * (7 + 1) * 16 * 8  # layers, keys and values, slots, width, bytes


def test_costs_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "KINDS", {"fused": attention.FusedAttention})  # each measurement starts a process
    plan = training.Plan(context=64, window=12, layers=1, width=16, heads=2, threads=1)
    (step,) = cost.measure_steps(plan).values()
    (curve,) = cost.measure_layers(plan.shape, cost.SHORTEST, threads=1)
    assert curve.ended is None and [c.length for c in curve.costs] == [cost.SHORTEST]
    assert step.seconds > 0 and curve.costs[0].seconds > 0
    others = [cost.Curve(kind, curve.costs, "ended") for kind in ("explicit", "dense")]
    pictures.cost_curves(tmp_path / "cost.png", [curve, *others], plan.window)
    assert (tmp_path / "cost.png").stat().st_size > 10_000


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

#!/usr/bin/env python3
# examples/train_text.py: trains a byte-level language model with windowed attention on real text, and reports on it.
import argparse
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from text_lm import bound, checks, cost, pictures, report
from text_lm.attention import BandAttention
from text_lm.model import generate
from text_lm.text import Corpus, one_byte_floor, read_text, split
from text_lm.training import Plan, Stopped, Trainer, stored_plan

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "The "
WRITTEN = 600  # bytes of generated text
TEMPERATURE = 0.6
HELP = {
    "text": "a file to learn from (default: CPython's own documentation)",
    "steps": "training steps",
    "rows": "sequences in a batch",
    "context": "bytes in a sequence",
    "window": "bytes before its own that a query sees",
    "layers": "layers",
    "width": "model width",
    "heads": "attention heads",
    "seed": "seed of the weights and batches",
    "threads": "torch threads",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a byte-level language model with windowed attention; write a report with pictures.")
    plan = parser.add_argument_group("settings of the run (--resume takes them from the checkpoint)")
    for setting in fields(Plan):
        default = "" if setting.default in (None, MISSING) else f" (default: {setting.default})"
        kind = str if setting.name == "text" else positive
        plan.add_argument(f"--{setting.name}", type=kind, default=argparse.SUPPRESS, help=HELP[setting.name] + default)
    parser.add_argument("--resume", action="store_true", help="continue the run whose checkpoint is in the output folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="folder of report, pictures and checkpoint (default: demo)")
    parser.add_argument("--target", type=float, help="held-out bits per byte that must be reached (default settings have one of their own)")
    parser.add_argument("--longest", type=int, default=16384, help="longest sequence of the cost measurement, 0 for none (default: 16384)")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, needs at least 1")
    return value


def prepare(args: argparse.Namespace, checkpoint: Path) -> Trainer:
    """A fresh trainer, or the one that the checkpoint continues."""
    given: dict[str, Any] = {setting.name: getattr(args, setting.name) for setting in fields(Plan) if setting.name in args}
    if not args.resume:
        plan = Plan(**given)
    elif not checkpoint.exists():
        raise ValueError(f"--resume: there is no {checkpoint}; start without --resume")
    else:
        plan = stored_plan(checkpoint)
        for name, value in given.items():
            if value != getattr(plan, name):
                raise ValueError(
                    f"--{name} {value}: the run in {checkpoint} was begun with {getattr(plan, name)}; leave the option out to resume"
                )
    torch.set_num_threads(plan.threads)
    trainer = Trainer(plan, split(*read_text(plan.text)))
    if args.resume:
        trainer.load(checkpoint)
    return trainer


def run(args: argparse.Namespace) -> None:
    checkpoint = args.out / "checkpoint.pt"
    trainer = prepare(args, checkpoint)
    plan, corpus = trainer.plan, trainer.corpus
    print(f"text: {corpus.name}, {len(corpus.training):,} bytes to learn from, {corpus.held_out.numel():,} held out")
    print(f"model: {plan.layers} layers, width {plan.width}, {plan.heads} heads, window ({plan.window}, 0), {plan.threads} threads")
    findings = checks.check_attention(BandAttention(plan.window), plan.window, plan.heads, plan.width // plan.heads)
    say("attention", findings)
    trainer.train(checkpoint)
    findings += checks.check_model(trainer.model, corpus.held_out[0, : 3 * plan.window])
    say("trained model", findings[-3:])
    results = finish(args, trainer, findings)
    print(f"\n{results.prompt}{results.written}\n")
    claim(results)
    print(f"report: {args.out / 'report.md'}")


def finish(args: argparse.Namespace, trainer: Trainer, findings: list[checks.Finding]) -> report.Results:
    """Generates, measures, draws and writes the report."""
    plan, corpus = trainer.plan, trainer.corpus
    written = generate(trainer.model, PROMPT.encode(), WRITTEN, TEMPERATURE, torch.Generator().manual_seed(plan.seed))
    if args.longest:
        print(f"measuring time and memory of one layer up to L = {args.longest}")
    results = report.Results(
        trainer=trainer,
        findings=findings,
        one_byte_floor=one_byte_floor(corpus.held_out),
        bound=args.target if args.target is not None else bound.for_plan(plan),
        prompt=PROMPT,
        written=printable(written),
        curves=cost.measure_all(plan.shape, args.longest, plan.threads) if args.longest else [],
    )
    levels = {"best predictor that sees one byte": results.one_byte_floor}
    if results.bound is not None:
        levels["bound to reach"] = results.bound
    pictures.loss_curve(args.out / "loss.png", trainer.losses, trainer.held_out, plan.tokens_per_step, levels)
    pictures.band_picture(args.out / "bands.png", trainer.model, *sentence(corpus, plan.window))
    if results.curves:
        pictures.cost_curves(args.out / "cost.png", results.curves, plan.window)
    report.write_report(args.out / "report.md", results)
    return results


def sentence(corpus: Corpus, window: int) -> tuple[torch.Tensor, int]:
    """(bytes up to its end, its length) of the first held-out sentence of 50 to 64 bytes with a whole window before it."""
    for block in corpus.held_out:
        for found in re.finditer(rb"(?<=\s)[A-Z][a-z, \n]{48,62}\.", bytes(block.tolist())):
            if found.start() >= window:
                return block[: found.end()], found.end() - found.start()
    return corpus.held_out[0], 56


def printable(produced: bytes) -> str:
    """No control characters: the text goes to a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "□" for c in produced.decode(errors="replace"))


def say(what: str, findings: list[checks.Finding]) -> None:
    worst = max(findings, key=lambda finding: finding.error / finding.bound)
    print(f"check: {what} agrees with dense attention in {len(findings)} comparisons")
    print(f"       tightest: {worst.what}, relative error {worst.error:.1e}, allowed {worst.bound:.1e}")


def claim(results: report.Results) -> None:
    if results.bound is None:
        print(f"held-out: {results.held_out:.3f} bits per byte (no bound is stated for these settings)")
    elif not results.held_out < results.bound:
        raise checks.CheckFailed(f"held-out text costs {results.held_out:.3f} bits per byte, {results.bound:.3f} had to be reached")
    else:
        print(f"check: held-out {results.held_out:.3f} bits per byte < {results.bound:.3f}")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        run(args)
    except checks.CheckFailed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"train_text.py: {error}", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt):
        print("\nstopped; the run is saved, --resume goes on with it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

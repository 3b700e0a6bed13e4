#!/usr/bin/env python3
# examples/train_text.py: trains a byte-level language model with windowed attention on real text, and reports on it.
import argparse
import re
import sys
from pathlib import Path

import torch
from text_lm import bound, checks, cost, pictures, report
from text_lm.attention import KINDS
from text_lm.model import narrowed
from text_lm.options import add_plan, new_plan, resumed_plan
from text_lm.text import Corpus, one_byte_floor, read_text, split
from text_lm.training import Plan, Stopped, Trainer, stored_plan
from text_lm.writing import write

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "The "
WRITTEN = 1200  # bytes of generated text: more than a window
TEMPERATURE = 0.6
NARROWER = 8  # the report also says what the model needs with an eighth of its window


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a byte-level language model with windowed attention; write a report with pictures.")
    add_plan(parser, Plan)
    parser.add_argument("--resume", action="store_true", help="continue the run whose checkpoint is in the output folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="folder of report, pictures and checkpoint (default: demo)")
    parser.add_argument("--target", type=float, help="held-out bits per byte that must be reached (default settings have one of their own)")
    parser.add_argument("--longest", type=int, default=8192, help="longest sequence of the cost measurement, 0 for none (default: 8192)")
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace, checkpoint: Path) -> Trainer:
    """A fresh trainer, or the one that the checkpoint continues."""
    if not args.resume:
        plan = new_plan(args, Plan)
    elif not checkpoint.exists():
        raise ValueError(f"--resume: there is no {checkpoint}; start without --resume")
    else:
        plan = resumed_plan(args, stored_plan(checkpoint), checkpoint)
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
    checked = ("float32", "bfloat16") if plan.dtype == "bf16" else ("float32",)
    of_attention = checks.check_attention(KINDS[plan.attention](plan.window), plan.window, plan.shape.head_dim, checked)
    say("attention", of_attention)
    trainer.train(checkpoint)
    of_model = checks.check_model(trainer.model, corpus.held_out[0, : plan.window + checks.BEYOND])
    say("trained model", of_model)
    results = finish(args, trainer, of_attention, of_model)
    print(f"\n{report.printable(results.writing.text)}\n")
    claim(results)
    print(f"report: {args.out / 'report.md'}")


def finish(
    args: argparse.Namespace, trainer: Trainer, of_attention: list[checks.Finding], of_model: list[checks.Finding]
) -> report.Results:
    """Generates, measures, draws and writes the report."""
    plan, corpus = trainer.plan, trainer.corpus
    narrow = plan.window // NARROWER
    writing = write(trainer.model, PROMPT.encode(), WRITTEN, TEMPERATURE, plan.seed)
    if args.longest:
        print(f"measuring time and memory of a training step, and of one layer up to L = {args.longest}")
    results = report.Results(
        trainer=trainer,
        of_attention=of_attention,
        of_model=of_model,
        one_byte_floor=one_byte_floor(corpus.held_out),
        bound=args.target if args.target is not None else bound.for_plan(plan),
        narrow=(narrow, trainer.evaluate(narrowed(trainer.model, narrow))),
        writing=writing,
        steps=cost.measure_steps(plan) if args.longest else {},
        curves=cost.measure_layers(plan.shape, args.longest, plan.threads) if args.longest else [],
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


def say(what: str, findings: list[checks.Finding]) -> None:
    worst = max(findings, key=lambda finding: finding.error / finding.bound)
    others = "".join(f" and {against}" for against in dict.fromkeys(f.against for f in findings) if against != "dense attention")
    print(f"check: {what} holds in {len(findings)} comparisons with dense attention{others}")
    print(f"       tightest: {worst}, relative error {worst.error:.1e}, allowed {worst.bound:.1e}")


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

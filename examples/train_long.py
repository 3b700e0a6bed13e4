#!/usr/bin/env python3
# examples/train_long.py: trains the language model of train_text.py on long sequences, each cut along its length over processes.
"""torchrun --nproc-per-node 4 examples/train_long.py [--data-parallel 2] [--fsdp] [--resume]

Without torchrun it is one process. Whatever their number, the batches are the same, and so are the losses but for rounding: a run may be
resumed on another number of processes. OMP_NUM_THREADS says how many threads each has; torchrun makes it 1.
"""

import argparse
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

from long_lm import report
from long_lm.ranks import RankLost, Ranks, joined
from long_lm.traffic import resident_peak
from long_lm.trainer import LongPlan, LongTrainer, stored_plan
from text_lm.options import add_plan, new_plan, positive, resumed_plan
from text_lm.text import read_text, split
from text_lm.training import Stopped

ROOT = Path(__file__).resolve().parents[1]
OF_THE_PROCESS = ("threads", "attention", "dtype")  # settings of train_text.py that no option gives here


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_plan(parser, LongPlan, without=OF_THE_PROCESS)
    parser.add_argument("--data-parallel", type=positive, default=1, metavar="D", help="processes that share the rows out; the others cut")
    parser.add_argument(
        "--fsdp", action="store_true", help="weights sharded over the data-parallel processes (FSDP2), not replicated (DDP)"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in the output folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "long", help="folder of report and checkpoints (default: demo/long)")
    parser.add_argument("--compare-with", type=Path, metavar="DIR", help="output folder of another run of these settings, for the report")
    parser.add_argument("--timeout", type=positive, default=60, help="seconds to wait for another process (default: 60)")
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace, ranks: Ranks) -> LongTrainer:
    """A fresh trainer, or the one that the checkpoint continues."""
    checkpoints = args.out / "checkpoint"
    plan = resumed_plan(args, stored_plan(checkpoints), checkpoints) if args.resume else new_plan(args, LongPlan)
    trainer = LongTrainer(plan, split(*read_text(plan.text)), ranks, args.fsdp)
    if args.resume:
        trainer.load(checkpoints)
    return trainer


def run(args: argparse.Namespace, ranks: Ranks) -> None:
    trainer = prepare(args, ranks)
    other = report.stored_summary(args.compare_with, trainer.plan) if args.compare_with else None
    first = ranks.rank == 0
    if first:
        plan, corpus = trainer.plan, trainer.corpus
        print(f"text: {corpus.name}, {len(corpus.training):,} bytes to learn from, {corpus.held_out.numel():,} held out")
        print(f"{ranks.size('sequence')} x {ranks.size('data')} processes (sequence x data), {plan.rows} x {plan.context} bytes a step")
    trainer.train(args.out / "checkpoint", quiet=not first)
    summary = report.Summary(
        plan=asdict(trainer.plan),
        ranks=(ranks.size("sequence"), ranks.size("data")),
        weights="sharded" if args.fsdp else "replicated",
        losses=trainer.losses,
        held_out=trainer.held_out,
        given=ranks.gathered(dict(trainer.given)),
        peaks=ranks.gathered(resident_peak()),
        seconds=statistics.median(trainer.seconds or [0.0]),
    )
    if first:
        report.write(args.out, summary, other)
        print(f"held-out: {summary.held_out[-1][1]:.4f} bits per byte")
        print(f"report: {args.out / 'report.md'}")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        with joined(args.data_parallel, args.timeout) as ranks:
            run(args, ranks)
    except RankLost as lost:
        print(f"train_long.py: {lost}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"train_long.py: {error}", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt):
        print("\nstopped; --resume goes on from the newest checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

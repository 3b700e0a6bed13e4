# examples/text_lm/options.py: a plan's settings as options of a command, and the plan that they and a checkpoint make.
import argparse
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from .training import Plan

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
    "attention": "what trains: the fused operator, or the explicit pair, which stores the scores",
    "dtype": "of attention; bf16: under autocast, weights stay in fp32",
    "weights": "dtype of weights and activations",
}
CHOICES = {"attention": ("fused", "explicit"), "dtype": ("fp32", "bf16"), "weights": ("float32", "float64")}
P = TypeVar("P", bound=Plan)


def add_plan(parser: argparse.ArgumentParser, kind: type[Plan], without: tuple[str, ...] = ()) -> None:
    plan = parser.add_argument_group("settings of the run (--resume takes them from the checkpoint)")
    for setting in fields(kind):
        if setting.name not in without:
            default = "" if setting.default in (None, MISSING) else f" (default: {setting.default})"
            choices = CHOICES.get(setting.name)
            read = str if choices or setting.name == "text" else positive
            plan.add_argument(f"--{setting.name}", type=read, choices=choices, default=argparse.SUPPRESS, help=HELP[setting.name] + default)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, needs at least 1")
    return value


def new_plan(args: argparse.Namespace, kind: type[P]) -> P:
    return kind(**_given(args, kind))


def resumed_plan(args: argparse.Namespace, stored: P, checkpoint: Path) -> P:
    """The stored one; an option that says otherwise is refused."""
    for name, value in _given(args, type(stored)).items():
        if value != getattr(stored, name):
            raise ValueError(
                f"--{name} {value}: the run in {checkpoint} was begun with {getattr(stored, name)}; leave the option out to resume"
            )
    return stored


def _given(args: argparse.Namespace, kind: type[Plan]) -> dict[str, Any]:
    return {setting.name: getattr(args, setting.name) for setting in fields(kind) if setting.name in args}

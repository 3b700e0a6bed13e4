# examples/long_lm/report.py: what a run over ranks has to tell: a summary to compare with, a picture, and a page.
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from text_lm.pictures import DENSE, OURS, STYLE
from text_lm.training import Plan

import window_matmul

from .traffic import HALOS
from .trainer import LongPlan

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Summary:
    plan: dict[str, object]
    ranks: tuple[int, int]  # over the sequence, over the data
    weights: str  # "replicated" or "sharded"
    losses: list[float]  # bits per byte of each step
    held_out: list[tuple[int, float]]
    given: list[dict[str, int]]  # bytes that each rank gave to torch.distributed in one step
    peaks: list[int]  # bytes of memory of each rank
    seconds: float  # of a step, the median

    @property
    def processes(self) -> str:
        count = self.ranks[0] * self.ranks[1]
        return "one process" if count == 1 else f"{count} processes"

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).write_text(json.dumps(asdict(self), indent=1) + "\n")


def stored_summary(folder: Path, plan: Plan) -> Summary:
    """Of another run of this plan, on whatever threads."""
    found = Summary(**json.loads((folder / SUMMARY).read_text()))
    for name, value in asdict(plan).items():
        if name != "threads" and value != found.plan[name]:
            raise ValueError(f"--compare-with {folder}: that run had --{name} {found.plan[name]}, this one has {value}")
    return found


def differences(ours: Summary, other: Summary) -> list[float]:
    """Of the losses, step by step."""
    return [abs(a - b) for a, b in zip(ours.losses, other.losses, strict=False)]


def draw(path: Path, ours: Summary, other: Summary | None) -> None:
    """Loss over steps, the other run's behind it; below them how far they are apart."""
    runs = [(other, DENSE, 4.0), (ours, OURS, 1.5)]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            2 if other else 1, 1, figsize=(8, 6 if other else 4), sharex=True, squeeze=False, layout="constrained"
        )
        upper = panels[0, 0]
        for run, colour, width in runs:
            if run is not None:
                steps = np.arange(1, len(run.losses) + 1)
                upper.plot(steps, run.losses, color=colour, linewidth=width, label=f"{run.processes}, training batches")
                upper.plot(
                    *zip(*run.held_out, strict=True), "o", color=colour, markersize=3 * width, label=f"{run.processes}, held-out text"
                )
        upper.set(ylabel="bits per byte")
        upper.legend(frameon=False)
        if other is not None:
            apart = differences(ours, other)
            panels[1, 0].semilogy(np.arange(1, len(apart) + 1), apart, "o", color=OURS, markersize=3)  # a difference of 0 is not drawn
            panels[1, 0].set(ylabel="difference, bits per byte")
        panels[-1, 0].set(xlabel="step")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def write(folder: Path, ours: Summary, other: Summary | None) -> None:
    ours.write(folder)
    draw(folder / "loss.png", ours, other)
    (folder / "report.md").write_text("\n\n".join((_learning(ours, other), _cost(ours, other), _settings(ours))) + "\n")


def _learning(ours: Summary, other: Summary | None) -> str:
    sequence, data = ours.ranks
    rows, context = ours.plan["rows"], ours.plan["context"]
    against = ""
    if other is not None:
        apart = differences(ours, other)
        against = (
            f"\n\n{other.processes.capitalize()} ended at {other.held_out[-1][1]:.4f}. The losses of the first two steps differ by at most "
            f"{max(apart[:2]):.1e}, those of any step by at most {max(apart):.1e} bits per byte: sums in another order."
        )
    return f"""# One long text over {ours.processes}

Each sequence of {context} bytes is cut into {sequence} along its length, the {rows} of a batch are shared out among {data}; weights are
{ours.weights}. A query sees its own byte and the {ours.plan["window"]} before it, also where another process holds them.

![loss](loss.png)

After {len(ours.losses)} steps held-out text costs **{ours.held_out[-1][1]:.4f} bits per byte**.{against}"""


def _cost(ours: Summary, other: Summary | None) -> str:
    kinds = sorted({kind for given in ours.given for kind in given})
    lines = [f"| {kind} | {sum(given.get(kind, 0) for given in ours.given):,} |" for kind in kinds]
    runs = [ours] + ([other] if other else [])
    costs = [f"| {run.processes} | {run.seconds * 1e3:,.0f} | {max(run.peaks) / 2**20:,.0f} |" for run in runs]
    table = "\n".join(lines)
    return f"""## What travelled
Bytes that all processes together gave to torch.distributed in one step:

| what | bytes |
|---|---:|
{table}

{_gathered(ours)}

## Time and memory
| | a step, ms | largest process, MiB |
|---|---:|---:|
{chr(10).join(costs)}

Peaks of whole processes: Python, torch, weights and activations. Processes of one machine share its cores."""


def _gathered(ours: Summary) -> str:
    """What another way would have moved."""
    plan, (sequence, _) = LongPlan(**ours.plan), ours.ranks  # type: ignore[arg-type]
    if sequence == 1:
        return "The sequence is in one piece: nothing travels for attention."
    itemsize = getattr(torch, plan.weights).itemsize
    whole = 2 * 2 * plan.layers * plan.tokens_per_step * plan.width * itemsize * (sequence - 1)
    halos = sum(given.get(HALOS, 0) for given in ours.given)
    return (
        f"Gathering all keys and values on every process, and adding their gradients up again, would move {whole:,} bytes for attention: "
        f"{whole / halos:.1f} times as many."
    )


def _settings(ours: Summary) -> str:
    lines = "\n".join(f"| {name} | {value} |" for name, value in ours.plan.items())
    return f"""## Settings
window_matmul {window_matmul.__version__}, torch {torch.__version__}, Python {platform.python_version()}

| setting | value |
|---|---|
{lines}"""

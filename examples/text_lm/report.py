# examples/text_lm/report.py: the demo's report in Markdown.
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import window_matmul

from .bound import BROKEN
from .checks import Finding
from .cost import Curve
from .training import Trainer


@dataclass(frozen=True)
class Results:
    """What a finished run has to tell."""

    trainer: Trainer
    findings: list[Finding]
    one_byte_floor: float
    bound: float | None  # held-out bits per byte that had to be reached; None: nothing was claimed
    prompt: str
    written: str
    curves: list[Curve]

    @property
    def held_out(self) -> float:
        return self.trainer.held_out[-1][1]


def write_report(path: Path, results: Results) -> None:
    sections = (_learning, _writing, _bands, _cost, _checks, _settings)
    path.write_text("\n\n".join(section(results) for section in sections) + "\n", encoding="utf-8")


def _learning(results: Results) -> str:
    trainer, plan = results.trainer, results.trainer.plan
    blocks = trainer.corpus.held_out
    if results.bound is None:
        verdict = "No bound is stated for these settings, so nothing is claimed; the default settings have one."
    else:
        verdict = f"To reach: below {results.bound:.2f}. **{'Reached.' if results.held_out < results.bound else 'NOT REACHED.'}**"
    broken = "\n".join(f"| {name} | {bits:.3f} |" for name, bits in BROKEN.items())
    return f"""# A language model with windowed attention

A decoder of {plan.layers} layers learned {trainer.corpus.name} byte by byte.
Every query sees its own byte and the {plan.window} before it, through `window_matmul -> window_softmax -> unwindow_matmul`.

## Learning
![bits per byte on held-out text](loss.png)

After {plan.steps} steps of {plan.tokens_per_step} bytes, held-out text costs **{results.held_out:.3f} bits per byte**. {verdict}
It is {blocks.numel():,} bytes in {len(blocks)} blocks that were never trained on, and no paragraph of the text stands in it twice.

The best predictor that sees the current byte alone, fitted on the held-out text itself, needs {results.one_byte_floor:.3f} bits:
no model whose attention passes nothing on gets below that. Measured with the default settings, the same model ends at:

| attention | held-out bits per byte |
|---|---|
{broken}"""


def _writing(results: Results) -> str:
    return f"""## What it writes
The prompt is `{results.prompt}`; then one query at a time attends to the cached keys.
```text
{(results.prompt + results.written).replace("```", "'''")}
```"""


def _bands(results: Results) -> str:
    return """## What each head looks at
The attention weights of a held-out sentence as the operators return them: a row for each query, a column for each slot of its window.
The last column is the query's own byte. In the large panels each cell shows the byte that stands there (`·` a space, `↵` a line break)
and its colour how much of the query's attention it gets.

![attention bands](bands.png)"""


def _cost(results: Results) -> str:
    if not results.curves:
        return "## Cost of one layer\nNot measured in this run (`--longest 0`)."
    plan = results.trainer.plan
    rows = [f"| {c.kind} | {cost.length} | {cost.seconds * 1e3:.1f} | {cost.mebibytes:.0f} |" for c in results.curves for cost in c.costs]
    ends = [f"{curve.kind}: {curve.ended}." for curve in results.curves if curve.ended]
    return "\n".join(
        [
            "## Cost of one layer",
            "![time and memory](cost.png)",
            "",
            "Forward and backward of one attention layer of this model (projections, rotary positions, attention); batch 1,",
            f"{plan.heads} heads of {plan.width // plan.heads}, {plan.threads} threads. Each row was measured in a process of its own.",
            "Memory is the growth of the process's peak. It includes the dense mask; the time does not include making that mask.",
            *ends,
            "",
            "| attention | L | ms | MiB |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _checks(results: Results) -> str:
    rows = "\n".join(f"| {f.what} | {f.error:.1e} | {f.bound:.1e} | {f.reason} |" for f in results.findings)
    return f"""## Checks
Against dense attention in double precision; the error is the length of the difference over the length of the expected.

| quantity | error | allowed | because |
|---|---|---|---|
{rows}"""


def _settings(results: Results) -> str:
    settings = "\n".join(f"| {name} | {value} |" for name, value in asdict(results.trainer.plan).items())
    return f"""## Settings
window_matmul {window_matmul.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {_processor()}

| setting | value |
|---|---|
{settings}"""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())

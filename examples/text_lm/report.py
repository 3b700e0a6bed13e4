# examples/text_lm/report.py: the demo's report in Markdown.
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import window_matmul

from .bound import BROKEN
from .checks import EXACT, IN_DTYPE, RECOMPUTED, SAME_SUMS, Finding
from .cost import Cost, Curve
from .pictures import NAMES
from .training import Trainer
from .writing import Writing

COMPUTED_BY = {
    "fused": "`window_attention`, which never stores the scores",
    "explicit": "`window_matmul -> window_softmax -> unwindow_matmul`, with the scores as a tensor",
}


@dataclass(frozen=True)
class Results:
    """What a finished run has to tell."""

    trainer: Trainer
    of_attention: list[Finding]
    of_model: list[Finding]
    one_byte_floor: float
    bound: float | None  # held-out bits per byte that had to be reached; None: nothing was claimed
    narrow: tuple[int, float]  # a shorter window, and the held-out bits per byte with it in the same model
    writing: Writing
    steps: dict[str, Cost]  # a training step with each kind of attention; empty: not measured
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
Every query sees its own byte and the {plan.window} before it, through {COMPUTED_BY[plan.attention]}.

## Learning
![bits per byte on held-out text](loss.png)

After {plan.steps} steps of {plan.tokens_per_step} bytes, held-out text costs **{results.held_out:.3f} bits per byte**. {verdict}
It is {blocks.numel():,} bytes in {len(blocks)} blocks that were never trained on, and no paragraph of the text stands in it twice.
With its windows cut to {results.narrow[0] + 1} bytes the trained model needs {results.narrow[1]:.3f} bits: the difference is what it takes
from further back.

The best predictor that sees the current byte alone, fitted on the held-out text itself, needs {results.one_byte_floor:.3f} bits:
no model whose attention passes nothing on gets below that. Measured with the default settings, the same model ends at:

| attention | held-out bits per byte |
|---|---|
{broken}"""


def _writing(results: Results) -> str:
    writing = results.writing
    text = printable(writing.text).replace("```", "'''")
    cached, recomputed = 1 / writing.seconds_a_byte, 1 / writing.seconds_recomputed
    memory = f"{writing.cache_bytes / 2**20:.2f} MiB"
    return f"""## What it writes
The prompt is `{printable(writing.prompt)}`. It goes into a `RollingCache` for each layer in one piece; then one query a byte attends to the
{results.trainer.plan.window} keys before it, at {cached:,.0f} bytes/s. The caches take {memory} together, however long the text gets.
Without them the whole text would have to be computed again for each byte: {recomputed:,.0f} bytes/s at its end.
```text
{text}
```"""


def printable(produced: bytes) -> str:
    """No control characters: the text goes to a terminal too."""
    return "".join(c if c.isprintable() or c == "\n" else "□" for c in produced.decode(errors="replace"))


def _bands(results: Results) -> str:
    return """## What each head looks at
The attention weights of a held-out sentence, as the explicit operators return them: a row for each query, a column for each slot of its
window. The last column is the query's own byte. In the large panels each cell shows the byte that stands there (`·` a space, `↵` a line
break) and its colour how much of the query's attention it gets. In the small ones a column is the largest of some neighbouring slots.

![attention bands](bands.png)"""


def _cost(results: Results) -> str:
    if not results.curves:
        return "## Cost\nNot measured in this run (`--longest 0`)."
    plan = results.trainer.plan
    return f"""## Cost
Each number comes from a process of its own; threads: {plan.threads}. Memory is the growth of the process's peak. It includes the
dense mask; the time does not include making that mask.

### A training step of this model
{plan.rows} x {plan.context} bytes, forward, backward and optimisers.

{_step_table(results.steps)}

### One attention layer
Forward and backward (projections, rotary positions, attention); batch 1, {plan.heads} heads of {plan.width // plan.heads}.

![time and memory](cost.png)

{_layer_table(results.curves)}"""


def _step_table(steps: dict[str, Cost]) -> str:
    rows = ["| attention | ms | MiB | time, fused = 1 | memory, fused = 1 |", "|---|---|---|---|---|"]
    fused = steps.get("fused")
    for kind, cost in steps.items():
        ratios = f"{cost.seconds / fused.seconds:.2f} | {cost.mebibytes / fused.mebibytes:.2f}" if fused else " | "
        rows.append(f"| {NAMES[kind]} | {_digits(cost.seconds * 1e3)} | {_digits(cost.mebibytes)} | {ratios} |")
    return "\n".join(rows)


def _layer_table(curves: list[Curve]) -> str:
    costs = {(curve.kind, cost.length): cost for curve in curves for cost in curve.costs}
    kinds = [curve.kind for curve in curves]
    rows = [
        f"| L | {' | '.join(f'{kind}, ms' for kind in kinds)} | {' | '.join(f'{kind}, MiB' for kind in kinds)} |",
        "|---" * (1 + 2 * len(kinds)) + "|",
    ]
    for length in sorted({length for _, length in costs}):
        found = [costs.get((kind, length)) for kind in kinds]
        times = [_digits(cost.seconds * 1e3) if cost else "-" for cost in found]
        memory = [_digits(cost.mebibytes) if cost else "-" for cost in found]
        rows.append(f"| {length} | {' | '.join(times)} | {' | '.join(memory)} |")
    ended = [f"\n{NAMES[curve.kind]}: {curve.ended}." for curve in curves if curve.ended]
    return "\n".join(rows + ended)


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _checks(results: Results) -> str:
    found = {(f.what, f.dtype, f.against): f for f in results.of_attention}
    dtypes = [dtype for dtype in dict.fromkeys(f.dtype for f in results.of_attention) if dtype != "float64"]
    rows = []
    for what in dict.fromkeys(f.what for f in results.of_attention):
        double = [found[what, "float64", against].error for against in ("dense attention", "the explicit pair")]
        others = [found[what, dtype, "dense attention"] for dtype in dtypes]
        rows.append(f"| {what} | {double[0]:.1e} | {double[1]:.1e} |" + "".join(f" {f.error:.1e} | {f.bound:.1e} |" for f in others))
    numbers = "\n".join(rows)
    text = "\n".join(f"| {f.what} | {f.against} | {f.error:.1e} |" for f in results.of_model)
    return f"""## Checks
The error is the length of the difference over the length of the expected. In float64 it may be {EXACT:.0e} ({SAME_SUMS}). In other
dtypes it is measured from dense attention in float64, and may be {IN_DTYPE}; for gradients also {RECOMPUTED}.

Before the training, attention of random numbers:

| quantity | float64, dense attention | float64, explicit pair |{"".join(f" {dtype} | allowed in {dtype} |" for dtype in dtypes)}
|---|---|---|{"---|---|" * len(dtypes)}
{numbers}

After it, the model on held-out text, in float64:

| quantity | against | error |
|---|---|---|
{text}"""


def _settings(results: Results) -> str:
    plan = asdict(results.trainer.plan) | {"text": results.trainer.corpus.name}
    settings = "\n".join(f"| {name} | {value} |" for name, value in plan.items())
    return f"""## Settings
window_matmul {window_matmul.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {_processor()}

| setting | value |
|---|---|
{settings}"""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())

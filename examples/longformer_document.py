#!/usr/bin/env python3
# examples/longformer_document.py: a Longformer-shaped model reads one document, stock and patched: time, memory, equal results, a picture.
import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from text_lm.text import read_text
from torch import Tensor, nn
from transformers import LongformerConfig, LongformerForMaskedLM

from window_matmul.hf import patch_longformer

KINDS = ("stock", "patched")
MEASURES = ("forward", "training step")
PAD, START, HIDDEN, FIRST_BYTE = range(4)  # tokens: byte b is FIRST_BYTE + b
HIDDEN_SHARE = 0.15  # of the bytes, which the model is asked for
PIECE = 2048  # bytes, about, on which float64 says what rounding is
ALLOWED = 4.0  # times the stock model's rounding there: two models round, and the document has more places for a large one

Results = dict[str, Tensor]


# ---- model and document --------------------------------------------------------------------------------------------------------------
class Part(nn.Module):
    """The first layer of a model, or its attention with the projections alone, on embeddings: called as the model is."""

    def __init__(self, model: LongformerForMaskedLM, part: str) -> None:
        super().__init__()
        layer: Any = model.longformer.encoder.layer[0]
        self.embeddings = model.longformer.embeddings
        self.part: Any = layer if part == "layer" else layer.attention.self

    def forward(self, input_ids: Tensor, global_attention_mask: Tensor, **_: Tensor) -> SimpleNamespace:
        x, mask = self.embeddings(input_ids), global_attention_mask.float()
        masks = {"is_index_masked": mask < 0, "is_index_global_attn": mask > 0, "is_global_attn": True}
        out = self.part(x, attention_mask=mask, **masks)[0]
        return SimpleNamespace(logits=out, loss=out.square().mean())


def build(args: argparse.Namespace) -> Any:
    """The same random weights each time. Without dropout: what is dropped is drawn in another order."""
    torch.manual_seed(args.seed)
    config = LongformerConfig(
        attention_window=args.window, num_hidden_layers=args.layers, hidden_size=args.width, num_attention_heads=args.heads,
        intermediate_size=4 * args.width, vocab_size=FIRST_BYTE + 256, max_position_embeddings=args.length + PAD + 1,
        type_vocab_size=1, pad_token_id=PAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = LongformerForMaskedLM(config)
    return model if args.part == "model" else Part(model, args.part)


def document(args: argparse.Namespace, length: int) -> dict[str, Tensor]:
    """The first bytes of the text behind a global token; some are hidden, and only these have labels."""
    data = read_text(args.text)[1].encode()[: length - 1]
    if len(data) < length - 1:
        raise ValueError(f"--length {length}: the text has {len(data)} bytes")
    ids = torch.tensor([[START, *(FIRST_BYTE + byte for byte in data)]])
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(args.seed)) < HIDDEN_SHARE
    hidden[:, 0] = False
    global_attention = torch.zeros_like(ids)
    global_attention[:, 0] = 1
    return {
        "input_ids": ids.masked_fill(hidden, HIDDEN),
        "attention_mask": torch.ones_like(ids),
        "global_attention_mask": global_attention,
        "labels": ids.masked_fill(~hidden, -100),
    }


def piece(args: argparse.Namespace) -> int:
    """A length of whole windows, to which the model pads and a part of it does not."""
    return int(min(max(PIECE // args.window, 1) * args.window, args.length))


def forward(model: Any, inputs: dict[str, Tensor]) -> Results:
    with torch.no_grad():
        return {"outputs": model(**inputs).logits}


def training_step(model: Any, inputs: dict[str, Tensor]) -> Results:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {"gradients": torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])}


# ---- a process for each model --------------------------------------------------------------------------------------------------------
def resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def cost(call: Callable[[], Results], repeats: int) -> tuple[dict[str, float], Results]:
    """The best time, and the growth of peak resident memory in the first call."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    times, results = [], {}
    for repeat in range(repeats):
        began = time.perf_counter()
        results = call()
        times.append(time.perf_counter() - began)
        if repeat == 0:
            mebibytes = (resident("VmHWM") - before) / 2**20
    return {"seconds": min(times), "mebibytes": mebibytes}, results


def measure(kind: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Costs of both calls; what they give is left in the folder."""
    torch.set_num_threads(args.threads)
    model = build(args)
    if kind == "patched":
        patch_longformer(model)
    inputs = document(args, args.length)
    for call in (forward, training_step):
        call(model, document(args, min(args.window, args.length)))  # threads, code and the allocator's pools are there
    model.zero_grad()
    costs: dict[str, Any] = {}
    for name, call in zip(MEASURES, (forward, training_step), strict=True):
        costs[name], results = cost(lambda call=call: call(model, inputs), args.repeats)  # type: ignore[misc]
        torch.save(results, folder / f"{kind} {name}.pt")
    return costs


def run_apart(kind: str, args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, *argv, "--measure", kind]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode != 0:
        raise ValueError(f"the {kind} model failed: {found.stderr.strip().splitlines()[-1:] or found.returncode}")
    costs: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return costs


# ---- equal results -------------------------------------------------------------------------------------------------------------------
def distance(a: Results, b: Results) -> dict[str, float]:
    """Of outputs the largest difference, of gradients the norm of all in relation to theirs."""
    found = {}
    for name, x in a.items():
        difference = (x.double() - b[name].double()).abs()
        found[name] = float(difference.max()) if name == "outputs" else float(difference.norm() / x.double().norm())
    return found


def rounding(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """How far both models are from float64 on the first bytes of the document."""
    exact, inputs = build(args).double(), document(args, piece(args))
    models = {"stock": build(args), "patched": patch_longformer(build(args))}
    right = forward(exact, inputs) | training_step(exact, inputs)
    return {kind: distance(right, forward(model, inputs) | training_step(model, inputs)) for kind, model in models.items()}


def verdicts(args: argparse.Namespace, folder: Path) -> list[tuple[str, float, float]]:
    """(what, error, allowed)."""
    found, of = [], rounding(args)
    for name, error in of["patched"].items():
        found.append((f"{name} of {piece(args):,} bytes, patched to float64", error, 2 * of["stock"][name]))
    for name in MEASURES:
        stock, patched = (torch.load(folder / f"{kind} {name}.pt") for kind in KINDS)
        for what, error in distance(stock, patched).items():
            found.append((f"{what} of the document, patched to stock", error, ALLOWED * of["stock"][what]))
    return found


# ---- report --------------------------------------------------------------------------------------------------------------------------
def draw(path: Path, costs: dict[str, dict[str, Any]], title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, unit, label in zip(panels, ("seconds", "mebibytes"), ("seconds", "peak memory of the call, MiB"), strict=True):
        for n, (kind, colour) in enumerate(zip(KINDS, ("#c8553d", "#1f5fa8"), strict=True)):
            heights = [costs[kind][name][unit] for name in MEASURES]
            bars = axes.bar([place + 0.4 * n for place in range(len(MEASURES))], heights, 0.36, color=colour, label=kind)
            axes.bar_label(bars, [f"{height:,.3g}" if height < 100 else f"{height:,.0f}" for height in heights], padding=2)
        axes.set_xticks([place + 0.2 for place in range(len(MEASURES))], MEASURES)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def table(costs: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':16}{'stock':>14}{'patched':>14}{'stock / patched':>18}"]
    for name in MEASURES:
        for unit, digits in (("seconds", 2), ("mebibytes", 0)):
            stock, patched = (costs[kind][name][unit] for kind in KINDS)
            lines.append(f"{name:16}{stock:14,.{digits}f}{patched:14,.{digits}f}{stock / max(patched, 1e-9):17.1f}x  {unit}")
    return "\n".join(lines)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, needs at least 1")
    return value


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Read one document with a Longformer-shaped model, stock and patched, and compare.")
    numbers = {
        "length": (32768, "bytes of the document"),
        "window": (512, "keys that a byte sees, half of them on each side; even"),
        "layers": (2, "layers"),
        "width": (256, "model width"),
        "heads": (4, "attention heads"),
        "threads": (torch.get_num_threads(), "torch threads"),
        "repeats": (2, "calls, of which the best counts"),
        "seed": (0, "seed of weights and hidden bytes"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int if name == "seed" else positive, default=default, help=f"{text} (default: {default})")
    parser.add_argument("--part", choices=("model", "layer", "attention"), default="model", help="what is measured (default: model)")
    parser.add_argument("--text", help="a file to read (default: CPython's own documentation)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of picture and results (default: demo)")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, run: Callable[..., dict[str, Any]] = run_apart) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.measure:
        print(json.dumps(measure(args.measure, args, args.out)))
        return 0
    shape = f"{args.layers} layers, width {args.width}, {args.heads} heads, window {args.window}"
    title = f"{args.part}: {shape}, {args.length:,} bytes, {args.threads} threads"
    print(title)
    try:
        costs = {kind: run(kind, args, argv) for kind in KINDS}
        found = verdicts(args, args.out)
    except ValueError as error:
        print(f"longformer_document.py: {error}", file=sys.stderr)
        return 2
    print(table(costs))
    for what, seen, allowed in found:
        print(f"{'check' if seen <= allowed else 'FAILED'}: {what}: {seen:.1e}, allowed {allowed:.1e}")
    draw(args.out / "longformer.png", costs, title)
    print(f"picture: {args.out / 'longformer.png'}")
    return 0 if all(seen <= allowed for _, seen, allowed in found) else 1


if __name__ == "__main__":
    sys.exit(main())

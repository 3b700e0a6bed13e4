# examples/text_lm/pictures.py: the report's three pictures.
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from torch import Tensor

from .attention import ExplicitAttention
from .cost import Curve
from .model import LanguageModel, rotary_turns

OURS, EXPLICIT, DENSE, INK, FAINT = "#1f5fa8", "#3c9d74", "#c8553d", "#222222", "#9a9a9a"
COLOURS = {"fused": OURS, "explicit": EXPLICIT, "dense": DENSE}
NAMES = {
    "fused": "window_attention, fused",
    "explicit": "explicit operators, scores stored",
    "dense": "scaled_dot_product_attention, dense mask",
}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.titlelocation": "left",
}
BYTES_BACK = FuncFormatter(lambda value, _: f"{abs(value):g}")
LETTERS, LETTER_SIZE = FontProperties(family="DejaVu Sans Mono"), 7
SMALL_COLUMNS = 64  # of a small band panel: each shows the largest weight of some neighbouring slots, which thinner ones would lose
SHOWN_DISTANCE = 47  # the large band panels show this many slots before the self key


def loss_curve(path: Path, losses: list[float], held_out: list[tuple[int, float]], tokens_per_step: int, levels: dict[str, float]) -> None:
    """Bits per byte over bytes read: each batch faintly, held-out text in full; `levels` are horizontal lines with their names."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        read = tokens_per_step / 1e3
        axes.plot(read * np.arange(1, len(losses) + 1), losses, color=FAINT, alpha=0.5, linewidth=0.8, label="training batches")
        axes.plot(
            [read * s for s, _ in held_out], [b for _, b in held_out], "o-", color=OURS, linewidth=2, markersize=4, label="held-out text"
        )
        for name, bits in levels.items():
            axes.axhline(bits, color=DENSE, linewidth=1, linestyle="--")
            axes.annotate(
                f"{name}: {bits:.2f}", (1, bits), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=DENSE, fontsize=9
            )
        last = held_out[-1]
        axes.annotate(f"{last[1]:.3f}", (read * last[0], last[1]), xytext=(0, -12), textcoords="offset points", ha="right", color=OURS)
        axes.set(xlabel="bytes read in training, thousands", ylabel="bits per byte", xlim=(0, None))
        axes.set_ylim(min(last[1], *levels.values(), 9) - 0.3, min(max(losses), 6.0))
        axes.legend(frameon=False, loc="upper center")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def cost_curves(path: Path, curves: list[Curve], left: int) -> None:
    """Time and memory over the length; behind each curve its slope, and its last cost as a multiple of the fused operator's."""
    with plt.rc_context(STYLE):
        figure, (times, memory) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
        _cost_panel(times, curves, "seconds", "seconds, forward + backward")
        _cost_panel(memory, curves, "mebibytes", "growth of peak memory, MiB")
        figure.suptitle(
            f"One attention layer, window ({left}, 0): growth with the length, and multiples of the fused operator's cost",
            x=0.01,
            ha="left",
        )
        figure.legend(*times.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _cost_panel(axes: Axes, curves: list[Curve], field: str, title: str) -> None:
    fused = {cost.length: getattr(cost, field) for curve in curves if curve.kind == "fused" for cost in curve.costs}
    for curve in curves:
        lengths, values = [cost.length for cost in curve.costs], [getattr(cost, field) for cost in curve.costs]
        axes.loglog(lengths, values, "o-", color=COLOURS[curve.kind], linewidth=2, markersize=5, label=NAMES[curve.kind])
        said = [f"L^{np.log2(values[-1] / values[-2]):.1f}"] if len(values) > 1 else []
        said += [f"{values[-1] / fused[lengths[-1]]:.1f}x"] if curve.kind != "fused" and lengths and lengths[-1] in fused else []
        if said:
            axes.annotate(
                ", ".join(said), (lengths[-1], values[-1]), xytext=(7, 0), textcoords="offset points", va="center",
                color=COLOURS[curve.kind], bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5}, zorder=5,
            )  # fmt: skip
    lengths = sorted({cost.length for curve in curves for cost in curve.costs})
    axes.set_xticks(lengths, [f"{length // 1024}k" for length in lengths])
    if lengths:
        axes.set_xlim(lengths[0] / 1.2, lengths[-1] * 2.5)  # room for what is said behind the curves
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.1)
    axes.set(xlabel="sequence length L", title=title)
    axes.grid(True, which="major", color="#e6e6e6")


@torch.inference_mode()
def attention_bands(model: LanguageModel, tokens: Tensor) -> list[Tensor]:
    """For each layer the attention weights (H, L, window + 1) of tokens (L,), in band storage as the explicit operators give them."""
    core = ExplicitAttention(model.shape.window)
    x, bands = model.embedding(tokens[None]), []
    turns = rotary_turns(0, len(tokens), model.shape.head_dim, x.dtype)
    for block in model.decoder_blocks():
        q, k, _ = block.attention.project(block.attention_norm(x), turns)
        bands.append(core.weights(q, k)[0])
        x = block(x, turns)
    return bands


def band_picture(path: Path, model: LanguageModel, tokens: Tensor, rows: int) -> None:
    """Every head's band over the last `rows` bytes of tokens (L,), and the two heads with the sharpest looks, letter by letter."""
    bands = torch.stack(attention_bands(model, tokens))[:, :, -rows:]  # (layers, H, rows, W)
    layers, heads, _, _ = bands.shape
    near, far = _sharpest(bands)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(14, 7.5 + 1.7 * layers), layout="constrained")
        (upper,), (lower,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(7.5, 1.7 * layers))
        for axes, (layer, head) in zip(upper.subplots(1, 2), (near, far), strict=True):
            _lettered_panel(axes, bands[layer, head], tokens)
            axes.set_title(f"layer {layer + 1}, head {head + 1}: each row is one query and the bytes before it")
        grid = lower.subplots(layers, heads, sharex=True, sharey=True, squeeze=False)
        for layer in range(layers):
            for head in range(heads):
                _small_panel(grid[layer, head], bands[layer, head], f"layer {layer + 1}, head {head + 1}")
        for axes in grid[-1]:
            axes.set_xlabel("bytes back")
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _sharpest(bands: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """(layer, head) with the largest mean top weight: of those that mostly look 1 to 3 bytes back, and of the others that look further."""
    top, slot = bands.max(dim=-1)  # (layers, heads, rows)
    distance = (bands.shape[-1] - 1 - slot).median(dim=-1).values
    sharpness = top.mean(dim=-1)
    near = (sharpness + ((distance > 0) & (distance <= 3))).flatten()
    far = (sharpness + (distance > 3)).flatten()
    far[near.argmax()] = -1.0
    heads = bands.shape[1]
    return divmod(int(near.argmax()), heads), divmod(int(far.argmax()), heads)


def _lettered_panel(axes: Axes, band: Tensor, tokens: Tensor) -> None:
    rows, width = band.shape
    shown = min(SHOWN_DISTANCE, width - 1)
    weights = band[:, width - 1 - shown :].numpy()
    axes.imshow(np.sqrt(weights), cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=(-shown - 0.5, 0.5, rows - 0.5, -0.5))
    query = len(tokens) - rows + np.arange(rows)[:, None]
    key = query + np.arange(-shown, 1)
    seen = np.where(key >= 0, tokens.numpy()[np.maximum(key, 0)], -1)  # (rows, shown + 1): the byte in each slot
    for byte in np.unique(seen[seen >= 0]):
        row, column = np.nonzero(seen == byte)
        colours = np.where(weights[row, column] > 0.35, "white", INK)
        _glyphs(axes, letter(int(byte)), column - shown, row, colours)
    axes.set_yticks(range(rows), [letter(int(byte)) for byte in tokens[-rows:]], fontsize=LETTER_SIZE, family=LETTERS.get_family())
    axes.xaxis.set_major_formatter(BYTES_BACK)
    axes.set(xlabel="bytes back", ylabel="query byte")
    axes.tick_params(length=0)


def _glyphs(axes: Axes, character: str, x: np.ndarray, y: np.ndarray, colours: np.ndarray) -> None:
    """One character at many places, as outlines: thousands of text objects would take seconds."""
    outline = TextPath((-0.3 * LETTER_SIZE, -0.35 * LETTER_SIZE), character, size=LETTER_SIZE, prop=LETTERS)
    points = axes.figure.dpi_scale_trans.frozen().scale(1 / 72)
    places = np.column_stack((x, y))
    axes.add_collection(
        PathCollection([outline], offsets=places, offset_transform=axes.transData, transform=points, facecolors=colours, linewidths=0)
    )


def _small_panel(axes: Axes, band: Tensor, title: str) -> None:
    rows, width = band.shape
    group = -(-width // SMALL_COLUMNS)  # slots in a column
    columns = -(-width // group)
    pooled = torch.nn.functional.pad(band, (columns * group - width, 0)).unflatten(-1, (columns, group)).amax(dim=-1)
    extent = (0.5 - columns * group, 0.5, rows - 0.5, -0.5)
    axes.imshow(pooled.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="nearest")
    axes.xaxis.set_major_formatter(BYTES_BACK)
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)


def letter(byte: int) -> str:
    """One visible character for a byte."""
    return {10: "↵", 32: "·"}.get(byte, chr(byte) if 32 < byte < 127 else "□")

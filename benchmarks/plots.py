# benchmarks/plots.py: time over window and over length, both logarithmic, with the fitted slopes; bars of shares of the peak.
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .cases import OPS
from .compare import Entries, Row, main_rows, pair_rows, rows, shares
from .competitors import NAMES
from .markdown import title as title_of

COLOURS = {
    "ours": "#c1272d",
    "explicit": "#e08080",
    "rolling_cache": "#e08080",
    "band_bmm": "#0072b2",
    "band_attention": "#0072b2",
    "sliding_chunks": "#e69f00",
    "local_attention": "#7b3294",
    "flex_attention": "#56b4e9",
    "onnxruntime": "#8c564b",
    "dense": "#999999",
    "sdpa": "#009e73",
    "sdpa_causal": "#bbbbbb",
    "decode_bmm": "#0072b2",
}

AXES = {"width": "keys a query sees, W", "length": "sequence length, L"}


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line through the logarithms, by least squares."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def draw(entries: Entries, folder: Path) -> list[str]:
    """Writes the pictures for which there are at least two points on a line; returns their file names."""
    import matplotlib

    matplotlib.use("Agg")
    pictures = []
    pairs = pair_rows(entries, "default")
    for length in sorted({row.case.length for row in pairs}):
        mine = [row for row in pairs if row.case.length == length]
        name = f"window-L{length}.png"
        if _draw_grid(mine, "width", f"L = {length}, fp32, 8 heads, d = 64", folder / name):
            pictures.append(name)
    attention = [row for row in rows(entries) if row.case.op == "attention" and row.case.window == 64]
    if _draw_grid(attention, "length", "whole attention, w = 64, fp32, 8 heads, d = 64", folder / "length.png"):
        pictures.append("length.png")
    return pictures + _draw_fused(entries, folder)


def _draw_fused(entries: Entries, folder: Path) -> list[str]:
    main = main_rows(entries, "default")
    pictures = []
    for length in (4096, 16384):
        mine = [row for row in main if row.case.length == length]
        if _draw_grid(mine, "width", f"window_attention, L = {length}, fp32, 8 heads, d = 64", folder / f"fused-L{length}.png"):
            pictures.append(f"fused-L{length}.png")
    mine = [row for row in main if row.case.window == 128]
    if _draw_grid(mine, "length", "window_attention, w = 128, fp32, 8 heads, d = 64", folder / "fused-length.png"):
        pictures.append("fused-length.png")
    if _draw_shares(shares(entries), folder / "fused-shares.png"):
        pictures.append("fused-shares.png")
    return pictures


def _draw_shares(found: list[dict[str, Any]], path: Path) -> bool:
    """A panel a backend, a pair of bars a window: forward and backward alone, one thread, fp32."""
    import matplotlib.pyplot as plt

    mine = [r for r in found if (r["case"]["op"], r["case"]["dtype"], r["case"]["dim"]) == ("fused", "fp32", 64)]
    backends = list(dict.fromkeys(r["backend"] for r in mine))
    if not backends:
        return False
    figure, axes = plt.subplots(1, len(backends), figsize=(4.2 * len(backends), 3.6), squeeze=False, sharey=True, layout="constrained")
    for backend, panel in zip(backends, axes[0], strict=True):
        windows = sorted({r["case"]["window"] for r in mine if r["backend"] == backend})
        for offset, direction, colour in ((-0.2, "forward", "#c1272d"), (0.2, "backward", "#0072b2")):
            seen = {r["case"]["window"]: 100 * r["share"] for r in mine if (r["backend"], r["direction"]) == (backend, direction)}
            heights = [seen.get(w, 0.0) for w in windows]
            panel.bar_label(panel.bar([x + offset for x in range(len(windows))], heights, 0.38, color=colour, label=direction), fmt="%.0f")
        panel.set_xticks(range(len(windows)), [f"w = {w}" for w in windows])
        panel.set(ylim=(0, 110), ylabel="% of the multiply-add peak", title=backend)
        panel.legend(fontsize=7, loc="upper left", ncols=2)
    figure.suptitle("window_attention, one thread, fp32, L = 4096, d = 64", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _draw_grid(found: list[Row], axis: str, title: str, path: Path) -> bool:
    import matplotlib.pyplot as plt

    panels = sorted({(row.case.op, row.direction) for row in found}, key=lambda panel: (OPS.index(panel[0]), panel[1]))
    if len({getattr(row.case, axis) for row in found}) < 2:
        return False
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.2), squeeze=False, layout="constrained")
    for (op, direction), panel in zip(panels, axes[0], strict=True):
        mine = [row for row in found if (row.case.op, row.direction) == (op, direction)]
        for name in NAMES:
            points = sorted((float(getattr(row.case, axis)), row.measured[name]["median"] * 1e3) for row in mine if name in row.measured)
            if points:
                label = title_of(name, op) + (f", slope {slope(points):.2f}" if len(points) > 1 else "")
                panel.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=label, linewidth=2 if name == "ours" else 1.2)
        panel.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel="milliseconds")
        values = sorted({int(getattr(row.case, axis)) for row in mine})
        panel.set_xticks(values, [str(value) for value in values])
        panel.minorticks_off()
        panel.set_title(f"{op}, {direction.replace('_', ' + ')}", fontsize=10)
        panel.grid(True, which="both", alpha=0.25)
        panel.legend(fontsize=7)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True

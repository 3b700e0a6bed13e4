# benchmarks/plots.py: time over window and over length, both logarithmic, with the fitted slopes.
from __future__ import annotations

import math
from pathlib import Path

from .cases import OPS
from .compare import Entries, Row, pair_rows, rows
from .competitors import NAMES, load

COLOURS = dict(zip(NAMES, ("#c1272d", "#0072b2", "#e69f00", "#999999", "#009e73"), strict=True))

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
    return pictures


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
                label = load(name).TITLE + (f", slope {slope(points):.2f}" if len(points) > 1 else "")
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

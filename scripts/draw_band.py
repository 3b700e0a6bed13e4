# scripts/draw_band.py: the README's picture: a band in the score matrix, and the same band as it is stored.
"""Run it with the package installed: `.venv/bin/python scripts/draw_band.py` writes docs/images/band.png."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from window_matmul import Window, window_matmul
from window_matmul.plot import plot_band

LENGTH = 8
WINDOW = Window(2, 1)
COLOURS = {"aligned": "#d1495b", "seen": "#30638e", "no key": "#eef1f4"}


def draw_storage(ax: Axes) -> None:
    """Slot c of row q is written with the number of its key, as the operator itself finds it: the only feature of key j is j + 1."""
    keys = torch.arange(1.0, LENGTH + 1).view(LENGTH, 1)
    band = window_matmul(torch.ones(LENGTH, 1), keys.mT, WINDOW)
    for q, row in enumerate(band.int().tolist()):
        for slot, key in enumerate(row):
            colour = "no key" if key == 0 else "aligned" if slot == WINDOW.left else "seen"
            ax.add_patch(Rectangle((slot - 0.5, q - 0.5), 1, 1, color=COLOURS[colour], ec="white", lw=1))
            text, ink = ("fill", "#667") if key == 0 else (str(key - 1), "white")
            ax.text(slot, q, text, ha="center", va="center", fontsize=8, color=ink)
    ax.set(xlim=(-0.5, len(row) - 0.5), ylim=(LENGTH - 0.5, -0.5), aspect="equal", xlabel="slot", ylabel="query")
    ax.set(xticks=range(len(row)), yticks=range(LENGTH), title="stored: left + 1 + right columns")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def main() -> None:
    figure, (matrix, storage) = plt.subplots(1, 2, figsize=(8, 4), width_ratios=(2, 1.1), layout="constrained")
    plot_band(WINDOW, LENGTH, LENGTH, ax=matrix)
    matrix.set(title="window (2, 1): who sees whom", xticks=range(LENGTH), yticks=range(LENGTH))
    for q in range(LENGTH):
        for key in range(max(q - 2, 0), min(q + 2, LENGTH)):
            matrix.text(key, q, str(key), ha="center", va="center", fontsize=8, color="white")
    draw_storage(storage)
    path = Path(__file__).parents[1] / "docs" / "images" / "band.png"
    figure.savefig(path, dpi=120)
    print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()

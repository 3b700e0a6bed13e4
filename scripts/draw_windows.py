# scripts/draw_windows.py: the pictures of docs/windows.md: what the number 4 means to whom, and the two ends of Lq != Lk.
"""Run it with the package installed: `.venv/bin/python scripts/draw_windows.py` writes docs/images/windows.png and window_ends.png."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from window_matmul import Window
from window_matmul.plot import plot_band

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FOURS = {
    "Hugging Face causal,\nONNX Runtime, MLX": Window.from_hf_causal(4),
    "Keras, Hugging Face's call": Window.from_keras(4),
    "Hugging Face Longformer": Window.from_hf_longformer(4),
    "JAX, LongT5,\nallenai Longformer": Window.from_jax(4),
    "FlashInfer,\nflash-attention (4, 0)": Window.from_flashinfer(4),
}


def draw(ax: Axes, title: str, window: Window, queries: int, keys: int, offset: int | None = None) -> None:
    plot_band(window, queries, keys, query_offset=offset, ax=ax)
    ax.set_title(title, fontsize=9)


def main() -> None:
    figure, axes = plt.subplots(1, len(FOURS), figsize=(11, 2.7), layout="constrained")
    for ax, (title, window) in zip(axes, FOURS.items(), strict=True):
        draw(ax, title, window, 10, 10)
    figure.savefig(IMAGES / "windows.png", dpi=90)
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.4), layout="constrained")
    draw(axes[0], "(2, 0), aligned at the end", Window(2, 0), 5, 8)
    draw(axes[1], "(2, 0), at the start: query_offset=0", Window(2, 0), 5, 8, 0)
    draw(axes[2], "(1, 0), query_offset=-1", Window(1, 0), 8, 8, -1)
    figure.savefig(IMAGES / "window_ends.png", dpi=90)


if __name__ == "__main__":
    main()

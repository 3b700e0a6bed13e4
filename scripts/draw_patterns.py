# scripts/draw_patterns.py: the picture of the patterns of attention: dense, window, dilated window, window with global tokens.
"""Run it with the package installed: `.venv/bin/python scripts/draw_patterns.py` writes docs/images/patterns.png."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Patch

from window_matmul import Window
from window_matmul.plot import COLOURS, plot_pattern

LENGTH = 24
PATTERNS = [
    ("dense: None", None, None),
    ("window: (3, 3)", Window(3, 3), None),
    ("dilated window: (3, 3), dilation 2", Window(3, 3, 2), None),
    ("window and two global tokens", Window(3, 3), 2),
]


def main() -> None:
    figure, row = plt.subplots(1, len(PATTERNS), figsize=(13, 4), layout="constrained", sharey=True)
    for ax, (title, window, global_tokens) in zip(row, PATTERNS, strict=True):
        plot_pattern(window, LENGTH, global_tokens=global_tokens, ax=ax)
        ax.set_title(title, fontsize=11)
        ax.label_outer()
    names = {"aligned": "the aligned key", "seen": "in the window", "global": "outside it: the query or the key is a global token"}
    patches = [Patch(color=COLOURS[kind], label=name) for kind, name in names.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    path = Path(__file__).parents[1] / "docs" / "images" / "patterns.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

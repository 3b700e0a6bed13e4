# python/window_matmul/plot.py: pictures of bands and of the scores in them. Needs matplotlib.
"""The README's picture of the band, and what the heads of a model look at."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import reference
from .window import Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ALIGNED, _SEEN, _UNSEEN = "#d1495b", "#30638e", "#eef1f4"


def _axes(axes: "Axes | None", columns: int, rows: int) -> "Axes":
    if axes is not None:
        return axes
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("window_matmul.plot needs matplotlib: `pip install matplotlib`") from error
    scale = 0.32 if max(columns, rows) <= 40 else 8 / max(columns, rows)
    return plt.subplots(figsize=(max(columns * scale, 3), max(rows * scale, 2)), layout="constrained")[1]


def plot_band(
    window: Window | int | tuple[int | None, int | None],
    num_queries: int,
    num_keys: int,
    *,
    query_offset: int | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws which key (column) each query (row) sees; the aligned key stands out.

    Args:
        window: a `Window`, an int or a pair; sides may be unbounded.
        num_queries, num_keys: Lq and Lk.
        query_offset: the key aligned with query 0; by default Lk - Lq.
        ax: matplotlib axes to draw on; by default those of a new figure.

    Returns:
        The axes; `.figure.savefig(path)` writes the picture.

    >>> plot_band(Window(2, 1), 6, 6).get_title()
    'left = 2, right = 1'
    """
    window = reference.as_window(window)
    mask = reference.band_mask(window, num_queries, num_keys, query_offset=query_offset)
    aligned = reference.offsets(num_queries, num_keys, query_offset) == 0
    ax = _axes(ax, num_keys, num_queries)
    from matplotlib.colors import to_rgb

    colors = [[_ALIGNED if aligned[i, j] else _SEEN if mask[i, j] else _UNSEEN for j in range(num_keys)] for i in range(num_queries)]
    ax.imshow([[to_rgb(color) for color in row] for row in colors], interpolation="nearest")
    _grid(ax, num_queries, num_keys)
    ax.set_title(f"left = {window.left}, right = {window.right}" + (f", dilation = {window.dilation}" if window.dilation != 1 else ""))
    return ax


def plot_scores(
    a: Tensor, window: Window | int | tuple[int, int], *, num_keys: int | None = None, ax: "Axes | None" = None, **kwargs: Any
) -> "Axes":
    """Draws band storage (Lq, W) as the (Lq, Lk) matrix it stands for; what lies outside the band stays blank.

    Args:
        a: scores or probabilities of one head.
        window: the window they were made with; both sides bounded.
        num_keys: Lk; by default Lq.
        ax: matplotlib axes to draw on; by default those of a new figure.
        kwargs: for `Axes.imshow`, for example ``cmap="magma"``, ``vmax=1``.

    Returns:
        The axes.

    Raises:
        ValueError: `a` is not two-dimensional, or has another number of columns than the window.

    >>> plot_scores(torch.rand(6, 4), (2, 1)).get_xlabel()
    'key'
    """
    window = reference.as_window(window)
    if a.ndim != 2 or a.shape[1] != window.width:
        raise ValueError(f"a is {tuple(a.shape)}; it needs to be (Lq, {window.width}), the scores of one head with {window}")
    num_keys = a.shape[0] if num_keys is None else num_keys
    dense = reference.to_dense(a.detach().cpu(), window, num_keys)
    mask = reference.band_mask(window, a.shape[0], num_keys)
    ax = _axes(ax, num_keys, a.shape[0])
    ax.imshow(dense.where(mask, torch.nan).numpy(), **{"interpolation": "nearest", "aspect": "auto", **kwargs})
    ax.set_xlabel("key")
    ax.set_ylabel("query")
    return ax


def _grid(ax: "Axes", rows: int, columns: int) -> None:
    ax.set_xlabel("key")
    ax.set_ylabel("query")
    ax.set_xticks([j - 0.5 for j in range(columns + 1)], minor=True)
    ax.set_yticks([i - 0.5 for i in range(rows + 1)], minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)

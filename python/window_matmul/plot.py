# python/window_matmul/plot.py: pictures of who sees whom, and of the scores in a band. Needs matplotlib.
"""Each function draws on the axes it is given, or on those of a new figure, and returns them."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import reference
from ._band.arguments import as_count, as_offset, to_window
from .attention import AnyWindow
from .window import Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"unseen": "#eef1f4", "seen": "#30638e", "global": "#edae49", "aligned": "#d1495b"}
_UNSEEN, _SEEN, _GLOBAL, _ALIGNED = range(4)
_FINEST_GRID = 80  # cells on a side, above which lines between them would hide them


def plot_band(window: AnyWindow, num_queries: int, num_keys: int, *, query_offset: int | None = None, ax: "Axes | None" = None) -> "Axes":
    """Draws which key (column) each query (row) sees; the aligned key stands out.

    Args:
        window: a `Window`, an int or a pair; sides may be unbounded.
        num_queries, num_keys: Lq and Lk.
        query_offset: the key aligned with query 0; by default Lk - Lq.
        ax: matplotlib axes to draw on; by default those of a new figure.

    Returns:
        The axes; `.figure.savefig(path)` writes the picture.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a negative number.

    >>> plot_band(Window(2, 1), 6, 6).get_title()
    'left = 2, right = 1'
    """
    window = to_window(window)
    ax = plot_pattern(window, num_queries, num_keys, query_offset=query_offset, ax=ax)
    left, right = ("unbounded" if side is None else side for side in (window.left, window.right))
    ax.set_title(f"left = {left}, right = {right}" + (f", dilation = {window.dilation}" if window.dilation != 1 else ""))
    return ax


def plot_pattern(
    window: AnyWindow,
    num_queries: int,
    num_keys: int | None = None,
    *,
    global_tokens: int | Tensor | None = None,
    query_offset: int | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws who sees whom in `window_attention`: queries are rows, keys are columns, and what global tokens add has a colour of its own.

    Args:
        window: a `Window`, an int or a pair; None is dense attention.
        num_queries, num_keys: Lq and Lk; Lk is Lq by default.
        global_tokens: the number of the first keys that every query sees, or a bool mask (Lk,). They see every key, too, where Lq == Lk,
            query_offset is 0 or None and right > 0. With right = 0 nobody sees a global key that comes later.
        query_offset: the key aligned with query 0; by default Lk - Lq.
        ax: matplotlib axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a negative number, or a mask of another length than the keys.

    >>> plot_pattern(Window(2, 2), 16, global_tokens=2).get_title()
    'window (2, 2), global tokens'

    Source: figure 2 of Beltagy, Peters and Cohan, "Longformer: The Long-Document Transformer" (arXiv:2004.05150).
    """
    window = to_window(window)
    num_queries = as_count("num_queries", num_queries, "an int of at least 0")
    num_keys = num_queries if num_keys is None else as_count("num_keys", num_keys)
    query_offset = num_keys - num_queries if query_offset is None else as_offset(query_offset)
    inside = reference.band_mask(window, num_queries, num_keys, query_offset=query_offset)
    distance = reference.offsets(num_queries, num_keys, query_offset)
    kinds = torch.where(inside, _SEEN, _UNSEEN)
    if global_tokens is not None:
        kinds[_global(global_tokens, window, distance) & ~inside] = _GLOBAL
    kinds[distance == 0] = _ALIGNED
    ax = _axes(ax, num_keys, num_queries)
    _draw_cells(ax, kinds)
    ax.set_title(_name(window) + (", global tokens" if global_tokens is not None else ""))
    return ax


def plot_scores(
    a: Tensor,
    window: AnyWindow,
    *,
    num_keys: int | None = None,
    query_offset: int | None = None,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draws band storage (Lq, W) as the (Lq, Lk) matrix it stands for; what lies outside the band stays blank.

    Args:
        a: scores or probabilities of one head.
        window: the window they were made with; both sides bounded.
        num_keys: Lk; by default Lq.
        query_offset: the key aligned with query 0; by default Lk - Lq.
        ax: matplotlib axes to draw on; by default those of a new figure.
        kwargs: for `Axes.imshow`, for example ``cmap="magma"``, ``vmax=1``.

    Returns:
        The axes. `ax.figure.colorbar(ax.images[0])` adds the scale.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: `a` is not two-dimensional, or has another number of columns than the window.

    >>> plot_scores(torch.rand(6, 4), (2, 1)).get_xlabel()
    'key'
    """
    window = to_window(window)
    if not isinstance(a, Tensor):
        raise TypeError(f"a is of type {type(a).__name__}; it needs to be a torch.Tensor")
    if window.width is None:
        raise ValueError(f"window is {window}; it needs to have bounded sides: a band is stored in left + 1 + right columns")
    if a.ndim != 2 or a.shape[1] != window.width:
        raise ValueError(f"a is {tuple(a.shape)}; it needs to be (Lq, {window.width}), the scores of one head with {window}")
    num_keys = a.shape[0] if num_keys is None else as_count("num_keys", num_keys)
    query_offset = num_keys - a.shape[0] if query_offset is None else as_offset(query_offset)
    dense = reference.to_dense(a.detach().cpu(), window, num_keys, query_offset=query_offset)
    mask = reference.band_mask(window, a.shape[0], num_keys, query_offset=query_offset)
    ax = _axes(ax, num_keys, a.shape[0])
    if dense.numel():
        ax.imshow(dense.where(mask, torch.nan).numpy(), **{"interpolation": "nearest", "aspect": "auto", **kwargs})
    ax.set_facecolor(COLOURS["unseen"])
    _draw_frame(ax)
    return ax


# ---- what is drawn ------------------------------------------------------------------------------------------------------------------
def _global(global_tokens: int | Tensor, window: Window, distance: Tensor) -> Tensor:
    """(Lq, Lk): what is seen because the key is global, or the query."""
    num_queries, num_keys = distance.shape
    if isinstance(global_tokens, Tensor):
        if global_tokens.dtype is not torch.bool:
            raise TypeError(f"global_tokens is {global_tokens.dtype}; it needs to be an int or a bool tensor")
        if global_tokens.shape != (num_keys,):
            raise ValueError(f"global_tokens is {tuple(global_tokens.shape)}; it needs to be ({num_keys},)")
        chosen = global_tokens.cpu()
    else:
        count = as_count("global_tokens", global_tokens, "an int of at least 0 or a bool tensor", at_most=num_keys)
        chosen = torch.arange(num_keys) < count
    columns = chosen & (distance <= 0 if window.right == 0 else torch.ones_like(distance, dtype=torch.bool))
    symmetric = num_queries == num_keys and window.right != 0 and bool((distance.diagonal() == 0).all())
    return columns | chosen[:, None] if symmetric else columns


def _name(window: Window) -> str:
    if window.left is None and window.right is None and window.dilation == 1:
        return "dense"
    sides = ", ".join("∞" if side is None else str(side) for side in (window.left, window.right))
    return f"window ({sides})" + (f", dilation {window.dilation}" if window.dilation != 1 else "")


def _axes(axes: "Axes | None", columns: int, rows: int) -> "Axes":
    if axes is not None:
        return axes
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("window_matmul.plot needs matplotlib: `pip install matplotlib`") from error
    scale = 0.32 if max(columns, rows) <= 25 else 8 / max(columns, rows)
    return plt.subplots(figsize=(max(columns * scale, 3), max(rows * scale, 2.5)), layout="constrained")[1]


def _draw_cells(ax: "Axes", kinds: Tensor) -> None:
    from matplotlib.colors import to_rgb

    rows, columns = kinds.shape
    if kinds.numel():
        ax.imshow(torch.tensor([to_rgb(colour) for colour in COLOURS.values()])[kinds].numpy(), interpolation="nearest")
    _draw_frame(ax)
    if max(rows, columns) <= _FINEST_GRID:
        ax.set_xticks([j - 0.5 for j in range(columns + 1)], minor=True)
        ax.set_yticks([i - 0.5 for i in range(rows + 1)], minor=True)
        ax.grid(which="minor", color="white", linewidth=1 if max(rows, columns) <= _FINEST_GRID // 2 else 0.5)


def _draw_frame(ax: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("key")
    ax.set_ylabel("query")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)

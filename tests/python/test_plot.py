"""tests/python/test_plot.py: the pictures show what `window_attention` sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from child import run
from window_matmul import Window, window_attention, window_matmul, window_softmax
from window_matmul.plot import COLOURS, plot_band, plot_pattern, plot_scores

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
OPERATOR = "attention"
pytestmark = pytest.mark.best_backend


@pytest.fixture(autouse=True)
def close_figures() -> Any:
    yield
    matplotlib.pyplot.close("all")


def kinds(ax: Any) -> list[list[str]]:
    """The name of each cell's colour."""
    names = {tuple(round(255 * part) for part in matplotlib.colors.to_rgb(colour)): name for name, colour in COLOURS.items()}
    return [[names[tuple(round(255 * part) for part in cell)] for cell in row] for row in ax.images[0].get_array().tolist()]


def seen(ax: Any) -> list[list[bool]]:
    return [[kind != "unseen" for kind in row] for row in kinds(ax)]


PATTERNS: list[tuple[Any, int, int, int | Tensor | None, int | None]] = [
    (None, 6, 6, None, None),
    ((2, 1), 8, 8, None, None),
    (Window(2, 2, 3), 12, 14, None, None),
    ((None, 0), 5, 9, None, None),
    ((1, 0), 8, 8, None, -3),
    ((2, 2), 9, 9, 2, None),
    ((2, 0), 9, 9, 2, None),
    ((2, 2), 9, 9, 99, None),
    ((2, 2), 9, 9, 2, 0),
    ((2, 2), 9, 9, 2, 1),
    (1, 7, 10, 3, None),
    (1, 9, 9, torch.arange(9) % 4 == 2, None),
    ((1, 0), 9, 9, torch.arange(9) % 4 == 2, None),
]


@pytest.mark.parametrize("window, queries, keys, global_tokens, query_offset", PATTERNS, ids=str)
def test_a_pattern_is_what_attention_sees(
    backend: str, window: Any, queries: int, keys: int, global_tokens: int | Tensor | None, query_offset: int | None
) -> None:
    """With scores of 0 and one value for each key, the output of a query is not 0 where it sees the key."""
    q, k, v = torch.zeros(1, 1, queries, 2), torch.zeros(1, 1, keys, 2), torch.eye(keys)[None, None]
    mask = global_tokens[None] if isinstance(global_tokens, Tensor) else global_tokens
    weights = window_attention(q, k, v, window, global_tokens=mask, query_offset=query_offset)
    assert isinstance(weights, Tensor)
    ax = plot_pattern(window, queries, keys, global_tokens=global_tokens, query_offset=query_offset)
    assert seen(ax) == (weights[0, 0] != 0).tolist()
    shift = keys - queries if query_offset is None else query_offset
    aligned = [(i, j) for i, row in enumerate(kinds(ax)) for j, kind in enumerate(row) if kind == "aligned"]
    assert aligned == [(i, i + shift) for i in range(queries) if 0 <= i + shift < keys]
    if global_tokens is None:
        assert seen(plot_band(window, queries, keys, query_offset=query_offset)) == seen(ax)


def test_what_global_tokens_add_has_a_colour_of_its_own() -> None:
    shown = kinds(plot_pattern((1, 1), 6, global_tokens=1))
    assert shown[0] == ["aligned", "seen", *["global"] * 4]
    assert [row[0] for row in shown] == ["aligned", "seen", *["global"] * 4]
    assert sum(row.count("global") for row in shown) == 8


@pytest.mark.parametrize(
    "window, global_tokens, title",
    [(None, None, "dense"), ((3, 0), None, "window (3, 0)"), (Window(None, 2, 2), 1, "window (∞, 2), dilation 2, global tokens")],
)
def test_titles(window: Any, global_tokens: int | None, title: str) -> None:
    assert plot_pattern(window, 5, global_tokens=global_tokens).get_title() == title


def test_titles_of_bands() -> None:
    assert plot_band((None, 0), 4, 4).get_title() == "left = unbounded, right = 0"
    assert plot_band(Window(1, 2, 3), 4, 4).get_title() == "left = 1, right = 2, dilation = 3"


def test_scores_lie_where_their_keys_are(backend: str) -> None:
    q, k = torch.randn(6, 3), torch.randn(8, 3)
    window = Window(2, 1, 2)
    a = window_matmul(q, k.mT, window, query_offset=1)
    shown = plot_scores(a.requires_grad_(), window, num_keys=8, query_offset=1, vmin=0, cmap="magma").images[0]
    mask = torch.tensor([[window.contains(i, j, 1) for j in range(8)] for i in range(6)])
    assert (~torch.from_numpy(shown.get_array().mask)).equal(mask) and shown.get_clim()[0] == 0
    torch.testing.assert_close(torch.from_numpy(shown.get_array().filled(0)), (q @ k.mT).double().where(mask, 0), rtol=1e-5, atol=1e-6)
    assert shown.get_cmap().name == "magma"


def test_pictures_are_written_from_any_dtype_and_size(tmp_path: Any) -> None:
    figure, axes = matplotlib.pyplot.subplots(1, 2)
    p = window_softmax(torch.randn(200, 33, dtype=torch.bfloat16), (32, 0))
    assert plot_scores(p, (32, 0), ax=axes[0]) is axes[0]
    assert plot_pattern((16, 16), 200, global_tokens=4, ax=axes[1]) is axes[1]
    figure.savefig(tmp_path / "both.png")
    plot_band(0, 1, 1).figure.savefig(tmp_path / "one.png")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("both.png", "one.png"))


WRONG: list[tuple[type[Exception], Any, str]] = [
    (TypeError, lambda: plot_pattern("3", 4), "window_size is '3'"),
    (ValueError, lambda: plot_pattern((-3, 0), 4), r"window_size\[0\] is -3"),
    (TypeError, lambda: plot_pattern(3, 4.0), "num_queries is 4.0"),
    (ValueError, lambda: plot_band(3, -1, 4), "num_queries is -1"),
    (ValueError, lambda: plot_band(3, 4, -1), "num_keys is -1"),
    (TypeError, lambda: plot_pattern(3, 4, query_offset=0.5), "query_offset is 0.5"),
    (ValueError, lambda: plot_pattern(3, 4, global_tokens=-1), "global_tokens is -1"),
    (TypeError, lambda: plot_pattern(3, 4, global_tokens=torch.ones(4)), "global_tokens is torch.float32"),
    (ValueError, lambda: plot_pattern(3, 4, global_tokens=torch.ones(5, dtype=torch.bool)), r"global_tokens is \(5,\).*\(4,\)"),
    (TypeError, lambda: plot_scores([[1.0]], 0), "a is of type list"),
    (ValueError, lambda: plot_scores(torch.rand(2, 5, 4), (2, 1)), r"a is \(2, 5, 4\)"),
    (ValueError, lambda: plot_scores(torch.rand(5, 3), (2, 1)), r"a is \(5, 3\).*4"),
    (ValueError, lambda: plot_scores(torch.rand(5, 3), (None, 1)), "window is Window.*bounded"),
    (TypeError, lambda: plot_scores(torch.rand(5, 4), (2, 1), query_offset=1.5), "query_offset is 1.5"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("error, call, says", WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_refusals(error: type[Exception], call: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_without_matplotlib_the_error_says_what_to_install() -> None:
    run("""
        import sys
        sys.modules["matplotlib"] = sys.modules["matplotlib.pyplot"] = None
        from window_matmul.plot import plot_pattern
        try:
            plot_pattern(2, 4)
        except ImportError as error:
            assert "pip install matplotlib" in str(error), error
        else:
            raise AssertionError("drew without matplotlib")
        """)


@pytest.mark.parametrize("num_queries, num_keys", [(0, 5), (5, 0), (0, 0)])
def test_without_queries_or_keys_nothing_is_drawn(num_queries: int, num_keys: int) -> None:
    drawn = [
        plot_band((2, 1), num_queries, num_keys),
        plot_pattern((2, 1), num_queries, num_keys, global_tokens=1),
        plot_scores(torch.rand(num_queries, 4), (2, 1), num_keys=num_keys),
    ]
    assert not any(ax.images for ax in drawn)

"""tests/python/distributed/test_models.py: `context_parallel`: models of transformers whose sequences are cut over ranks."""

from __future__ import annotations

import pool
import pytest

from window_matmul.distributed import context_parallel

pytest.importorskip("transformers")
pytestmark = [pytest.mark.best_backend, pytest.mark.long]


@pytest.mark.parametrize(("lengths", "layout"), [((9, 4, 12), "contiguous"), ((5, 5, 6, 6), "zigzag"), ((14,), "contiguous")], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_sliding_layers(lengths: tuple[int, ...], layout: str, padded: bool) -> None:
    """Windows wider than a shard too: 7 tokens beside 4."""
    pool.run("models:sliding", len(lengths) // (1 if layout == "contiguous" else 2), lengths, layout, padded)


@pytest.mark.parametrize(
    ("what", "text"), [("full layer", "context_parallel around it, which is not active"), ("dense mask", "context_parallel")]
)
def test_what_is_refused(what: str, text: str) -> None:
    for message in pool.run("models:refused", 2, what):
        assert text in message


def test_a_mesh_that_is_none() -> None:
    with pytest.raises(TypeError, match="mesh is of type str"), context_parallel("cp"):
        pass

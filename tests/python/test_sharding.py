"""tests/python/test_sharding.py: DTensors of two processes give what one gives, bit for bit; sequences that are sharded to 1e-12."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.tensor import Placement, Replicate, Shard

import sharded
from child import forkserver, run
from window_matmul import _sharding as sharding

OPERATOR = "attention"
pytestmark = pytest.mark.best_backend


@functools.cache
def found() -> list[dict[str, str]]:
    """Of each rank, what went wrong in each case. One start of the processes for all."""
    with tempfile.TemporaryDirectory() as folder:
        forkserver()
        torch.multiprocessing.start_processes(sharded.work, (folder,), sharded.RANKS, start_method="forkserver")
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(sharded.RANKS)]


@pytest.mark.long
@pytest.mark.parametrize("case", sharded.cases())
def test_two_processes(backend: str, case: str) -> None:
    for rank, of_rank in enumerate(found()):
        assert not of_rank[case], f"rank {rank}: {of_rank[case]}"


def test_nothing_is_imported_for_it() -> None:
    code = """
    import sys, torch, window_matmul
    x = torch.randn(1, 2, 8, 4, requires_grad=True)
    window_matmul.window_attention(x, x, x, 2).sum().backward()
    window_matmul.window_matmul(x, x.mT, 2).sum().backward()
    print("torch.distributed.tensor" in sys.modules)
    """
    assert run(code).strip() == "False"


# ---- several dims of a mesh ----------------------------------------------------------------------------------------------------------
def spec(shape: tuple[int, ...], mesh: tuple[int, ...], *placements: Placement) -> Any:
    of_mesh = SimpleNamespace(ndim=len(mesh), size=lambda n=None: mesh[n])
    return SimpleNamespace(shape=shape, mesh=of_mesh, placements=placements)


@pytest.mark.parametrize(
    "mesh, q, k, kv_heads, by_heads",
    [
        ((2, 4), (Shard(0), Shard(1)), (Shard(0), Shard(1)), 4, True),  # the first dim of the mesh has the batch
        ((2, 4), (Replicate(), Shard(1)), (Replicate(), Shard(1)), 4, False),  # PyTorch may decide to take it for heads as well
        ((2, 4), (Replicate(), Shard(1)), (Replicate(), Shard(1)), 8, True),
        ((2, 4), (Shard(0), Shard(1)), (Shard(1), Shard(0)), 4, False),
        ((3,), (Shard(1),), (Shard(1),), 4, False),
        ((3,), (Shard(1),), (Shard(1),), 12, True),
        ((5,), (Shard(1),), (Shard(1),), 24, True),  # as many as queries have: they are cut alike
    ],
)
def test_groups_of_heads_stay_whole(mesh: Any, q: Any, k: Any, kv_heads: int, by_heads: bool) -> None:
    shapes = (4, 24, 8, 4), (4, kv_heads, 8, 4)
    tensors = [spec(shapes[0], mesh, *q), spec(shapes[1], mesh, *k), spec(shapes[1], mesh, *k), *[None] * (len(sharding._FORWARD) - 3)]
    ways = sharding._attention_rule(*tensors, [1, 1, 0], 0, 0, [0.0, 0.0])
    assert ([Shard(1), Shard(1)] in [results for results, _ in ways]) == by_heads

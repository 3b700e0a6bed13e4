"""tests/python/distributed/test_mesh.py: DTensors on a mesh of two dims, one of which cuts the sequence, give what one process gives."""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

from child import forkserver
from window_matmul import window_attention

pytestmark = [pytest.mark.best_backend, pytest.mark.long]

WHOLE, BATCH, HEADS, ROWS = Replicate(), Shard(0), Shard(1), Shard(2)
PLACEMENTS: list[tuple[list[Placement], list[Placement]]] = [  # of q, and of the result
    ([BATCH, ROWS], [BATCH, ROWS]),
    ([HEADS, ROWS], [HEADS, ROWS]),
    ([ROWS, ROWS], [ROWS, WHOLE]),
    ([ROWS, WHOLE], [ROWS, WHOLE]),
    ([WHOLE, ROWS], [WHOLE, ROWS]),
    ([Shard(3), ROWS], [WHOLE, ROWS]),
]


def compare(mesh: Any, of_q: list[Placement], of_out: list[Placement], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    shapes = {"q": (2, 4, 7, 3), "k": (2, 2, 7, 3), "v": (2, 2, 7, 5), "bias": (4, 4), "sinks": (4,)}
    tensors = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    mask = torch.arange(14).view(2, 7) % 3 == 0

    def step(inputs: dict[str, Any], **more: Any) -> list[Any]:
        torch.manual_seed(1 + (dist.get_rank() if more["global_tokens"] is not mask else 0))  # the mesh's first rank draws
        results = window_attention(**inputs, window_size=(2, 1), return_lse=True, **options, **more)
        (results[0].square().sum() + results[1].square().sum()).backward()
        return [*results, *(x.grad for x in inputs.values())]

    alone = step({name: x.clone().requires_grad_() for name, x in tensors.items()}, global_tokens=mask)
    placed = {name: distribute_tensor(x, mesh, of_q if name == "q" else [WHOLE, WHOLE]).detach() for name, x in tensors.items()}
    together = step({name: x.requires_grad_() for name, x in placed.items()}, global_tokens=distribute_tensor(mask, mesh, [WHOLE, WHOLE]))
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got.full_tensor(), want, rtol=1e-11, atol=1e-11)  # sums of 70 terms below 10, as scenes.py has them
    expected = of_out if not options else [p if p in (ROWS, WHOLE) else WHOLE for p in of_out]  # dropout draws by the place in the batch
    assert list(together[0].placements) == expected


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store, timeout = dist.FileStore(f"{folder}/store", 4), timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4, timeout=timeout)
    mesh = dist.init_device_mesh("cpu", (2, 2))
    for of_q, of_out in PLACEMENTS:
        for options in ({}, {"dropout_p": 0.3}):
            compare(mesh, of_q, of_out, options)
    dist.destroy_process_group()


def test_mesh_of_two_dims() -> None:
    forkserver()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(work, (folder,), 4, start_method="forkserver")

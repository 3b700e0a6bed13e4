"""tests/python/distributed/test_faults.py: a rank dies at some place in a step: every other ends with an error that names a rank."""

from __future__ import annotations

import json
import multiprocessing.context
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from child import forkserver

pytestmark = [pytest.mark.best_backend, pytest.mark.long]

RANKS = 3
TIMEOUT = 8.0  # seconds, of the group: what a rank waits that cannot know
STEPS = {
    "before the call": "",
    "before rows leave": "depart",
    "before they arrive": "wait",
    "before gradients leave": "send_back",
    "before they are back": "add_back",
    "never comes": "",
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work(rank: int, victim: int, place: str, folder: str, path: list[str]) -> None:
    sys.path[:] = path
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    from window_matmul import distributed
    from window_matmul.distributed import exchange

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{folder}/store", RANKS), rank=rank, world_size=RANKS, timeout=timedelta(seconds=TIMEOUT)
    )
    dist.barrier()
    q, k, v = (torch.randn(1, 2, 6, 4, requires_grad=True) for _ in range(3))
    if rank == victim and STEPS[place]:
        assert hasattr(exchange.Way, STEPS[place])
        setattr(exchange.Way, STEPS[place], lambda *_: die())
    raised = ""
    try:
        distributed.window_attention(q, k, v, (2, 2), group=None)
        if rank == victim and place == "before the call":
            die()
        if rank == victim and place == "never comes":
            signal.pause()
        distributed.window_attention(q, k, v, (2, 2), group=None).sum().backward()
        distributed.window_attention(q, k, v, (2, 2), group=None).sum().backward()
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    Path(folder, str(rank)).write_text(json.dumps(raised))
    os._exit(0)


def start(context: multiprocessing.context.ForkServerContext, victim: int, place: str, folder: str) -> list[Any]:
    processes = [context.Process(target=work, args=(rank, victim, place, folder, sys.path)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    return processes


def assert_others_name_a_rank(processes: list[Any], victim: int, folder: str) -> None:
    for rank in sorted(range(RANKS), key=lambda rank: rank == victim):
        if rank == victim:
            processes[rank].kill()  # if it still is
        processes[rank].join(20 * TIMEOUT)  # a hang ends here, however loaded the machine is
        assert processes[rank].exitcode is not None, "a rank hangs"
    for rank in {*range(RANKS)} - {victim}:
        raised = json.loads(Path(folder, str(rank)).read_text())
        others = [f"rank {other}" for other in range(RANKS) if other != rank]
        assert raised.startswith("RuntimeError: window_attention (call "), raised
        assert any(other in raised.split("waited in vain")[1].split("for ", 1)[1] for other in others), raised


@pytest.mark.parametrize("place", STEPS)
def test_death(place: str) -> None:
    """Of each rank, in groups of their own that wait at the same time."""
    context = forkserver()
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(RANKS)]
        groups = [start(context, victim, place, folder) for victim, folder in enumerate(folders)]
        for victim, (processes, folder) in enumerate(zip(groups, folders, strict=True)):
            assert_others_name_a_rank(processes, victim, folder)

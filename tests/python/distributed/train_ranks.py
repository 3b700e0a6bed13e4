"""tests/python/distributed/train_ranks.py: runs examples/train_long.py on forked ranks, and kills some of them.

A file has lists of runs in JSON, those of a list at the same time, each with `ranks`, `arguments` and maybe `kill`: a rank, a place in a
step, and the step. Printed is what became of each rank of each run: its exit status (minus the signal) and what it said. A process of its
own keeps the store of a run, as torchrun's agent does. A rank that has not ended after PATIENCE seconds is ended by SIGALRM, as its status
then says.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples"))

import torch
import torch._dynamo  # by the optimisers, else by each rank
import torch.distributed.checkpoint._fsspec_filesystem  # by checkpoints, likewise
import train_long
from long_lm import trainer
from text_lm import training
from torch import Tensor

PATIENCE = 100.0


def kill_self(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fault(place: str, step: int) -> None:
    """From here on this process dies at a place of its `step`, counted from 1."""
    steps = 0
    draw, attend, clip = training.batch, trainer.ShardedAttention.forward, torch.nn.utils.clip_grad_norm_
    save, layers = trainer.state_dict_saver.save, 0

    def batch(*args: Any) -> Tensor:
        nonlocal steps, layers
        steps, layers = steps + 1, 0
        if place == "data" and steps == step:
            kill_self()
        return draw(*args)

    def forward(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal layers
        layers += 1
        if steps == step and layers == 2:  # the first layer's halos have travelled
            if place == "forward":
                kill_self()
            if place == "backward":
                q.register_hook(kill_self)
        return attend(self, q, k, v)

    def clip_grad_norm_(*args: Any) -> Tensor:
        if place == "gradients" and steps == step:
            kill_self()
        return clip(*args)

    def saved(*args: Any, **options: Any) -> None:
        if place == "checkpoint" and steps >= step:
            kill_self()
        save(*args, **options)

    training.batch, trainer.ShardedAttention.forward, trainer.state_dict_saver.save = batch, forward, saved  # type: ignore[method-assign]
    torch.nn.utils.clip_grad_norm_ = clip_grad_norm_


def work(rank: int, ranks: int, port: int, arguments: list[str], kill: list[Any] | None, said: Path) -> int:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = said.open("w", buffering=1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "lo"}
    if kill and kill[0] == rank:
        fault(*kill[1:])
    return train_long.main(arguments)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(server.getsockname()[1]) for server in servers]


def forked(port: int, folder: Path, run: dict[str, Any]) -> list[int]:
    """The processes of a run. What they are forked from has no threads."""
    children = []
    for rank in range(run["ranks"]):
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = work(rank, run["ranks"], port, run["arguments"], run["kill"], folder / str(rank))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    return children


def keep_store(port: int, ranks: int) -> int:
    """A process that does nothing else."""
    child = os.fork()
    if child == 0:
        store = torch.distributed.TCPStore("127.0.0.1", port, ranks, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
        signal.pause()
        del store
    return child


def ended(children: list[int]) -> list[int]:
    """Exit statuses, in the order of the ranks."""
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + PATIENCE
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    statuses[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.kill(child, signal.SIGALRM)
        time.sleep(0.02)
    return [statuses[child] for child in children]


def results_of(runs: list[dict[str, Any]]) -> list[list[tuple[int, str]]]:
    """Of runs at the same time."""
    ports = free_ports(len(runs))
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(port)) for port in ports]
        for folder in folders:
            folder.mkdir()
        stores = [keep_store(port, run["ranks"]) for port, run in zip(ports, runs, strict=True)]
        try:
            statuses = [ended(children) for children in list(map(forked, ports, folders, runs))]
        finally:
            for store in stores:
                os.kill(store, signal.SIGKILL)
                os.waitpid(store, 0)
        return [
            [(status, (folder / str(rank)).read_text()) for rank, status in enumerate(of_run)]
            for folder, of_run in zip(folders, statuses, strict=True)
        ]


def main(file: str) -> None:
    print(json.dumps([results_of(runs) for runs in json.loads(Path(file).read_text())]))

"""tests/python/distributed/pool.py: eight processes with gloo, started once for all tests of a pytest process and fed with calls."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import sys
import tempfile
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from child import forkserver

PROCESSES = 8
TIMEOUT = 20.0  # seconds, of groups: a call that hangs is a failure, however loaded the machine is


class Failed(AssertionError):
    """What ranks have raised."""


class Pool:
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        context = forkserver()
        self._ends: list[Connection] = []
        self._processes = []
        for rank in range(PROCESSES):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(rank, self._folder.name, there, sys.path), daemon=True)
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)

    def run(self, call: str, size: int, *args: Any) -> list[Any]:
        """`module:function` in the first `size` processes, as function(group, *args); what each returns."""
        for end in self._ends[:size]:
            end.send((call, size, args))
        answers = [end.recv() if end.poll(2 * TIMEOUT) else (False, "no answer") for end in self._ends[:size]]
        wrong = [f"rank {rank}: {answer}" for rank, (is_right, answer) in enumerate(answers) if not is_right]
        if wrong:
            raise Failed(f"{call} in {size} processes, {args}\n" + "\n".join(wrong))
        return [answer for _, answer in answers]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


@functools.cache
def _pool() -> Pool:
    pool = Pool()
    atexit.register(pool.close)
    return pool


def run(call: str, size: int, *args: Any) -> list[Any]:
    """After a failure ranks may be anywhere: the next test gets new ones."""
    try:
        return _pool().run(call, size, *args)
    except Failed:
        atexit.unregister(_pool().close)
        _pool().close()
        _pool.cache_clear()
        raise


def _work(rank: int, folder: str, calls: Connection, path: list[str]) -> None:
    sys.path[:] = path
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(Path(folder, "store")), PROCESSES),
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=TIMEOUT),
    )
    groups = {size: dist.new_group(list(range(size)), timeout=timedelta(seconds=TIMEOUT)) for size in range(1, PROCESSES + 1)}
    while True:
        try:
            call, size, args = calls.recv()
        except EOFError:
            return
        module, function = call.split(":")
        try:
            calls.send((True, getattr(importlib.import_module(module), function)(groups[size], *args)))
        except Exception:
            calls.send((False, traceback.format_exc()[-4000:]))

"""tests/python/child.py: runs a piece of Python in a process of its own, with this process's backend and import path.

Such a process is a fork of one that has imported torch, which takes as long as all the rest, and has done nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
from multiprocessing.context import ForkServerContext
from pathlib import Path

# What ranks import is imported once, by the process that they are forked from. Each imports the program that started it, too: pytest.
PRELOAD = ["pytest", "torch", "torch._dynamo", "torch.distributed.tensor.parallel", "window_matmul.distributed"]

# Each line of its input is a call. The child goes on behind the loop, and ends as any Python does.
SERVER = """
import gc, json, os, sys
import torch
names = {"__name__": "__main__"}
exec(sys.argv.pop(), names)
gc.freeze()  # what is there is no child's to collect
for line in sys.stdin:
    call = json.loads(line)
    if (child := os.fork()) == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for end, name in enumerate((os.devnull, call["out"], call["err"])):
    os.dup2(os.open(name, os.O_RDWR), end)
for name in os.environ.keys() - call["environment"].keys():
    del os.environ[name]
os.environ.update(call["environment"])
sys.argv[1:], sys.path[1:] = call["args"], call["path"]
exec(compile(call["code"], "<a test's child>", "exec"), names)
"""


def forkserver() -> ForkServerContext:
    """For ranks: its processes are forked from one that has imported PRELOAD."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _path() -> list[str]:
    return [str(Path(__file__).parent), *filter(None, sys.path)]


@functools.cache
def _server(first: str, **environment: str) -> subprocess.Popen[str]:
    """In a session of its own, so that it can be ended with its child."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, first],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(_path())} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was ended before
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def run(code: str, *args: object, first: str = "", timeout: int = 120, status: int = 0, **environment: str) -> str:
    """What the code prints; `first` goes before it, and runs once for all calls. A process that ends otherwise than with the status fails
    the test, with what it said."""
    of_malloc = {name: value for name, value in environment.items() if name.startswith("MALLOC_")}  # glibc asks for it once
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch(), err.touch()
        call = {"code": textwrap.dedent(code), "args": [str(x) for x in args], "out": str(out), "err": str(err)}
        server = _server(first, **of_malloc)
        assert server.stdin is not None and server.stdout is not None
        print(json.dumps(call | {"path": _path(), "environment": os.environ | environment}), file=server.stdin, flush=True)
        in_time = bool(select.select([server.stdout], [], [], timeout)[0])
        ended = server.stdout.readline().strip() if in_time else f"none after {timeout} s"
        if not ended.lstrip("-").isdigit():
            _end(server)
            _server.cache_clear()
        assert ended == str(status), f"exit status {ended}\n{out.read_text()[-3000:]}\n{err.read_text()[-6000:]}"
        return out.read_text()

# python/window_matmul/testing/device.py: what differs between devices: streams, recorded graphs, memory, names.
"""A CPU stands in for a GPU where the checks themselves are tested: its streams and graphs run everything at once."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


def synchronize(device: torch.device) -> None:
    torch.get_device_module(device).synchronize()


def new_stream(device: torch.device) -> Any:
    return torch.get_device_module(device).Stream()


def on_stream(device: torch.device, stream: Any) -> contextlib.AbstractContextManager[Any]:
    return torch.get_device_module(device).stream(stream)  # type: ignore[no-any-return]


def current_stream(device: torch.device) -> Any:
    return torch.get_device_module(device).current_stream()


def delay(device: torch.device) -> None:
    """Keeps the current stream busy for some hundredths of a second: work that another stream was given overtakes it."""
    if device.type == "cuda":
        torch.cuda._sleep(50_000_000)


def capture(device: torch.device, function: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
    """A call that repeats what `function` did on the same memory, and the tensors that it writes its results to."""
    if device.type != "cuda":
        outputs = function()

        def repeat() -> None:
            for old, new in zip(outputs, function(), strict=True):
                old.copy_(new)

        return repeat, outputs
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # what is allocated and compiled at the first call must not be recorded
        function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = function()
    return graph.replay, recorded


def others(device: torch.device) -> list[torch.device]:
    """The other devices of this kind."""
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    return [torch.device(device.type, i) for i in range(count) if i != (device.index or 0)]


def elsewhere(device: torch.device) -> torch.device:
    """A device of another kind."""
    return torch.device("meta" if device.type == "cpu" else "cpu")


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])


def find(name: str) -> tuple[torch.device | None, str]:
    """The device, or why there is none."""
    if not name.startswith("cuda"):
        return torch.device(name), ""
    if torch.version.cuda is None:
        return None, f"torch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return None, f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU, or no driver that is new enough for it"
    device = torch.device(name if ":" in name else f"cuda:{torch.cuda.current_device()}")
    if (device.index or 0) >= torch.cuda.device_count():
        return None, f"there are {torch.cuda.device_count()} GPUs; {name} is none of them"
    torch.cuda.set_device(device)
    return device, ""


def describe(device: torch.device) -> dict[str, str]:
    said = {"torch": f"{torch.__version__}, CUDA {torch.version.cuda}", "Python": platform.python_version()}
    if device.type != "cuda":
        return {"device": f"{device} ({platform.machine()})"} | said
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": f"{properties.name}, {device}",
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": str(properties.multi_processor_count),
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "driver": _driver(),
    } | said


def _driver() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()[0]
    return "unknown: nvidia-smi does not answer"

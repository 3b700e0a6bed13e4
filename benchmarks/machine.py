# benchmarks/machine.py: what was measured on, and with which versions.
from __future__ import annotations

import datetime
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import window_matmul
from window_matmul.testing import backends


def describe() -> dict[str, str]:
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _first("/proc/cpuinfo", r"model name\s*: (.+)") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(_first('/proc/meminfo', r'MemTotal: +([0-9]+)') or 0) >> 20} GiB",
        "huge pages": _first("/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]") or "none",
        "system": f"Linux {platform.release()}, {' '.join(platform.libc_ver())}",
        "backends": ", ".join(backends()),
        "window_matmul": window_matmul.__version__,
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "local-attention": _version("local-attention"),
        "onnxruntime": _version("onnxruntime"),
        "python": platform.python_version(),
    }


def folder_name(machine: dict[str, str]) -> str:
    """A name for the results: the date and the processor."""
    return f"{machine['date']}-" + re.sub(r"[^a-z0-9]+", "-", machine["processor"].lower()).strip("-")


def _first(path: str, pattern: str) -> str | None:
    if not Path(path).exists():
        return None
    found = re.search(pattern, Path(path).read_text())
    return found[1] if found else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

# python/window_matmul/__main__.py: `python -m window_matmul info` and `python -m window_matmul bench`.
import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from . import __version__
from ._load import cuda_facts, cuda_kernels, facts, kernels, why_no_cuda, why_not_built

_OPS = ("band_out", "band_in", "band_in_transposed", "softmax", "softmax_backward", "attention", "attention_backward")
_DTYPES = ("float32", "float64", "bfloat16", "float16")
_VARIABLES = {
    "WINDOW_MATMUL_BACKEND": "the row of the kernel table that is used; by default the first that can",
    "WINDOW_MATMUL_THREADS": "threads of the C interface and compat.numpy; by default as many as there are processors for the process",
    "WINDOW_MATMUL_KEEP_MIB": "how much memory of large results is kept for the next ones; 0: none; by default a quarter of the machine's",
}


def _kernel_lines(kernels: Callable[[str, str], dict[str, str]]) -> list[str]:
    """One line a row; where its answer depends on the operator or dtype, one line for each answer."""
    lines = []
    tables = {(op, dtype): kernels(op, dtype) for op in _OPS for dtype in _DTYPES}
    for name in next(iter(tables.values())):
        answers: dict[str, list[str]] = {}
        for (op, dtype), table in tables.items():
            answers.setdefault(table[name], []).append(f"{op} {dtype}")
        for why_not, problems in sorted(answers.items(), key=lambda answer: len(answer[1])):
            which = "all others" if 2 * len(problems) > len(tables) else ", ".join(problems)
            what = "" if len(problems) == len(tables) else f"  ({which})"
            lines.append(f"{name:16}{'no: ' + why_not if why_not else 'yes'}{what}")
    return lines


def _gpu_lines() -> list[str]:
    """What there is, and for each GPU the rows that take it."""
    if why_no_cuda:
        built = why_not_built()
        return [f"none: {why_no_cuda}", *([f"kernels       {built}"] if built and built not in why_no_cuda else [])]
    lines = []
    for name, value in cuda_facts().items():
        lines.append(f"{name:14}{value}")
        if name.startswith("GPU "):
            lines += [f"  {line}" for line in _kernel_lines(partial(cuda_kernels, gpu=int(name[4:]))) if line.startswith("cuda.")]
    return lines


def info() -> str:
    """Versions, this processor, the GPUs, every kernel and why each one that refuses does, environment variables.

    >>> print(*[line.split()[0] for line in info().splitlines()[:4]])
    window_matmul torch Python compiler
    """
    said = facts()
    versions = {
        "window_matmul": __version__,
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads; built for the stable ABI of torch {said['torch ABI target']}",
        "Python": platform.python_version(),
        "compiler": said["compiler"],
    }
    processor = {
        name: said[name] for name in ("AVX2 + FMA + F16C", "AVX-512 F BW DQ VL", "AVX-512 BF16", "AMX BF16", "L1 data cache", "L2 cache")
    }
    sections = [
        [f"{name:15}{value}" for name, value in versions.items()],
        ["Processor", *(f"  {name:20}{value}" for name, value in processor.items())],
        ["Kernels for tensors on the CPU, best first", *(f"  {line}" for line in _kernel_lines(kernels))],
        ["GPUs", *(f"  {line}" for line in _gpu_lines())],
        ["Environment", *(f"  {name}={os.environ.get(name, '')}  ({meaning})" for name, meaning in _VARIABLES.items())],
    ]
    return "\n\n".join("\n".join(section) for section in sections)


def bench(arguments: Sequence[str]) -> int:
    """Hands over to the benchmarks, which are part of the source tree and not of the installed package."""
    here = Path(__file__).resolve().parents[2]
    for root in (Path.cwd(), here):
        if (root / "benchmarks" / "__main__.py").exists():
            return subprocess.call([sys.executable, "-m", "benchmarks", *arguments], cwd=root)
    print(f"no folder `benchmarks` in {Path.cwd()} nor in {here}: run this in a clone of the repository", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m window_matmul", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, processor, kernels, environment variables")
    commands.add_parser("bench", help="the benchmarks of the source tree; `bench --help` for theirs", add_help=False)
    known, rest = parser.parse_known_args(arguments)
    if known.command == "bench":
        return bench(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    print(info())
    return 0


if __name__ == "__main__":
    sys.exit(main())

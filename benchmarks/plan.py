# benchmarks/plan.py: the jobs of a run, each for a process of its own.
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from window_matmul.testing import backends

from .cases import Case, attention_cases, dtype_cases, pair_cases
from .competitors import entrants

SECTIONS = ("window", "unwindow", "attention", "kernels", "threads", "overhead")

# glibc gives blocks above 32 MiB back to the system with each free, and every call faults their pages in anew. The second setting keeps
# them. Its thread cache is off: the few bytes behind an aligned block would end up there, and the block never fit its own place again.
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 40),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}
MALLOCS = {"default": {}, "keeps blocks": KEEP}


@dataclass(frozen=True)
class Job:
    task: str  # of benchmarks/worker.py
    arguments: dict[str, Any]
    label: str
    malloc: str = "default"
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    quick: bool = False
    sections: tuple[str, ...] = SECTIONS
    patterns: tuple[str, ...] = ()  # parts of case names; none: every case
    threads: int = 2


def jobs(options: Options) -> list[Job]:
    """Competitors on one case follow each other, so that the machine is in much the same state for all of them."""
    mallocs = ("default",) if options.quick else tuple(MALLOCS)
    cells = [(case, malloc) for case in pair_cases(options.threads, options.quick) for malloc in mallocs]
    cells += [(case, "default") for case in attention_cases(options.threads, options.quick)]
    cells += [(case, "keeps blocks") for case in dtype_cases(options.threads, options.quick)]
    plan = [_cell(case, name, malloc, options) for case, malloc in cells if _wanted(case, options) for name in entrants(case, malloc)]
    if not options.patterns:
        plan += _kernel_jobs(options)
    return plan


def _wanted(case: Case, options: Options) -> bool:
    return case.op in options.sections and (not options.patterns or any(pattern in str(case) for pattern in options.patterns))


def _cell(case: Case, name: str, malloc: str, options: Options) -> Job:
    arguments = {"case": case.to_json(), "name": name, "seconds": 0.4 if options.quick else 0.6}
    return Job("cell", arguments, f"{case} {name}, malloc {malloc}", malloc)


def _kernel_jobs(options: Options) -> list[Job]:
    plan, quick = [], options.quick
    if "kernels" in options.sections:
        for row in backends():
            if row == "reference" or (quick and row == "cpu.scalar"):
                continue
            plan += _share_jobs(row, quick)
    if "threads" in options.sections:
        arguments = {"windows": [256] if quick else [64, 256], "seconds": 0.3 if quick else 1.0}
        plan += [
            Job("threads", arguments, f"two threads over one, malloc {malloc}", malloc)
            for malloc in (["keeps blocks"] if quick else MALLOCS)
        ]
    if "overhead" in options.sections:
        plan.append(Job("overhead", {}, "call overhead"))
    return plan


def _share_jobs(row: str, quick: bool) -> list[Job]:
    """One head with the output reused (the allocator keeps its block), and eight with a fresh one."""
    slow = row == "cpu.scalar"
    windows = [256] if quick else [128, 256] if slow else [64, 128, 256, 512]
    dtypes = ["fp32"] if quick or slow else ["fp32", "fp64", "bf16", "fp16"]
    sizes = [(1, dtypes, "keeps blocks")] if slow else [(1, dtypes, "keeps blocks"), (8, ["fp32"], "default")]
    return [
        Job(
            "shares",
            {"dtypes": which, "windows": windows, "heads": heads, "seconds": 0.15 if quick else 0.3},
            f"{row}, one thread, {heads} head{'s' * (heads > 1)}",
            malloc,
            {"WINDOW_MATMUL_BACKEND": row},
        )
        for heads, which, malloc in sizes
    ]

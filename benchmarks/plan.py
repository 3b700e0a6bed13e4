# benchmarks/plan.py: the jobs of a run, each for a process of its own.
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from window_matmul.testing import backends

from .cases import PAIR, Case, attention_cases, decode_cases, dtype_cases, fused_cases, pair_cases
from .competitors import entrants

SECTIONS = ("window", "unwindow", "attention", "fused", "decode", "kernels", "threads", "options", "overhead")

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
    cells += [(case, "default") for case in fused_cases(options.threads, options.quick)]
    cells += [(case, "keeps blocks") for case in fused_cases(options.threads, options.quick) if not options.quick and _kept(case)]
    cells += [(case, malloc) for case in decode_cases(options.threads, options.quick) for malloc in mallocs]
    plan = [
        _cell(case, name, malloc, options)
        for case, malloc in cells
        if _wanted(case, options)
        for name in entrants(case, malloc, options.threads)
    ]
    if not options.patterns:
        plan += _kernel_jobs(options)
    return plan


def _wanted(case: Case, options: Options) -> bool:
    return case.op in options.sections and (not options.patterns or any(pattern in str(case) for pattern in options.patterns))


def _kept(case: Case) -> bool:
    """Fused cases measured under the other malloc too: the scores of others are large, ours are never in memory."""
    main = Case("fused", case.length, case.window, threads=case.threads)
    return case == main and case.length == 4096 and case.window in (64, 256)


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
        arguments = {"windows": [256] if quick else [64, 256], "seconds": 0.3 if quick else 1.0, "ops": (*PAIR, "fused")}
        plan += [
            Job("threads", arguments, f"two threads over one, malloc {malloc}", malloc)
            for malloc in (["keeps blocks"] if quick else MALLOCS)
        ]
    if "options" in options.sections:
        arguments = {"threads": options.threads, "seconds": 0.3 if quick else 1.0, "quick": quick}
        plan.append(Job("options", arguments, "options of window_attention"))
    if "overhead" in options.sections:
        plan.append(Job("overhead", {}, "call overhead"))
    return plan


def _share_jobs(row: str, quick: bool) -> list[Job]:
    """The pair: one head with the output reused (the allocator keeps its block), and eight with a fresh one. Fused: every dtype and dim."""
    slow = row == "cpu.scalar"
    windows = [256] if quick else [128, 256] if slow else [64, 128, 256, 512]
    dtypes = ["fp32"] if quick or slow else ["fp32", "fp64", "bf16", "fp16"]
    pair: dict[str, Any] = {"windows": windows, "seconds": 0.15 if quick else 0.3}
    fused = pair | {"ops": ["fused"], "heads": 1}
    jobs = [
        (pair | {"dtypes": dtypes, "heads": 1}, "one head", "keeps blocks"),
        (fused | {"dtypes": dtypes}, "attention", "keeps blocks"),
    ]
    if not slow:
        jobs.append((pair | {"dtypes": ["fp32"], "heads": 8}, "eight heads", "default"))
    if not (slow or quick):
        jobs.append(
            (fused | {"dtypes": ["fp32"], "windows": [128, 256], "dims": [32, 96, 128, 256]}, "attention, head dims", "keeps blocks")
        )
    return [
        Job("shares", arguments, f"{row}, one thread, {what}", malloc, {"WINDOW_MATMUL_BACKEND": row}) for arguments, what, malloc in jobs
    ]

# benchmarks/report.py: the results in Markdown.
from __future__ import annotations

from typing import Any

from .bars import bars
from .cases import PAIR
from .compare import Entries, failures, overhead, pair_rows, ratios, rows, shares, thread_rows
from .competitors import NAMES, load
from .fused_report import fused_sections
from .markdown import cell, mib, plain, table, times
from .plan import MALLOCS

Results = dict[str, Any]

PROTOCOL = """\
- Useful work only: 2 d flops for each pair of a query and a key it sees, forward; three times that with backward. Fused attention: 4 d, and
  14 d with backward, whose scores must be formed once more. Nothing for what a method computes outside the band.
- Every competitor runs in a process of its own for each case. Before it is timed its output and all gradients are compared with the
  definition in float64; a wrong one is a failure, not a number.
- Two settings of glibc's malloc: its default, which gives large blocks back to the system so that each call faults their pages in again,
  and one that keeps them (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`, `MALLOC_TOP_PAD_` raised, no thread cache), as other
  allocators do.
- Times are medians. `best PyTorch formulation` chooses the fastest of its tilings for each case, direction and process before it is
  measured.
- Fused attention: the best installed is the best of Hugging Face's chunks, local-attention, FlexAttention (compiled beforehand, forward
  only), ONNX Runtime (causal windows, forward only) and `scaled_dot_product_attention` with a mask made beforehand. Causal attention
  without a window computes something else: it stands there for orientation, its GFLOP/s those of the window's useful work.
- Decoding: 32 heads that share 8, d = 128, one query that sees the last 1024 of 4096 keys; the same cache in each call. Read bandwidth is
  that of torch's fastest reduction over as many bytes as the keys and values seen, read between the calls.
- `scaled_dot_product_attention` never shows its scores, so it is compared with whole attention: `window_matmul`, `window_softmax`,
  `unwindow_matmul`. Its mask is made beforehand. The dense product is the explicit pair by way of the L x L matrix.
- Growth is the rise of the resident set's peak in one call, outputs and gradients included.
- The multiply-add peak is a loop in registers, read between the calls; copy is torch's `copy_` of 64 MiB, counted in bytes written.
- A measurement is disturbed when its quartiles are more than 25 % of the median apart or others took more than 8 % of the cores. It is
  repeated, and the second reading counts where it is less disturbed. What stayed so is marked ~.
"""


def render(results: Results, pictures: list[str]) -> str:
    entries: Entries = results["entries"]
    mode = "quick" if results["quick"] else "full"
    parts = [
        "# Benchmarks\n",
        f"A {mode} run of {results['minutes']:.0f} minutes with {results['threads']} threads.\n",
        table(("machine", ""), results["machine"].items()),
        "## Goals\n\n" + summary(entries),
        *(f"![{picture}]({picture})\n" for picture in pictures),
        *(_against(entries, malloc) for malloc in MALLOCS),
        _attention(entries),
        _dtypes(entries),
        *fused_sections(entries),
        _shares(entries),
        _threads(entries),
        _overhead(entries),
        _memory(entries),
        _settings(entries),
        "## How it was measured\n\n" + PROTOCOL,
        _noise(entries),
    ]
    return "\n".join(part for part in parts if part)


def summary(entries: Entries) -> str:
    text = table(("goal", "seen", ""), [(bar.goal, bar.seen, bar.verdict) for bar in bars(entries)])
    failed = failures(entries)
    return text + ("\nFailed:\n" + "".join(f"- {label}: {reason}\n" for label, reason in failed) if failed else "")


def _against(entries: Entries, malloc: str) -> str:
    found = pair_rows(entries, malloc)
    if not found:
        return ""
    names = [name for name in NAMES if any(name in row.measured for row in found)]
    header = (
        "case",
        *(load(name).TITLE for name in names),
        "ours to the best other",
        "the same, best of calls",
        "ours to Hugging Face",
        "share of peak",
    )
    lines = [
        (
            plain(row),
            *(cell(row, name) for name in names),
            times(row.ratio(row.best_other)),
            times(row.ratio(row.best_other, "best")),
            times(row.ratio("sliding_chunks")),
            f"{row.ours['gflops'] / row.ours['peak_gflops']:.0%}",
        )
        for row in found
    ]
    best = ratios(entries, malloc)
    note = f"\nOurs to the best other: {min(best):.2f}x to {max(best):.2f}x.\n" if best else ""
    return f"## The explicit pair, fp32, malloc {malloc}\n\nMilliseconds and useful GFLOP/s.\n\n" + table(header, lines) + note


def _attention(entries: Entries) -> str:
    found = [row for row in rows(entries) if row.case.op == "attention"]
    if not found:
        return ""
    header = ("case", "ours: three calls", load("sdpa").TITLE, "ratio", "growth, ours", "growth, SDPA")
    lines = [
        (plain(row), cell(row, "ours"), cell(row, "sdpa"), times(row.ratio("sdpa")), *(mib(row, name) for name in ("ours", "sdpa")))
        for row in found
    ]
    return "## Whole attention against a dense mask, fp32\n\nMilliseconds and useful GFLOP/s.\n\n" + table(header, lines)


def _dtypes(entries: Entries) -> str:
    found = [row for row in rows(entries) if row.case.dtype != "fp32" and row.case.op in PAIR]
    if not found:
        return ""
    header = ("case", "dtype", "ours", load("band_bmm").TITLE, "ratio", "error, ours", "error, other")
    lines = [
        (
            plain(row),
            row.case.dtype,
            cell(row, "ours"),
            cell(row, "band_bmm"),
            times(row.ratio("band_bmm")),
            *(f"{row.measured[name]['error']:.1e}" if name in row.measured else "" for name in ("ours", "band_bmm")),
        )
        for row in found
    ]
    return "## Other dtypes, malloc keeps blocks\n\nMilliseconds and useful GFLOP/s.\n\n" + table(header, lines)


def _shares(entries: Entries) -> str:
    found = shares(entries)
    if not found:
        return ""
    header = ("kernel", "dtype", "d", "heads", "GFLOP/s", "peak", "share: median", "best", "p10", "band written, GB/s", "of copy")
    lines = [
        (
            f"{row['backend']} {row['case']['op']} w {row['case']['window']} {row['direction']}",
            *(row["case"][key] for key in ("dtype", "dim", "heads")),
            f"{row['gflops']:.1f}",
            f"{row['peak_gflops']:.1f}",
            *(f"{row[key]:.0%}" for key in ("share", "share_best", "share_p10")),
            *(_written(row)),
        )
        for row in found
    ]
    text = (
        "One thread, L 4096; each call is compared with the peak read just after it. One head: the output lies where the last one\n"
        "lay. Eight heads: the output is fresh memory, faulted in during the call.\n\n"
    )
    return "## Kernels against the multiply-add peak\n\n" + text + table(header, lines)


def _written(row: dict[str, Any]) -> tuple[str, str]:
    if "written_gbytes" not in row:
        return "", ""
    return f"{row['written_gbytes']:.1f}", f"{row['written_gbytes'] / row['copy_gbytes']:.0%}"


def _threads(entries: Entries) -> str:
    found = thread_rows(entries)
    if not found:
        return ""
    header = ("case", "malloc", "one thread", "two threads", "ratio: median", "p10", "of the best")
    lines = [
        (
            f"{row['case']['op']} w {row['case']['window']} {row['direction'].replace('_', ' + ')}",
            row["malloc"],
            *(f"{row[key] * 1e3:.2f} ms" for key in ("one", "two")),
            *(f"{row[key]:.2f}x" for key in ("ratio", "ratio_p10", "ratio_of_best")),
        )
        for row in found
    ]
    return "## Two threads over one, L 4096, eight heads, fp32\n\n" + table(header, lines)


def _overhead(entries: Entries) -> str:
    lines = [(name, f"{row['median']:.2f}", f"{row['best']:.2f}") for name, row in overhead(entries).items()]
    return "## Microseconds a call, 8 x 8 inputs\n\n" + table(("call", "median", "best"), lines) if lines else ""


def _memory(entries: Entries) -> str:
    found = pair_rows(entries)
    if not found:
        return ""
    names = [name for name in NAMES if any(name in row.measured for row in found)]
    header = (
        "case",
        "malloc",
        "band",
        "limit for ours",
        *(f"growth, {load(n).TITLE}" for n in names),
        *(f"faults, {load(n).TITLE}" for n in names),
    )
    lines = [
        (
            plain(row),
            row.malloc,
            f"{row.case.band_bytes / 2**20:.0f} MiB",
            f"{row.memory_limit / 2**20:.0f} MiB",
            *(mib(row, name) for name in names),
            *(f"{row.measured[name]['faults']:.0f}" if name in row.measured else "" for name in names),
        )
        for row in found
    ]
    return "## Memory and page faults of a call\n\n" + table(header, lines)


def _settings(entries: Entries) -> str:
    found = [(row, row.measured["band_bmm"]) for row in pair_rows(entries) if "band_bmm" in row.measured]
    lines = [(plain(row), row.malloc, measured["setting"]) for row, measured in found]
    return f"## What {load('band_bmm').TITLE} chose\n\n" + table(("case", "malloc", "block / MiB of scratch"), lines) if lines else ""


def _noise(entries: Entries) -> str:
    noisy = [f"{plain(row)}, malloc {row.malloc}: {', '.join(row.noisy)}" for row in rows(entries) if row.noisy]
    if not noisy:
        return "No measurement stayed disturbed.\n"
    return "Still disturbed after repetition:\n\n" + "".join(f"- {line}\n" for line in noisy)

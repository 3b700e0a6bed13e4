# benchmarks/markdown.py: tables, and how a cell of the results reads in one.
from __future__ import annotations

from collections.abc import Iterable, Sequence

from .compare import Row
from .competitors import load


def table(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Markdown; the first column to the left, the others to the right."""
    ruler = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join(["| " + " | ".join(header) + " |", ruler, *("| " + " | ".join(map(str, line)) + " |" for line in lines)]) + "\n"


def cell(row: Row, name: str) -> str:
    if name not in row.measured:
        return ""
    measured = row.measured[name]
    return f"{'~' if name in row.noisy else ''}{measured['median'] * 1e3:.2f} ms, {measured['gflops']:.0f}"


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def plain(row: Row) -> str:
    """The case without what nearly all have in common."""
    case = row.case
    dim = f", d {case.dim}" if case.dim != 64 and case.op != "decode" else ""
    threads = ", one thread" if case.threads == 1 and case.op == "fused" else ""
    causal = ", causal" if case.causal and case.op == "fused" else ""
    return f"{case.op} L {case.length} w {case.window}{causal}{dim}{threads} {row.direction.replace('_', ' + ')}"


def mib(row: Row, name: str) -> str:
    return f"{row.measured[name]['growth_bytes'] / 2**20:.0f} MiB" if name in row.measured else ""


def title(name: str, op: str) -> str:
    """What a competitor is called: ours has several operators."""
    return "window_attention" if name == "ours" and op in ("fused", "decode") else load(name).TITLE

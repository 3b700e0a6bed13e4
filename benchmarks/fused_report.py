# benchmarks/fused_report.py: fused attention, decoding and options in Markdown.
from __future__ import annotations

from .compare import Entries, Row, decode_rows, fused_rows, option_rows
from .competitors import NAMES, load
from .fused_bars import INSTALLED
from .markdown import cell, mib, plain, table, times, title
from .plan import MALLOCS


def fused_sections(entries: Entries) -> list[str]:
    against = [_against(entries, malloc) for malloc in MALLOCS]
    return [*against, _memory(entries), _settings(entries), _decode(entries), _options(entries), _refused(entries)]


def _names(found: list[Row]) -> list[str]:
    return [name for name in NAMES if any(name in row.measured for row in found)]


def _best(row: Row, names: tuple[str, ...]) -> float | None:
    """Ours to the best of these."""
    return min((ratio for name in names if (ratio := row.ratio(name)) is not None), default=None)


def _against(entries: Entries, malloc: str) -> str:
    found = fused_rows(entries, malloc)
    if not found:
        return ""
    names = _names(found)
    header = ("case", *(title(name, "fused") for name in names), "ours to the best PyTorch", "ours to the best installed", "share of peak")
    lines = [
        (
            plain(row),
            *(cell(row, name) for name in names),
            times(row.ratio("band_attention")),
            times(_best(row, INSTALLED)),
            f"{row.ours['gflops'] / row.ours['peak_gflops']:.0%}",
        )
        for row in found
    ]
    return f"## Fused attention, fp32, malloc {malloc}\n\nMilliseconds and useful GFLOP/s.\n\n" + table(header, lines)


def _memory(entries: Entries) -> str:
    found = fused_rows(entries)
    if not found:
        return ""
    names = _names(found)
    header = ("case", "malloc", "limit for ours", *(f"growth, {title(name, 'fused')}" for name in names))
    lines = [(plain(row), row.malloc, f"{row.memory_limit / 2**20:.0f} MiB", *(mib(row, name) for name in names)) for row in found]
    return "## Memory of fused attention\n\n" + table(header, lines)


def _settings(entries: Entries) -> str:
    found = [(row, row.measured["band_attention"]) for row in fused_rows(entries) if "band_attention" in row.measured]
    lines = [(plain(row), row.malloc, measured["setting"]) for row, measured in found]
    heading = f"## What {load('band_attention').TITLE} chose for fused attention\n\n"
    return heading + table(("case", "malloc", "kernel, order, block"), lines) if lines else ""


def _decode(entries: Entries) -> str:
    found = decode_rows(entries)
    if not found:
        return ""
    header = ("way", "dtype", "malloc", "ms", "GB/s", "read bandwidth", "share", "time over window_attention's", "growth")
    lines = [
        (
            title(name, "decode"),
            row.case.dtype,
            row.malloc,
            f"{'~' if name in row.noisy else ''}{measured['median'] * 1e3:.3f}",
            f"{(rate := row.case.cache_bytes / measured['median'] / 1e9):.1f}",
            f"{measured['read_gbytes']:.1f}",
            f"{rate / measured['read_gbytes']:.0%}",
            times(row.ratio(name)),
            mib(row, name),
        )
        for row in found
        for name, measured in sorted(row.measured.items(), key=lambda item: NAMES.index(item[0]))
    ]
    case = found[0].case
    size = f"One token, the last {case.width} of {case.length} keys, {case.heads} heads sharing {case.kv_heads}, d = {case.dim}.\n\n"
    return "## Decoding\n\n" + size + table(header, lines)


def _options(entries: Entries) -> str:
    lines = [
        (row["option"], f"L {row['length']}", row["direction"].replace("_", " + "), f"{row['ratio']:.1%}", f"{row['ratio_p10']:.1%}")
        for row in option_rows(entries)
    ]
    text = "Of the plain call's useful GFLOP/s, w = 256, 8 heads, d = 64, fp32; the two called in turn.\n\n"
    return "## Speed with an option\n\n" + text + table(("option", "case", "direction", "median", "p10"), lines) if lines else ""


def _refused(entries: Entries) -> str:
    """Who could not do what, once for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        result = entry["result"]
        if isinstance(result, dict) and "unsupported" in result:
            reasons.setdefault((result["title"], result["unsupported"]), []).append(result["name"])
    lines = [(name, reason, len(cases)) for (name, reason), cases in reasons.items()]
    return "## What others could not do\n\n" + table(("who", "why", "cases"), lines) if lines else ""

# benchmarks/compare.py: what the measured cells say about ours and the others, case by case.
from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from .cases import PAIR, Case
from .cell import DIRECTIONS
from .competitors import OURS
from .session import disturbance

Entries = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A case in one direction under one malloc, with everybody's measurement."""

    case: Case
    malloc: str
    direction: str
    measured: dict[str, dict[str, Any]]  # by competitor

    @property
    def ours(self) -> dict[str, Any]:
        return self.measured["ours"]

    @property
    def best_other(self) -> str | None:
        others = [name for name in self.measured if name not in (*OURS, "sdpa_causal")]  # that one computes something else
        return min(others, key=lambda name: float(self.measured[name]["median"]), default=None)

    def ratio(self, other: str | None, statistic: str = "median") -> float | None:
        """How many times as long the other one takes."""
        return self.measured[other][statistic] / self.ours[statistic] if other in self.measured else None

    @property
    def noisy(self) -> list[str]:
        return [name for name, measured in self.measured.items() if disturbance(measured) > 1]

    @property
    def memory_limit(self) -> int:
        """Results and 4 MiB a thread; for the pair its inputs too, for fused attention the gradients where there are any."""
        if self.case.op == "fused":
            results = self.case.results_bytes - (3 * self.case.rows_bytes if self.direction == "forward" else 0)
            return results + (self.case.threads << 22)
        return self.case.band_bytes + 2 * self.case.rows_bytes + (self.case.threads << 22)


def rows(entries: Entries) -> list[Row]:
    """In the order in which they were measured; only where ours was."""
    grouped: dict[tuple[str, str, str], Row] = {}
    for entry in entries:
        if entry["task"] != "cell" or "case" not in entry["result"]:
            continue
        result = entry["result"]
        for direction in DIRECTIONS:
            if direction in result:
                key = (result["name"], entry["malloc"], direction)
                row = grouped.setdefault(key, Row(Case(**result["case"]), entry["malloc"], direction, {}))
                row.measured[result["competitor"]] = result[direction]
    return [row for row in grouped.values() if "ours" in row.measured]


def pair_rows(entries: Entries, malloc: str | None = None) -> list[Row]:
    """The explicit pair in fp32, the cells that the bars speak of."""
    return [row for row in rows(entries) if row.case.op in PAIR and row.case.dtype == "fp32" and malloc in (None, row.malloc)]


def fused_rows(entries: Entries, malloc: str | None = None) -> list[Row]:
    return [row for row in rows(entries) if row.case.op == "fused" and malloc in (None, row.malloc)]


def main_rows(entries: Entries, malloc: str) -> list[Row]:
    """Fused attention with symmetric windows, d = 64, in fp32, on as many threads as the run has."""
    found = fused_rows(entries, malloc)
    threads = max((row.case.threads for row in found), default=0)
    return [row for row in found if (row.case.threads, row.case.dim, row.case.dtype, row.case.causal) == (threads, 64, "fp32", False)]


def decode_rows(entries: Entries) -> list[Row]:
    return [row for row in rows(entries) if row.case.op == "decode"]


def ratios(entries: Entries, malloc: str, other: str | None = None, least_window: int = 0) -> list[float]:
    """To the best other, or to one by name."""
    found = [row.ratio(other or row.best_other) for row in pair_rows(entries, malloc) if row.case.window >= least_window]
    return [ratio for ratio in found if ratio is not None]


def shares(entries: Entries) -> list[dict[str, Any]]:
    """The rows of all one-thread jobs."""
    return [row for entry in entries if entry["task"] == "shares" and isinstance(entry["result"], list) for row in entry["result"]]


def beside_fp32(rows: list[dict[str, Any]], dtype: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of this dtype with the fp32 row of the same case and direction."""
    fp32 = {(str(r["case"]), r["direction"]): r for r in rows}
    pairs = [(r, fp32.get((str(r["case"] | {"dtype": "fp32"}), r["direction"]))) for r in rows if r["case"]["dtype"] == dtype]
    return [(row, twin) for row, twin in pairs if twin is not None]


def thread_rows(entries: Entries) -> list[dict[str, Any]]:
    found = [entry for entry in entries if entry["task"] == "threads" and isinstance(entry["result"], list)]
    return [row | {"malloc": entry["malloc"]} for entry in found for row in entry["result"]]


def option_rows(entries: Entries) -> list[dict[str, Any]]:
    """What each option of window_attention costs."""
    return [row for entry in entries if entry["task"] == "options" and isinstance(entry["result"], list) for row in entry["result"]]


def overhead(entries: Entries) -> dict[str, dict[str, float]]:
    return next((entry["result"] for entry in entries if entry["task"] == "overhead" and "failed" not in entry["result"]), {})


def failures(entries: Entries) -> list[tuple[str, str]]:
    return [(e["label"], e["result"]["failed"]) for e in entries if isinstance(e["result"], dict) and "failed" in e["result"]]


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None

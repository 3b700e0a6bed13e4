# benchmarks/ranks/model.py: what a step costs, by a model of a few numbers that is fitted on some runs and tested on others.
"""A step is what a rank computes, and what it waits for:

    computed = crowd x (pair x pairs + row x rows)
    exposed  = rounds x (delays x delay + round) + wire x bytes / bandwidth + crowd x (byte x bytes + piece x rows in pieces)

`pairs` are those of queries and keys that are multiplied, `rows` the keys and queries that are looked at, both times heads x dim.
`rounds` are messages one after another: gloo announces each, so that a ring of P ranks has 2 (P - 1), an all-to-all 2, and an agreement,
whose tree is announced while the first rank gathers, 1 + log2(P). The halo's bytes travel while rows are computed that need none: exposed
is only what takes longer than that, the agreement before it, and what its pieces cost. `crowd`: where ranks share cores, each computes so
many times more slowly. What a round costs is fitted on agreements alone, the rest on steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .cases import RankCase
from .methods import payload
from .network import Wire

Entry = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """The numbers of the model: of a pair, a row, a delay, a round, a time on the wire, a byte, and a row that is computed in pieces."""

    pair: float
    row: float
    delays: float
    round: float
    wire: float
    byte: float
    piece: float


class Cost(NamedTuple):
    computed: float
    exposed: float

    @property
    def step(self) -> float:
        return self.computed + self.exposed

    @property
    def share(self) -> float:
        return self.exposed / self.step


def crowding(ranks: int, cores: int) -> float:
    """How many times longer a rank computes because others are on its core."""
    return max(1.0, ranks / cores)


def work(case: RankCase) -> tuple[float, float]:
    """(pairs, rows) of a rank inside the sequence, times heads x dim."""
    _, heads, length, dim = case.local_shape
    if case.method == "ulysses":
        heads, length = heads / case.ranks, length * case.ranks  # type: ignore[assignment]
    keys = {"halo": length + sum(case.window), "gather": case.length, "ulysses": length}[case.method]
    return heads * dim * length * (sum(case.window) + 1), heads * dim * (keys + length)


def agreement_rounds(ranks: int) -> int:
    return 1 + (ranks - 1).bit_length() if ranks > 1 else 0


def talk(case: RankCase) -> tuple[int, int]:
    """(rounds, bytes) of the rank that sends most, forward and backward."""
    ring, exchange = 2 * (case.ranks - 1), 2 * (case.ranks > 1)
    rounds = {"halo": agreement_rounds(case.ranks), "gather": ring + exchange, "ulysses": 4 * exchange}[case.method]
    inside = min(1, case.ranks - 1)
    return rounds, payload(case.method, inside, case.ranks, case.local_shape, case.window, 4)


def hidden(case: RankCase, computed: float) -> float:
    """Seconds of computing rows that need no halo, forward and backward; a halo exchange may take as long."""
    length = case.local_shape[2]
    return computed * max(0, length - sum(case.window)) / length if case.method == "halo" else 0.0


def predicted(machine: Machine, case: RankCase, wire: Wire, cores: int) -> Cost:
    crowd = crowding(case.ranks, cores)
    pairs, rows = work(case)
    computed = crowd * (machine.pair * pairs + machine.row * rows)
    numbers = np.array([machine.delays, machine.round, machine.wire, machine.byte, machine.piece])
    return Cost(computed, float(features(case, wire, cores, computed) @ numbers))


def features(case: RankCase, wire: Wire, cores: int, computed: float) -> np.ndarray:
    """What the exposed seconds are a sum of, times the last five numbers of the machine."""
    rounds, size = talk(case)
    on_wire = max(0.0, size * 8e-9 / wire.gigabits - hidden(case, computed))
    _, heads, length, dim = case.local_shape
    in_pieces = heads * dim * length if case.method == "halo" and case.ranks > 1 else 0
    crowd = crowding(case.ranks, cores)
    return np.array([rounds * wire.milliseconds / 1e3, rounds, on_wire, crowd * size, crowd * in_pieces])


def fitted(entries: Sequence[Entry]) -> Machine:
    """By least squares of relative errors of the step, none of the numbers negative."""
    chosen = [entry for entry in entries if entry["fitted"]]
    cases = [case_of(entry) for entry in chosen]
    crowd = np.array([crowding(case.ranks, entry["cores"]) for case, entry in zip(cases, chosen, strict=True)])
    computed = np.array([seen(entry).computed for entry in chosen])
    exposed = np.array([seen(entry).exposed for entry in chosen])
    pair, row = _non_negative(crowd[:, None] * np.array([work(case) for case in cases]), computed, computed)
    waited = np.array([
        features(case, Wire(**entry["wire"]), entry["cores"], seconds)
        for case, entry, seconds in zip(cases, chosen, computed, strict=True)
    ])  # fmt: skip
    agreements = [entry for entry in chosen if entry["case"]["ranks"] > 1]
    rounds = np.array([
        [agreement_rounds(entry["case"]["ranks"]) * x for x in (entry["wire"]["milliseconds"] / 1e3, 1.0)] for entry in agreements
    ])  # fmt: skip
    agreed = np.array([entry["agreement"] for entry in agreements])
    of_round = _non_negative(rounds, agreed, agreed)
    return Machine(pair, row, *of_round, *_non_negative(waited[:, 2:], exposed - waited[:, :2] @ of_round, computed + exposed))


def _non_negative(features: np.ndarray, values: np.ndarray, scale: np.ndarray) -> list[float]:
    """The best of the least-squares solutions of all subsets of the features in which no number is negative."""
    count = features.shape[1]
    best, least = np.zeros(count), np.inf
    weighted, target = features / scale[:, None], values / scale
    for subset in range(1, 1 << count):
        used = [n for n in range(count) if subset >> n & 1]
        numbers = np.zeros(count)
        numbers[used] = np.linalg.lstsq(weighted[:, used], target, rcond=None)[0]
        error = float(np.square(weighted @ numbers - target).sum())
        if error < least and (numbers >= 0).all():
            best, least = numbers, error
    return [float(number) for number in best]


def case_of(entry: Entry) -> RankCase:
    case = RankCase(**entry["case"])
    return replace(case, window=(case.window[0], case.window[1]))


def seen(entry: Entry) -> Cost:
    """Medians of the repeats."""
    alone, together = (float(np.median(entry["seconds"][name])) for name in ("alone", "together"))
    return Cost(alone, max(together - alone, 0.0))

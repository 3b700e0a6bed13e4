"""tests/python/distributed/test_train_benchmark.py: the benchmark over ranks: its methods, its wire and its model are right."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))  # the benchmarks are run from the source tree, no part of the package

from benchmarks import machine
from benchmarks.ranks import launch, model, network, report
from benchmarks.ranks.cases import METHOD_NAMES, RUNS, THE_BAR, Run, quick
from benchmarks.ranks.network import Loopback, Relay, Wire

pytestmark = pytest.mark.best_backend
TINY = Run("tiny", 2, Wire(1.0, 1.0), ((64, (7, 3)),), repeats=1)


@pytest.mark.long
def test_every_method_is_right_and_sends_what_it_has_to() -> None:
    """The ranks check results themselves, and fail. Loopback counts what both send, with headers: between once and ten times as much."""
    entries = launch.measured(TINY, Loopback("asked for"))
    assert [entry["case"]["method"] for entry in entries] == list(METHOD_NAMES)
    for entry in entries:
        assert all(len(times) == 1 and times[0] > 0 for times in entry["seconds"].values())
        assert all(sum(entry["payload"]) <= sent for sent in entry["sent"])
    halo, gather, _ = (sum(entry["payload"]) for entry in entries)
    row = 2 * 8 * 64 * 4  # k and v
    assert (halo, gather) == (2 * row * (7 + 3), 2 * row * 64)


class Clock:
    now = 100.0


def packet(to: int, size: int) -> bytes:
    return (b"\x45" + bytes(18) + bytes([to + 1])).ljust(size, b"\0")


def test_the_wire_has_its_bandwidth_and_its_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte is a second on it, the way is 1000 s long; packets leave, and arrive, one after another."""
    monkeypatch.setattr(network.time, "monotonic", lambda: Clock.now)
    pipes = [os.pipe() for _ in range(3)]  # a packet that comes from a rank is read from its pipe's first end
    relay = Relay([read for read, _ in pipes], Wire(8e-9, 1e6))
    try:
        for rank, to, size in ((0, 2, 20), (0, 2, 30), (1, 2, 40), (2, 0, 50)):
            os.write(pipes[rank][1], packet(to, size))
            relay._take(relay.devices[rank])
    finally:
        for end in (end for pipe in pipes for end in pipe):
            os.close(end)
    arrived = sorted((when, relay.devices.index(to), len(content)) for when, _, to, content in relay.under_way)
    # The second waits for the first to leave; the third is not slower than they, but finds the receiver's side taken until both are in.
    assert arrived == [(1120, 2, 20), (1150, 0, 50), (1150, 2, 30), (1190, 2, 40)]


def entries_of(numbers: model.Machine, cores: int = 2) -> list[dict[str, Any]]:
    """What would be measured if the model were the truth."""
    entries = []
    for run in RUNS:
        for case in run.cases():
            cost = model.predicted(numbers, case, run.wire, min(cores, run.ranks))
            agreed = model.agreement_rounds(case.ranks) * (numbers.delays * run.wire.milliseconds / 1e3 + numbers.round)
            seconds = {"alone": [cost.computed], "together": [cost.step]}
            entry = {"run": run.name, "fitted": run.fitted, "case": asdict(case), "wire": asdict(run.wire), "cores": min(cores, run.ranks)}
            entries.append(
                entry
                | {
                    "loopback": "",
                    "malloc": run.malloc,
                    "seconds": seconds,
                    "sent": [0],
                    "payload": [0],
                    "wire seen": [],
                    "agreement": agreed,
                }
            )
    return entries


TRUE = model.Machine(pair=1e-10, row=3e-10, delays=1.5, round=2e-4, wire=1.1, byte=1e-9, piece=1e-9)


def test_the_model_finds_the_numbers_that_made_the_measurements() -> None:
    found = model.fitted(entries_of(TRUE))
    assert asdict(found) == pytest.approx(asdict(TRUE), rel=1e-6)
    without = model.fitted(entries_of(replace(TRUE, round=0.0)))
    assert without.round == pytest.approx(0.0, abs=1e-9) and without.byte == pytest.approx(TRUE.byte, rel=1e-6)


def test_a_halo_is_exposed_where_there_is_nothing_to_compute_meanwhile() -> None:
    run = next(run for run in RUNS if run.name == THE_BAR)
    halo = run.cases()[0]
    slow = Wire(1e-4, 1.0)
    hidden, bare = (model.predicted(replace(TRUE, piece=0.0), halo, wire, 4).exposed for wire in (run.wire, slow))
    _, size = model.talk(halo)
    assert hidden < size * 8e-9 / run.wire.gigabits  # less than the bytes alone would take
    assert bare > size * 8e-9 / slow.gigabits


def test_the_report_judges_and_extends() -> None:
    entries = entries_of(TRUE)
    assert [bar.met for bar in report.bars(entries)] == [True, True]
    assert [bar.met for bar in report.bars(entries_of(replace(TRUE, round=10.0)))] == [False, False]
    assert [bar.met for bar in report.bars([])] == [None, None]
    text = report.render({"machine": machine.describe(), "entries": entries})
    assert "no limits, ms" in text and "**met**" in text and "100,000,000" in text and "at most 0 % in the others" in text
    assert "no right" in report.render({"machine": {}, "entries": [entry | {"loopback": "no right"} for entry in entries]})


def test_plan() -> None:
    assert {run.ranks for run in RUNS} == {1, 2, 4, 8}
    assert any(run.fitted for run in RUNS) and not next(run for run in RUNS if run.name == THE_BAR).fitted
    for run in (*RUNS, *quick()):
        for case in run.cases():
            assert case.length % case.ranks == 0 and case.heads % case.ranks == 0
            assert max(case.window) <= case.length // case.ranks  # what `payload` counts on
    assert math.isclose(model.crowding(4, 2), 2.0) and model.crowding(1, 2) == 1.0

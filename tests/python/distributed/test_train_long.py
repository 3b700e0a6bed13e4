"""tests/python/distributed/test_train_long.py: the demo over ranks: as one process learns, on any mesh, after any rank's death."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from child import run

pytestmark = [pytest.mark.best_backend, pytest.mark.long]

STEPS, KILLED = 12, 11  # the only checkpoint before the last one is that of step 10
ROWS, CONTEXT, WINDOW, LAYERS, WIDTH = 2, 50, 12, 2, 16
PLAN = f"--steps {STEPS} --rows {ROWS} --context {CONTEXT} --window {WINDOW} --layers {LAYERS} --width {WIDTH} --heads 2 --weights float64"
DDP, FSDP = "--data-parallel 2", "--data-parallel 2 --fsdp"
MESHES = {"3": (3, ""), "2 x 2, DDP": (4, DDP), "2 x 2, FSDP2": (4, FSDP)}
# Where which of three ranks dies, and on what the run is resumed: as it was, on more, on sharded weights, on fewer.
FAULTS = {"data": (0, 3, ""), "forward": (1, 4, DDP), "backward": (2, 4, FSDP), "gradients": (1, 2, ""), "checkpoint": (0, 1, "")}
EXACT = 1e-9  # sums in another order are 1e-16 apart in float64, which twelve steps of training make a million times more at most


@functools.cache
def found() -> dict[str, Any]:
    """Of each run: what became of its ranks, and the summary in its folder. One start of Python for all, the ranks being forks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "words.txt"
        text.write_text("\n\n".join(f"Paragraph {n} counts {n * n} apples and {n**3} pears." for n in range(300)))
        runs: dict[str, dict[str, Any]] = {}

        def add(title: str, out: str, ranks: int, options: str, kill: Any = None) -> None:
            arguments = f"--out {folder / out} --timeout 30 {options}".split()
            runs[title] = {"out": out, "ranks": ranks, "arguments": arguments, "kill": kill}

        for number, (title, (ranks, options)) in enumerate({"1": (1, ""), **MESHES}.items()):
            add(title, f"mesh{number}", ranks, f"--text {text} {PLAN} {options}")
        for place, (rank, ranks, options) in FAULTS.items():
            add(place, place, 3, f"--text {text} {PLAN}", (rank, place, STEPS if place == "checkpoint" else KILLED))
            add(f"{place}, resumed", place, ranks, f"--resume {options}")
        deaths = [made for made in runs.values() if made["kill"]]  # at the same time, for those that live wait
        todo = [deaths, *([made] for made in runs.values() if not made["kill"])]
        file = folder / "runs.json"
        file.write_text(json.dumps(todo))
        said = json.loads(run("import sys, train_ranks; train_ranks.main(sys.argv[1])", file, timeout=500))
        for made, of_ranks in zip(chain(*todo), chain(*said), strict=True):
            summary = folder / made["out"] / "summary.json"
            made |= {"said": of_ranks, "summary": json.loads(summary.read_text()) if summary.exists() else {}}
        return runs


def assert_as_alone(title: str) -> None:
    made, alone = found()[title], found()["1"]["summary"]
    assert [status for status, _ in made["said"]] == [0] * made["ranks"], made["said"]
    losses, held_out = made["summary"]["losses"], [bits for _, bits in made["summary"]["held_out"]]
    assert len(losses) == STEPS and losses[-1] < losses[0] - 1  # it learns: equal losses are not those of weights that never change
    assert losses == pytest.approx(alone["losses"], abs=EXACT, rel=0)
    assert held_out == pytest.approx([bits for _, bits in alone["held_out"]], abs=EXACT, rel=0)


@pytest.mark.parametrize("mesh", MESHES)
def test_any_mesh_learns_as_one_process_does(mesh: str) -> None:
    assert_as_alone(mesh)


@pytest.mark.parametrize("place", FAULTS)
def test_after_a_death_all_others_end_with_its_rank(place: str) -> None:
    killed = FAULTS[place][0]
    for rank, (status, said) in enumerate(found()[place]["said"]):
        if rank == killed:
            assert status == -9
        else:
            assert status == 1, said
            gone = re.search(rf"train_long.py: rank {rank}: ranks? ([\d, ]+) (is|are) gone", said)
            assert gone and str(killed) in gone[1].split(", "), said


@pytest.mark.parametrize("place", FAULTS)
def test_after_a_death_a_resumed_run_ends_as_an_undisturbed_one(place: str) -> None:
    assert_as_alone(f"{place}, resumed")


@pytest.mark.parametrize("mesh", ["3", "2 x 2, DDP"])
def test_the_report_counts_the_bytes_of_the_windows(mesh: str) -> None:
    """Keys and values forward, their gradients backward, each once over each border."""
    given = [of_rank.get("keys and values of windows, and their gradients", 0) for of_rank in found()[mesh]["summary"]["given"]]
    ranks, data = MESHES[mesh][0], found()[mesh]["summary"]["ranks"][1]
    once = LAYERS * 2 * (ROWS // data) * WINDOW * WIDTH * 8  # k and v of a window in float64
    places = [rank // data for rank in range(ranks)]
    last = max(places)
    assert given == [once * ((place < last) + (place > 0)) for place in places]


def test_only_the_first_rank_shows_progress() -> None:
    first, *others = (said for _, said in found()["3"]["said"])
    assert "held-out:" in first and "training" in first
    assert others == ["", ""]

"""tests/python/test_gpu_pieces.py: the checks of a GPU in pieces: each goes on where the last one was cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from child import run

pytestmark = pytest.mark.best_backend

# A piece: the time is up within the check `hangs`, as its clock would say it.
PIECE = """
    import sys
    from pathlib import Path
    import torch
    from window_matmul.testing import program
    from window_matmul.testing.outcome import Outcome

    def fine(device, budget):
        print("fine runs")
        return Outcome("fine", cases=1)

    def hangs(device, budget):
        session._time_is_up()

    def last(device, budget):
        return Outcome("last", cases=1)

    session = program.Session(torch.device("cpu"), Path(sys.argv[1]), 8, False, int(sys.argv[2]), resume=True)
    sys.exit(session.run(((fine, 0.0), (hangs, 0.0), (last, 0.0)), lambda text: print(text, flush=True)))
"""


def test_pieces(tmp_path: Path) -> None:
    """A check that is cut off is begun again, once: one that hangs fails, and those behind it are reached."""
    first, second, third = (run(PIECE, tmp_path, 0, status=status) for status in (4, 4, 1))
    assert "fine runs" in first and "TO BE CONTINUED from __main__.hangs on" in first
    assert "fine runs" not in second and "FAILED: hangs" in second
    assert "FAILED: hangs (2 cases in 3 checks" in third
    checks = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert [c["title"] for c in checks] == ["fine", "hangs", "last"] and [c["passed"] for c in checks] == [True, False, True]
    assert "is of something else (seed: 0)" in run(PIECE, tmp_path, 1, status=2)

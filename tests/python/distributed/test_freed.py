"""tests/python/distributed/test_freed.py: what has been trained with is freed: a rank's memory does not grow from step to step."""

from __future__ import annotations

import pool
import pytest

pytestmark = [pytest.mark.best_backend, pytest.mark.long]


def test_a_step_leaves_no_tensor_behind() -> None:
    for counts in pool.run("freed:tensors_after_steps", 3, 4):
        assert counts == counts[:1] * 4

"""tests/python/distributed/test_steps.py: gradients that several steps have a part in, without any processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from window_matmul.distributed.steps import Sum

pytestmark = pytest.mark.best_backend

ROWS = 9
ranges = st.lists(st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)).map(lambda ends: (min(ends), max(ends))), max_size=6)


@given(ranges, st.integers(0, 1))
def test_a_sum_is_what_adding_one_after_another_gives(written: list[tuple[int, int]], dim: int) -> None:
    """Bit for bit; rows that nobody writes are zeros, whatever was in their memory."""
    torch.manual_seed(0)
    shape = [2, 2]
    shape[dim] = ROWS
    total, want = Sum(torch.full(shape, torch.nan), dim), torch.zeros(shape)
    for begin, end in written:
        shape[dim] = end - begin
        x = torch.randn(shape)
        want.narrow(dim, begin, end - begin).add_(x)
        with total.room((begin, end)) as room:
            room.copy_(x)
    assert torch.equal(total.done(), want)

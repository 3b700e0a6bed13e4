"""tests/python/test_attention_random.py: random combinations of every option of window_attention, forward and backward, against the
definition."""

from __future__ import annotations

import hypothesis
import torch
from hypothesis import strategies as st

from attention_cases import Case, check_case
from attention_oracle import Rule
from cases import LAYOUTS
from oracle import DTYPES

OPERATOR = "attention"
EXAMPLES = 400
lengths = st.integers(0, 12) | st.sampled_from([15, 16, 17, 31, 33])
dims = st.integers(0, 9) | st.sampled_from([15, 16, 17, 31, 32, 33, 64, 65])
sides = st.integers(0, 6) | st.sampled_from([15, 16, 40])
distances = st.integers(1, 4) | st.sampled_from([1, 1, 1, 20])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    bias = draw(st.sampled_from(["", "", "slots", "full"]))
    side = sides if bias else st.none() | sides | sides | sides
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries = draw(lengths)
    keys = draw(st.just(queries) | lengths)
    dilation = draw(distances) if draw(st.booleans()) else tuple(draw(distances) for _ in range(kv_heads * group))
    offset = draw(st.none() | st.none() | st.integers(-queries - 4, keys + 4))
    dim = draw(dims)
    what_is_global = draw(st.sampled_from(["", "", "number", "mask"]))
    return Case(
        Rule(draw(side), draw(st.just(0) | side), dilation, offset),
        queries,
        keys,
        batch=draw(st.integers(1, 2)),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        dim=dim,
        value_dim=draw(dims),
        scale=draw((st.none() if dim else st.nothing()) | st.sampled_from([0.5, -0.2, 1.0, 3.0])),
        softcap=draw(st.sampled_from([0.0, 0.0, 1.5, 20.0])),
        bias=bias,
        wide_bias=draw(st.booleans()),
        hides=draw(st.booleans()),
        sinks=draw(st.booleans()),
        key_mask=draw(st.booleans()),
        global_tokens=draw(st.integers(0, keys + 2)) if what_is_global == "number" else None,
        global_mask=what_is_global == "mask",
    )


@hypothesis.settings(max_examples=EXAMPLES)
@hypothesis.given(case=cases(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS), through_lse=st.booleans())
def test_results_and_gradients(backend: str, case: Case, dtype: torch.dtype, layout, through_lse: bool) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(7)
    check_case(case, dtype, layout, through_lse=through_lse)

"""tests/python/test_attention_random.py: random combinations of every option of window_attention, forward and backward, against the
definition."""

from __future__ import annotations

import hypothesis
import torch
from hypothesis import strategies as st

from attention_cases import Case, check_case, random_cases
from cases import LAYOUTS
from oracle import DTYPES

OPERATOR = "attention"
EXAMPLES = 200


@hypothesis.settings(max_examples=EXAMPLES)
@hypothesis.given(case=random_cases(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS), through_lse=st.booleans())
def test_results_and_gradients(backend: str, case: Case, dtype: torch.dtype, layout, through_lse: bool) -> None:  # type: ignore[no-untyped-def]
    torch.default_generator.manual_seed(7)
    check_case(case, dtype, layout, through_lse=through_lse)

# benchmarks/competitors/sdpa_causal.py: torch's causal attention without a window, for orientation: what a window could save.
from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F

from ..cases import Case
from . import Fastest, Function, Unsupported

TITLE = "causal SDPA, no window"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def answers(case: Case) -> Case:
    return replace(case, window=case.length - 1, causal=True)


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op != "fused":
        raise Unsupported("it stands beside fused attention only")
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), "computes something else"

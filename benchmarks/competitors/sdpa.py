# benchmarks/competitors/sdpa.py: torch's scaled_dot_product_attention with the band as a dense boolean mask.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cases import Case
from . import Fastest, Function, Unsupported

TITLE = "scaled_dot_product_attention, dense mask"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op != "attention":
        raise Unsupported("it never shows its scores: only whole attention can be compared")
    # Kept between calls: making it is not timed.
    mask = torch.ones(case.length, case.length, dtype=torch.bool).tril_(case.window).triu_(-case.window)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attention, f"mask of {mask.numel() >> 20} MiB kept"

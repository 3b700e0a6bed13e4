# benchmarks/competitors/sdpa.py: torch's scaled_dot_product_attention with the band as a dense boolean mask.
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..cases import PAIR, Case
from . import Fastest, Function, Unsupported

TITLE = "scaled_dot_product_attention, dense mask"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op in PAIR:
        raise Unsupported("it never shows its scores: only whole attention can be compared")
    if backward and case.op == "decode":
        raise Unsupported("decoding has no backward pass")
    # Kept between calls: making it is not timed.
    last = case.length - case.queries  # the key aligned with query 0
    mask = case.sees(last, case.length, 0, case.length)
    shared = bool(case.kv_heads)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=shared)

    return attention, f"mask of {mask.numel() >> 20} MiB kept"

# benchmarks/competitors/flex_attention.py: torch's FlexAttention, compiled.
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cases import Case
from . import Fastest, Function, Unsupported

TITLE = "FlexAttention, compiled"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    """Compiled, and its block mask made, before anything is timed."""
    if case.op != "fused":
        raise Unsupported("it never shows its scores, and is compared with fused attention")
    where = torch.get_default_device()
    if backward and where.type == "cpu":
        raise Unsupported("FlexAttention does not support backward on CPU")
    from torch._inductor import config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j >= i - case.left) & (j <= i + case.right)

    config.compile_threads = 1  # no pool of processes that would outlive this one
    mask: Any = create_block_mask(sees, None, None, case.length, case.length, device=where)
    compiled = torch.compile(flex_attention, dynamic=False)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return compiled(q, k, v, block_mask=mask)

    try:
        with torch.no_grad():
            attention(*case.inputs())
    except Exception as error:  # no C++ compiler, or a shape that its templates refuse
        reason = str(error).strip().splitlines()
        raise Unsupported(f"it cannot be compiled here: {type(error).__name__}: {reason[0] if reason else ''}") from error
    return attention, f"blocks of {mask.BLOCK_SIZE[0]} x {mask.BLOCK_SIZE[1]}"

# benchmarks/gpu/varlen.py: torch's own flash attention with windows, which it has for packed sequences: here a batch as one pack.
from __future__ import annotations

import torch
from torch import Tensor

from ..cases import Case
from ..competitors import Fastest, Function, Unsupported

TITLE = "varlen_attn(window_size=)"
OUTSIDE = 0.0
EXACT_OUTSIDE = True
ON = ("cuda",)  # devices that torch has it for


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    where = torch.get_default_device()
    if case.op != "fused":
        raise Unsupported("it never shows its scores, and is compared with fused attention")
    if where.type not in ON:
        raise Unsupported(f"torch has it on {', '.join(ON)}, not on {where.type}")
    from torch.nn.attention.varlen import varlen_attn

    bounds = torch.arange(0, (case.batch + 1) * case.length, case.length, dtype=torch.int32)

    def pack(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(0, 1)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sides = case.left, case.right
        out = varlen_attn(pack(q), pack(k), pack(v), bounds, bounds, case.length, case.length, window_size=sides)
        assert isinstance(out, Tensor)
        batch: Tensor = out.unflatten(0, (case.batch, case.length))
        return batch.transpose(1, 2)

    try:
        attention(*case.inputs())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a dtype or a window that it refuses
        reason = str(error).strip().splitlines()
        raise Unsupported(f"it refuses: {type(error).__name__}: {reason[0] if reason else ''}") from error
    return attention, ""

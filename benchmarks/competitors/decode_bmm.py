# benchmarks/competitors/decode_bmm.py: decoding by torch's own operators over the slice of the cache that is seen, heads grouped.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cases import Case
from . import Fastest, Function, Unsupported

TITLE = "best PyTorch decoding"
OUTSIDE = 0.0
EXACT_OUTSIDE = True
ROUNDINGS = 4  # the scaled query, scores, weights, output


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    """Query heads that share keys are the rows of one matrix: two bmm with a softmax between them, or SDPA over these rows."""
    if case.op != "decode" or backward:
        raise Unsupported("it decodes, without gradients")
    seen, kv_heads = slice(case.length - case.width, None), case.kv_heads or case.heads
    rows = (case.batch * kv_heads, case.heads // kv_heads, case.dim)

    def grouped_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = (x[:, :, seen].flatten(0, 1) for x in (k, v))
        scores = torch.bmm(q.reshape(rows) * case.dim**-0.5, keys.mT)
        return torch.bmm(scores.softmax(-1), values).view(q.shape)

    def folded_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        folded = q.view(case.batch, kv_heads, rows[1], case.dim)
        return F.scaled_dot_product_attention(folded, k[:, :, seen], v[:, :, seen]).view(q.shape)

    forms = {"grouped bmm": grouped_bmm, "folded SDPA": folded_sdpa}
    inputs = case.inputs()
    with torch.no_grad():
        name, _ = fastest({name: lambda form=form: form(*inputs) for name, form in forms.items()})  # type: ignore[misc]
    return forms[name], name

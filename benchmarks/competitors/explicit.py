# benchmarks/competitors/explicit.py: attention by our explicit pair with the softmax between them, the scores stored.
from __future__ import annotations

from ..cases import Case
from . import Fastest, Function, Unsupported
from .ours import explicit_attention

TITLE = "our explicit pair"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op != "fused":
        raise Unsupported("everywhere else the explicit pair is what is measured as ours")
    return lambda q, k, v: explicit_attention(q, k, v, (case.left, case.right)), ""

# benchmarks/competitors/local_attention.py: the package local-attention with exact windows.
from __future__ import annotations

import importlib
from importlib.metadata import version
from importlib.util import find_spec

from ..cases import Case
from . import Fastest, Function, Unsupported

TITLE = "local-attention"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op != "fused":
        raise Unsupported("it is whole attention, and stands beside fused attention only")
    if not find_spec("local_attention"):
        raise Unsupported("local-attention is not installed: pip install 'window_matmul[bench]'")
    if case.length % case.window:
        raise Unsupported(f"the length, {case.length}, is no multiple of w = {case.window}")
    package = importlib.import_module("local_attention")
    layer = package.LocalAttention(case.window, causal=case.causal, exact_windowsize=True, use_rotary_pos_emb=False)
    return layer, f"local-attention {version('local-attention')}"

# benchmarks/competitors/ours.py: the operators as a user calls them.
from __future__ import annotations

from torch import Tensor

from window_matmul import unwindow_matmul, window_attention, window_matmul, window_softmax

from ..cases import Case
from . import Fastest, Function

TITLE = "window_matmul"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    w = case.left, case.right
    functions: dict[str, Function] = {
        "window": lambda q, k: window_matmul(q, k, w),
        "unwindow": lambda a, v: unwindow_matmul(a, v, w),
        "attention": lambda q, k, v: explicit_attention(q, k, v, w),
    }
    return functions.get(case.op, lambda q, k, v: window_attention(q, k, v, w)), ""


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, w: tuple[int, int]) -> Tensor:
    return unwindow_matmul(window_softmax(window_matmul(q * q.shape[-1] ** -0.5, k.mT, w), w), v, w)

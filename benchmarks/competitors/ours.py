# benchmarks/competitors/ours.py: window_matmul, window_softmax and unwindow_matmul as a user calls them.
from __future__ import annotations

from torch import Tensor

from window_matmul import unwindow_matmul, window_matmul, window_softmax

from ..cases import Case
from . import Fastest, Function

TITLE = "window_matmul"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    w = case.window

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return unwindow_matmul(window_softmax(window_matmul(q * case.dim**-0.5, k.mT, w), w), v, w)

    functions: dict[str, Function] = {
        "window": lambda q, k: window_matmul(q, k, w),
        "unwindow": lambda a, v: unwindow_matmul(a, v, w),
        "attention": attention,
    }
    return functions[case.op], ""

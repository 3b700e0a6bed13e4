# benchmarks/competitors/dense.py: the whole L x L matrix, with the band cut out of it or laid into it.
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..cases import PAIR, Case
from . import Fastest, Function, Unsupported

TITLE = "dense product, band cut out"
OUTSIDE = 0.0
EXACT_OUTSIDE = True
MOST_BYTES = 2**30


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op not in PAIR:
        raise Unsupported("dense attention is measured as scaled_dot_product_attention")
    columns = case.length + 2 * case.window  # with w empty keys on each side the band is one stripe without edges
    matrix = case.batch * case.heads * case.length * columns * case.itemsize
    if matrix > MOST_BYTES:
        raise Unsupported(f"its matrix would take {matrix >> 20} MiB")
    shape = (case.batch, case.heads, case.length, case.width)
    strides = (case.heads * case.length * columns, case.length * columns, columns + 1, 1)

    def window(q: Tensor, k: Tensor) -> Tensor:
        return (q @ F.pad(k, (case.window, case.window))).as_strided(shape, strides).contiguous()

    def unwindow(a: Tensor, v: Tensor) -> Tensor:
        matrix = a.new_zeros(*shape[:-1], columns).as_strided_scatter(a, shape, strides)
        return matrix @ F.pad(v, (0, 0, case.window, case.window))

    return (window if case.op == "window" else unwindow), ""

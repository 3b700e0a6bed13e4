# benchmarks/competitors/rolling_cache.py: decoding with our RollingCache: append a token, attend to the window.
from __future__ import annotations

from torch import Tensor

from window_matmul import RollingCache

from ..cases import DTYPES, Case
from . import Fastest, Function, Unsupported

TITLE = "RollingCache.attend"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    """The cache holds what the last query sees but its own token: the first call's result is the case's, later ones roll on."""
    if case.op != "decode" or backward:
        raise Unsupported("it decodes, without gradients")
    cache = RollingCache(case.batch, case.kv_heads or case.heads, case.dim, (case.window, 0), dtype=DTYPES[case.dtype])
    q, k, v = case.inputs()
    for j in range(case.length - case.width, case.length - 1):
        cache.attend(q, k[:, :, j : j + 1], v[:, :, j : j + 1])

    token = q, k[:, :, -1:], v[:, :, -1:]  # as a model has it: tensors of their own, not slices to be taken at each call

    def attend(*_: Tensor) -> Tensor:
        return cache.attend(*token)

    return attend, f"{cache.nbytes / 2**20:.0f} MiB"

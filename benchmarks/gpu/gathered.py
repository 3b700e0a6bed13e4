# benchmarks/gpu/gathered.py: the pair as torch.compile makes it from sums over unfolded keys: nothing but the band is computed.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cases import PAIR, Case
from ..competitors import Fastest, Function, Unsupported
from .strided_bmm import Forms

TITLE = "torch.compile, unfold"
OUTSIDE = 0.0
EXACT_OUTSIDE = True
BACKEND = "inductor"


def _out(q: Tensor, padded: Tensor, width: int) -> Tensor:
    wide = torch.promote_types(q.dtype, torch.float32)
    return (q.to(wide).unsqueeze(-1) * padded.unfold(1, width, 1).to(wide)).sum(2).to(q.dtype)


def _in(a: Tensor, padded: Tensor, width: int) -> Tensor:
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide).unsqueeze(2) * padded.unfold(1, width, 1).to(wide)).sum(-1).to(a.dtype)


def forms(w: int, backend: str) -> Forms:
    width = 2 * w + 1
    out, inward = (torch.compile(form, dynamic=False, backend=backend) for form in (_out, _in))

    def pad(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, w, w))

    def turned(a: Tensor) -> Tensor:
        """The band seen from the keys, a view: slot c of key j is slot 2w - c of query j + c - w."""
        padded = pad(a)
        return padded.as_strided(a.shape, (padded.stride(0), width, width - 1), 2 * w)

    return Forms(
        lambda q, k: out(q, pad(k), width),
        lambda a, v: inward(a, pad(v), width),
        lambda a, x: inward(turned(a), pad(x), width),
    )


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    """Compiled by a first call, before anything is timed."""
    if case.op not in PAIR:
        raise Unsupported("it is the explicit pair")
    function = forms(case.window, BACKEND).function(case.op)
    (left, right), g = case.tensors(torch.get_default_device())  # type: ignore[attr-defined]
    leaves = left.requires_grad_(), right.requires_grad_()
    try:
        output = function(*leaves)
        if backward:
            torch.autograd.grad(output, leaves, g)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, or code that it refuses
        reason = str(error).strip().splitlines()
        raise Unsupported(f"it cannot be compiled here: {type(error).__name__}: {reason[0] if reason else ''}") from error
    return function, BACKEND

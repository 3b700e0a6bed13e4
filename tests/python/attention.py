"""tests/python/attention.py: the three operators in a row, ours and the oracle's, as the subject of the tests of PyTorch's machinery."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import oracle
from oracle import Band
from window_matmul import unwindow_matmul, window_matmul, window_softmax

BAND = Band(2, 1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (..., Lq, N), k (..., Lk, N), v (..., Lk, N) -> (..., Lq, N)."""
    scores = window_matmul(q, k.mT, BAND.window, dilation=2, fill=-torch.inf)
    p = window_softmax(scores, BAND.window, dilation=2, num_keys=k.shape[-2])
    return unwindow_matmul(p, v, BAND.window, dilation=2)


def attend_by_oracle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = oracle.window_softmax(oracle.window_matmul(q, k.mT, BAND), BAND, k.shape[-2])
    return oracle.unwindow_matmul(p, v, BAND)


def inputs(*batch: int, lq: int = 7, lk: int = 9, dim: int = 3, dtype: torch.dtype = torch.float64, grad: bool = False) -> list[Tensor]:
    return [torch.randn(*batch, length, dim, dtype=dtype, requires_grad=grad) for length in (lq, lk, lk)]


def loss(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: f(*args).sin().sum()


def each_operator() -> list[tuple[str, Callable[..., Tensor], Callable[..., Tensor], Callable[..., list[Tensor]]]]:
    """Name, operator, oracle, inputs of given leading dims: the three, with a dilation for each of two heads."""
    band = Band(2, 1, (1, 3))

    def tensors(*ends: tuple[int, int]) -> Callable[..., list[Tensor]]:
        def make(*batch: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> list[Tensor]:
            return [torch.randn(*batch, 2, *end, dtype=dtype, requires_grad=grad) for end in ends]

        return make

    return [
        (
            "window_matmul",
            lambda q, k: window_matmul(q, k, (2, 1), dilation=(1, 3)),
            lambda q, k: oracle.window_matmul(q, k, band),
            tensors((6, 3), (3, 8)),
        ),
        (
            "unwindow_matmul",
            lambda a, v: unwindow_matmul(a, v, (2, 1), dilation=(1, 3)),
            lambda a, v: oracle.unwindow_matmul(a, v, band),
            tensors((6, 4), (8, 3)),
        ),
        (
            "window_softmax",
            lambda a: window_softmax(a, (2, 1), dilation=(1, 3), num_keys=8),
            lambda a: oracle.window_softmax(a, band, 8),
            tensors((6, 4)),
        ),
    ]


OPERATORS = each_operator()
NAMES = [name for name, *_ in OPERATORS]

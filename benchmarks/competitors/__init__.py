# benchmarks/competitors/__init__.py: the list of competitors and what each of their files offers.
"""A competitor is a module with
    TITLE              one line for the report
    OUTSIDE            what its window product holds in slots whose key does not exist
    EXACT_OUTSIDE      whether its gradients are 0 there
    prepare(case, backward, fastest) -> (function of the case's inputs, how it was set up); raises Unsupported
`fastest` times candidates, so that a competitor can choose its block sizes for this case and direction.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from torch import Tensor

from ..cases import Case

Function = Callable[..., Tensor]
Fastest = Callable[[Mapping[str, Callable[[], object]]], tuple[str, float]]  # -> the fastest candidate's name, its seconds

NAMES = ("ours", "band_bmm", "sliding_chunks", "dense", "sdpa")


class Unsupported(Exception):
    """This competitor cannot do this case; the text says why."""


class Competitor(Protocol):
    TITLE: str
    OUTSIDE: float
    EXACT_OUTSIDE: bool

    def prepare(self, case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]: ...


def load(name: str) -> Competitor:
    return cast(Competitor, importlib.import_module(f"{__name__}.{name}"))


def entrants(case: Case, malloc: str) -> list[str]:
    """Who is measured on a case: everybody for whom it is no foregone conclusion."""
    if case.op == "attention":
        return ["ours", "sdpa"]
    if case.dtype != "fp32":
        return ["ours", "band_bmm"]
    # Where the L x L matrix is more than 8 times the band, dense products are not even near.
    dense = ["dense"] if case.length <= 4096 and case.window >= 256 and malloc == "default" else []
    return ["ours", "band_bmm", "sliding_chunks", *dense]

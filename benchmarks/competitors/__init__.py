# benchmarks/competitors/__init__.py: the list of competitors and what each of their files offers.
"""A competitor is a module with
    TITLE              one line for the report
    OUTSIDE            what its window product holds in slots whose key does not exist
    EXACT_OUTSIDE      whether its gradients are 0 there
    prepare(case, backward, fastest) -> (function of the case's inputs, how it was set up); raises Unsupported
    ROUNDINGS          only where it stores more than two numbers in the case's dtype on the way to a result: how many
    answers(case)      only where it does not compute the case: the case that it does compute, and is checked against
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

OURS = ("ours", "explicit", "rolling_cache")
NAMES = (
    *("ours", "explicit", "rolling_cache", "band_bmm", "band_attention", "sliding_chunks", "local_attention", "flex_attention"),
    *("onnxruntime", "dense", "sdpa", "sdpa_causal", "decode_bmm"),
)


class Unsupported(Exception):
    """This competitor cannot do this case; the text says why."""


class Competitor(Protocol):
    TITLE: str
    OUTSIDE: float
    EXACT_OUTSIDE: bool

    def prepare(self, case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]: ...


def load(name: str) -> Competitor:
    return cast(Competitor, importlib.import_module(f"{__name__}.{name}"))


def answered(competitor: Competitor, case: Case) -> Case:
    """What the competitor computes when it is given this case: nearly always the case itself."""
    return cast(Case, getattr(competitor, "answers", lambda case: case)(case))


def entrants(case: Case, malloc: str, threads: int = 2) -> list[str]:
    """Who is measured on a case, in a run with so many threads: everybody for whom it is no foregone conclusion."""
    if case.op == "attention":
        return ["ours", "sdpa"]
    if case.op == "decode":
        return ["ours", "rolling_cache", "decode_bmm", "sdpa"]
    if case.op == "fused":
        return _fused_entrants(case, malloc, threads)
    if case.dtype != "fp32":
        return ["ours", "band_bmm"]
    # Where the L x L matrix is more than 8 times the band, dense products are not even near.
    dense = ["dense"] if case.length <= 4096 and case.window >= 256 and malloc == "default" else []
    return ["ours", "band_bmm", "sliding_chunks", *dense]


def _fused_entrants(case: Case, malloc: str, threads: int) -> list[str]:
    """At L 4096 everybody; elsewhere who was near there. The dense mask takes a minute at L 16384, and is far off beyond."""
    if case.causal:
        return ["ours", "band_attention", "flex_attention", "onnxruntime"]
    near = ["ours", "band_attention"]
    if case.dim != 64:
        return near if case.window == 256 else ["ours"]
    if case.threads != threads:
        return near
    if malloc != "default":
        return [*near, "sliding_chunks", "local_attention"]
    if case.length == 4096:
        orientation = ["sdpa_causal"] if case.window == 128 else []
        return [*near, "explicit", "sliding_chunks", "local_attention", "flex_attention", "sdpa", *orientation]
    return [*near, "sdpa"] if case.window == 128 and case.length <= 16384 else near

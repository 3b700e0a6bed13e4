# benchmarks/options.py: what options of window_attention cost: each beside the plain call, the two called in turn.
from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from window_matmul import window_attention
from window_matmul._attention.ops import NUM_TENSORS, direct_attention

from .cases import Case
from .cell import DIRECTIONS, inference, training
from .competitors import Function
from .measure import once, percentile

LEAST = 9
THROUGH_PYTHON = "through Python, beside the bare operator"
SHARED_HEADS = "8 heads that share 2 of keys and values"
WINDOW = 256
LENGTHS = (4096, 16384)


class Variant(NamedTuple):
    name: str
    plain: Function
    optional: Function
    length: int
    kv_heads: int = 8
    bias: tuple[int, ...] = ()  # the shape of one that is learned: a fourth input of the optional call
    work: float = 1.0  # pairs it computes over those of the plain call: at the ends of the sequence not all windows are whole


def run_options(threads: int, seconds: float, quick: bool) -> list[dict[str, Any]]:
    """For each option the median of ratios of neighbouring calls, its speed over the plain call's: 1 where it costs nothing."""
    torch.set_num_threads(threads)
    rows = []
    for variant in _variants(*LENGTHS):
        if quick and variant.length != LENGTHS[0]:
            continue
        case = Case("fused", variant.length, WINDOW, threads=threads)
        inputs, g = case.inputs(), case.output_gradient()
        q, k, v = inputs
        some = q, k[:, : variant.kv_heads], v[:, : variant.kv_heads], *((torch.randn(variant.bias),) if variant.bias else ())
        for direction in ("forward",) if variant.name == THROUGH_PYTHON else DIRECTIONS:
            make = inference if direction == "forward" else partial(training, g=g)
            calls = make(variant.plain, inputs), make(variant.optional, some)
            ratios = [variant.work * ratio for ratio in _ratios(*calls, seconds)]
            rows.append({"option": variant.name, "length": variant.length, "direction": direction, "calls": len(ratios)})
            rows[-1] |= {"ratio": statistics.median(ratios), "ratio_p10": percentile(ratios, 0.1)}
    return rows


def _variants(length: int, longer: int) -> list[Variant]:
    plain = _attention(WINDOW)
    whole = length * (2 * WINDOW + 1)
    lost = WINDOW * (WINDOW + 1)  # keys beyond the ends

    def bare(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = direct_attention(q, k, v, *(None,) * (NUM_TENSORS - 3), [WINDOW, WINDOW, 0, 1], 0, 0, [0.0, 0.0])[0]
        return out

    work = {d: (whole - d * lost) / (whole - lost) for d in (2, 4, 8)}
    dilated = [Variant(f"dilation {d}", plain, _attention(WINDOW, dilation=d), length, work=share) for d, share in work.items()]
    one_sided = (whole - WINDOW * (2 * WINDOW + 1)) / (whole - lost)
    return [
        *dilated,
        Variant("window (2w, 0)", plain, _attention((2 * WINDOW, 0)), length, work=one_sided),
        Variant(SHARED_HEADS, plain, plain, length, kv_heads=2),
        Variant("bias of a slot", plain, _biased, length, bias=(8, 2 * WINDOW + 1)),
        Variant("bias of a pair", plain, _biased, length, bias=(1, 8, length, 2 * WINDOW + 1)),
        Variant("dropout", plain, _attention(WINDOW, dropout_p=0.1), length),
        Variant("softcap", plain, _attention(WINDOW, softcap=20.0), length),
        Variant(THROUGH_PYTHON, bare, plain, length),
        Variant("16 global tokens", plain, _attention(WINDOW, global_tokens=16), longer),
    ]


def _attention(window: int | tuple[int, int], **options: Any) -> Function:
    return lambda q, k, v: cast(Tensor, window_attention(q, k, v, window, **options))


def _biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return window_attention(q, k, v, WINDOW, bias=bias)


def _ratios(plain: Callable[[], object], optional: Callable[[], object], seconds: float) -> list[float]:
    """Plain over option, call by call after one of each."""
    plain(), optional()
    taken: list[tuple[float, float]] = []
    while len(taken) < LEAST or sum(map(sum, taken)) < seconds:
        taken.append((once(plain), once(optional)))
    return [a / b for a, b in taken]

# benchmarks/competitors/sliding_chunks.py: the two products of Hugging Face's Longformer, and its attention made of them.
from __future__ import annotations

import importlib
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..cases import Case
from . import Fastest, Function, Unsupported

TITLE = "Hugging Face sliding chunks"
OUTSIDE = -float("inf")
EXACT_OUTSIDE = False  # it pads the values with -1 and lets the zero weights cancel them: the weights' gradients see the -1


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    if case.op in ("attention", "decode") or case.causal:
        raise Unsupported("it has symmetric windows over whole sequences, and enters fused attention with them")
    if case.length % (2 * case.window):
        raise Unsupported(f"the length, {case.length}, is no multiple of 2w = {2 * case.window}")
    modeling = importlib.import_module("transformers.models.longformer.modeling_longformer")
    layer: Any = object.__new__(modeling.LongformerSelfAttention)  # the products need no weights, only this one setting
    object.__setattr__(layer, "config", SimpleNamespace(onnx_export=False))
    w = case.window

    # Its layout is (B, L, H, d), which it transposes back: with ours transposed nothing is copied.
    def window(q: Tensor, k: Tensor) -> Tensor:
        scores: Tensor = layer._sliding_chunks_query_key_matmul(q.transpose(1, 2), k.mT.transpose(1, 2), w)
        return scores.transpose(1, 2)

    def unwindow(a: Tensor, v: Tensor) -> Tensor:
        context: Tensor = layer._sliding_chunks_matmul_attn_probs_value(a.transpose(1, 2), v.transpose(1, 2), w)
        return context.transpose(1, 2)

    # As in its layer: the query is scaled, the softmax is taken in float32.
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return unwindow(window(q / case.dim**0.5, k.mT).softmax(-1, dtype=torch.float32).type_as(v), v)

    functions: dict[str, Function] = {"window": window, "unwindow": unwindow, "fused": attention}
    return functions[case.op], f"transformers {version('transformers')}"

"""tests/python/attention_refusals.py: a right call of each function of fused attention, and how a wrong one is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from window_matmul import window_attention, window_attention_varlen

FUNCTIONS = {f.__name__: f for f in (window_attention, window_attention_varlen)}
TENSORS = ("q", "k", "v", "bias", "sinks", "key_mask", "global_tokens", "key_lengths", "query_offset")
INTEGERS = ("key_lengths", "query_offset", "cu_seqlens_q", "cu_seqlens_k")
ALL = (*TENSORS, "cu_seqlens_q", "cu_seqlens_k")
NEED = r"(?s)(need|must)"
by_function = pytest.mark.parametrize("name", FUNCTIONS)


def good(name: str) -> dict[str, Any]:
    """H = 4, Hkv = 2, Lq = 6, Lk = 8, W = 4, and packed the same twice, as two sequences."""
    shapes = {"q": (2, 4, 6, 5), "k": (2, 2, 8, 5), "v": (2, 2, 8, 3), "bias": (2, 4, 6, 4), "sinks": (4,)}
    masks: tuple[int, ...] = (2, 8)
    if name == "window_attention_varlen":
        shapes = {"q": (12, 4, 5), "k": (16, 2, 5), "v": (16, 2, 3), "bias": (4, 12, 4), "sinks": (4,)}
        masks = (16,)
    arguments: dict[str, Any] = {key: torch.randn(shape) for key, shape in shapes.items()}
    arguments |= {"key_mask": torch.ones(masks, dtype=torch.bool), "global_tokens": torch.zeros(masks, dtype=torch.bool)}
    if name == "window_attention_varlen":
        arguments |= {"cu_seqlens_q": torch.tensor([0, 6, 12]), "cu_seqlens_k": torch.tensor([0, 8, 16])}
    else:
        arguments |= {"key_lengths": torch.tensor([8, 5]), "query_offset": torch.tensor([2, -1])}
    return arguments | {"window_size": (2, 1)}


def refused(error: type[Exception], name: str, argument: str, got: str, **wrong: Any) -> None:
    """The call with some arguments changed raises this error; its message names `argument`, `got` and a need."""
    with pytest.raises(error) as raised:
        FUNCTIONS[name](**(good(name) | wrong))
    message = str(raised.value)
    assert raised.type is error, f"{raised.type}: {message}"
    assert re.search(rf"\b{argument}\b", message), f"does not name {argument}: {message}"
    assert got in message, f"does not say {got}: {message}"
    assert re.search(NEED, message), f"does not say what is needed: {message}"


def tensors_of(name: str) -> list[str]:
    return [t for t in ALL if t in good(name)]

# tests/install/typed_use.py: calls as a user writes them, for mypy --strict alone: what is returned is known from the arguments.
from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import assert_type

from window_matmul import RollingCache, Window, window_attention, window_attention_varlen


def of_a_batch(q: Tensor, mask: Tensor, with_lse: bool) -> None:
    assert_type(window_attention(q, q, q, None), Tensor)
    assert_type(window_attention(q, q, q, Window(3, 0, 2), key_mask=mask, query_offset=mask.sum(-1), out_dtype=torch.float32), Tensor)
    assert_type(window_attention(q, q, q, (None, 0), dilation=[1, 2], return_lse=True), tuple[Tensor, Tensor])
    assert_type(window_attention(q, q, q, 3, global_tokens=2, return_lse=with_lse), Tensor | tuple[Tensor, Tensor])


def of_packed_sequences(q: Tensor, bounds: Tensor, with_lse: bool) -> None:
    assert_type(window_attention_varlen(q, q, q, bounds, bounds, (7, 0), softcap=30.0), Tensor)
    assert_type(window_attention_varlen(q, q, q, bounds, bounds, 3, return_lse=True), tuple[Tensor, Tensor])
    assert_type(window_attention_varlen(q, q, q, bounds, bounds, 3, return_lse=with_lse), Tensor | tuple[Tensor, Tensor])
    window_attention_varlen(q, q, q, bounds, bounds, 3, query_offset=0)  # type: ignore[call-overload]  # there is none: mypy says so


def of_a_cache(cache: RollingCache, q: Tensor) -> None:
    assert_type(cache.attend(q, q, q, lengths=[1]), Tensor)
    assert_type(cache.length, int | list[int])

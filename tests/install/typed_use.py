# tests/install/typed_use.py: calls as a user writes them, for mypy --strict alone: what is returned is known from the arguments.
from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import assert_type

import window_matmul
from window_matmul import RollingCache, Window, window_attention, window_attention_varlen
from window_matmul.compat import numpy as for_numpy


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


def of_numpy(q: NDArray[Any], with_lse: bool) -> None:
    assert_type(for_numpy.window_attention(q, q, q, (None, 0), dropout_p=0.1, dropout_seed=1), NDArray[Any])
    assert_type(for_numpy.window_attention(q, q, q, 3, return_lse=True), tuple[NDArray[Any], NDArray[Any]])
    assert_type(for_numpy.window_attention(q, q, q, 3, return_lse=with_lse), NDArray[Any] | tuple[NDArray[Any], NDArray[Any]])
    for_numpy.window_attention(q, q, q, 3, deterministic=True)  # type: ignore[call-overload]


def of_names_that_come_later(q: Tensor) -> None:
    assert_type(window_matmul.window_attention(q, q, q, 3), Tensor)
    assert_type(window_matmul.__version__, str)
    window_matmul.window_attentoin(q, q, q, 3)  # type: ignore[attr-defined]  # lazy names are known all the same

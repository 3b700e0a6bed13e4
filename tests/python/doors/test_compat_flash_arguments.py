"""tests/python/doors/test_compat_flash_arguments.py: flash-attn's signatures, and what its functions refuse here, by name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import window_matmul.compat.flash_attn as door
from flash_formula import CU_K, CU_Q, HEADS, packed, qkv
from window_matmul.compat.flash_attn import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

pytestmark = pytest.mark.best_backend

SHARED: dict[str, Any] = {
    "dropout_p": 0.0, "softmax_scale": None, "causal": False, "window_size": (-1, -1), "softcap": 0.0, "alibi_slopes": None,
    "deterministic": False, "return_attn_probs": False,
}  # fmt: skip
NEEDED = inspect.Parameter.empty
BOUNDS = dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"), NEEDED)
SIGNATURES: dict[str, dict[str, Any]] = {
    "flash_attn_func": dict.fromkeys("qkv", NEEDED) | SHARED,
    "flash_attn_kvpacked_func": dict.fromkeys(("q", "kv"), NEEDED) | SHARED,
    "flash_attn_qkvpacked_func": {"qkv": NEEDED} | SHARED,
    "flash_attn_varlen_func": dict.fromkeys("qkv", NEEDED) | BOUNDS | SHARED | {"block_table": None},
    "flash_attn_varlen_kvpacked_func": dict.fromkeys(("q", "kv"), NEEDED) | BOUNDS | SHARED,
    "flash_attn_varlen_qkvpacked_func": dict.fromkeys(("qkv", "cu_seqlens", "max_seqlen"), NEEDED) | SHARED,
    "flash_attn_with_kvcache": dict.fromkeys(("q", "k_cache", "v_cache"), NEEDED) | {
        "k": None, "v": None, "rotary_cos": None, "rotary_sin": None, "cache_seqlens": None, "cache_batch_idx": None,
        "cache_leftpad": None, "block_table": None, "softmax_scale": None, "causal": False, "window_size": (-1, -1), "softcap": 0.0,
        "rotary_interleaved": True, "alibi_slopes": None, "num_splits": 0, "return_softmax_lse": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_2_8_3(name: str) -> None:
    parameters = inspect.signature(getattr(door, name)).parameters
    assert [(x, p.default) for x, p in parameters.items()] == list(SIGNATURES[name].items())
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters.values())
    assert sorted(door.__all__) == sorted(SIGNATURES)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q": None}, TypeError, "q is of type NoneType"),
    ({"q": torch.ones(2, 5, 4, 8, dtype=torch.int64)}, TypeError, "q is torch.int64"),
    ({"q": torch.ones(5, 4, 8)}, ValueError, r"q is \(5, 4, 8\); it needs to be \(B, Lq, H, D\)"),
    ({"k": torch.ones(3, 5, 2, 8)}, ValueError, r"k is \(3, 5, 2, 8\) beside q .* dim 0 needs to be 2"),
    ({"k": torch.ones(2, 5, 2, 7)}, ValueError, r"k is \(2, 5, 2, 7\) beside q .* dim -1 needs to be 8"),
    ({"k": torch.ones(2, 5, 3, 8)}, ValueError, r"k is \(2, 5, 3, 8\) beside q .* needs to divide 4"),
    ({"v": torch.ones(2, 6, 2, 8)}, ValueError, r"v is \(2, 6, 2, 8\) beside k"),
    ({"v": torch.ones(2, 5, 2, 8).half()}, TypeError, "v is torch.float16"),
    ({"dropout_p": 1.5}, ValueError, "dropout_p is 1.5"),
    ({"dropout_p": "0"}, TypeError, "dropout_p is '0'"),
    ({"softmax_scale": "1"}, TypeError, "softmax_scale is '1'"),
    ({"softmax_scale": float("nan")}, ValueError, "softmax_scale is nan"),
    ({"causal": 1}, TypeError, "causal is 1"),
    ({"window_size": (-2, 3)}, ValueError, r"window_size\[0\] is -2"),
    ({"window_size": (3, 2.5)}, TypeError, r"window_size\[1\] is 2.5"),
    ({"window_size": (1, 2, 3)}, ValueError, r"window_size is \(1, 2, 3\)"),
    ({"window_size": 4}, TypeError, "window_size is 4"),
    ({"softcap": float("inf")}, ValueError, "softcap is inf"),
    ({"softcap": float("nan")}, ValueError, "softcap is nan"),
    ({"softcap": None}, TypeError, "softcap is None"),
    ({"alibi_slopes": [1.0]}, TypeError, "alibi_slopes is of type list"),
    ({"alibi_slopes": torch.ones(4).double()}, TypeError, "alibi_slopes is torch.float64"),
    ({"alibi_slopes": torch.ones(3)}, ValueError, r"alibi_slopes is \(3,\); .* here \(4,\) or \(2, 4\)"),
    ({"alibi_slopes": torch.ones(1, 4)}, ValueError, r"alibi_slopes is \(1, 4\)"),
    ({"alibi_slopes": torch.ones(4, requires_grad=True)}, ValueError, "alibi_slopes requires grad"),
    ({"deterministic": None}, TypeError, "deterministic is None"),
    ({"return_attn_probs": 1}, TypeError, "return_attn_probs is 1"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED, ids=lambda x: str(x)[:40] if isinstance(x, str) else None)
def test_refusals_name_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    q, k, v = qkv(5, 5, dtype=torch.float32)
    with pytest.raises(error, match=message):
        flash_attn_func(**{"q": q, "k": k, "v": v} | change)


FOUR = torch.ones(4, HEADS)
REFUSED_SEQUENCES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q": torch.ones(1, 13, 4, 8).double()}, ValueError, r"q is \(1, 13, 4, 8\); it needs to be \(total_q, H, D\)"),
    ({"cu_seqlens_q": [0, 13]}, TypeError, "cu_seqlens_q is of type list"),
    ({"cu_seqlens_k": CU_K.float()}, TypeError, "cu_seqlens_k is torch.float32"),
    ({"cu_seqlens_k": CU_K[:4]}, ValueError, r"cu_seqlens_k is \(4,\); it needs to be \(5,\)"),
    ({"max_seqlen_q": 6}, ValueError, "max_seqlen_q is 6; it needs to be an int of at least 7"),
    ({"max_seqlen_k": 7}, ValueError, "max_seqlen_k is 7; it needs to be an int of at least 8"),
    ({"max_seqlen_q": 7.0}, TypeError, "max_seqlen_q is 7.0"),
    ({"max_seqlen_k": None}, TypeError, "max_seqlen_k is None"),
    ({"block_table": torch.zeros(4, 1, dtype=torch.int32)}, ValueError, "block_table is given"),
    ({"cu_seqlens_k": torch.tensor([0, 3, 2, 9, 15])}, ValueError, "cu_seqlens_k"),
    ({"cu_seqlens_k": torch.tensor([0, 3, 2, 9, 15]), "alibi_slopes": FOUR}, ValueError, "cu_seqlens_k is .*never to fall"),
    (
        {"cu_seqlens_q": torch.tensor([-1, 3, 4, 9, 13]), "alibi_slopes": FOUR},
        ValueError,
        "cu_seqlens_q is .*within 0 to 13",
    ),
    (
        {"cu_seqlens_q": torch.tensor([0, 3, 4, 9, 14]), "alibi_slopes": FOUR},
        ValueError,
        "cu_seqlens_q is .*within 0 to 13",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED_SEQUENCES, ids=lambda x: str(x)[:40] if isinstance(x, str) else None)
def test_refusals_of_sequences(change: dict[str, Any], error: type[Exception], message: str) -> None:
    q, k, v = packed()
    call = {"q": q, "k": k, "v": v, "cu_seqlens_q": CU_Q, "cu_seqlens_k": CU_K, "max_seqlen_q": 7, "max_seqlen_k": 8}
    with pytest.raises(error, match=message):
        flash_attn_varlen_func(**call | change)  # type: ignore[arg-type]


def test_refusals_of_packed_tensors() -> None:
    with pytest.raises(ValueError, match=r"qkv is \(2, 5, 2, 4, 8\); it needs to be \(B, L, 3, H, D\)"):
        flash_attn_qkvpacked_func(torch.ones(2, 5, 2, 4, 8))
    with pytest.raises(ValueError, match=r"kv is \(5, 2, 4, 8\); it needs to be \(B, Lk, 2, Hkv, D\)"):
        flash_attn_kvpacked_func(torch.ones(2, 5, 4, 8), torch.ones(5, 2, 4, 8))
    with pytest.raises(TypeError, match="qkv is of type list"):
        flash_attn_varlen_qkvpacked_func([], CU_Q, 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kv is"):
        flash_attn_varlen_kvpacked_func(torch.ones(13, 4, 8), torch.ones(13, 3, 4, 8), CU_Q, CU_Q, 7, 7)

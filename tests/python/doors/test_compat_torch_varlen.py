"""tests/python/doors/test_compat_torch_varlen.py: torch's varlen_attn on CPU tensors is ours, and what it cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.attention
from torch import Tensor

if not hasattr(torch.nn.attention, "register_flash_attention_impl"):
    pytest.skip("torch before 2.11 has no registry of attention kernels", allow_module_level=True)

from torch.nn.attention import activate_flash_attention_impl, current_flash_attention_impl, restore_flash_attention_impl
from torch.nn.attention.varlen import AuxRequest, varlen_attn, varlen_attn_out

import window_matmul.compat.torch_varlen  # noqa: F401
from window_matmul import window_attention_varlen

pytestmark = pytest.mark.best_backend

CU_Q, CU_K = torch.tensor([0, 5, 5, 12], dtype=torch.int32), torch.tensor([0, 5, 7, 15], dtype=torch.int32)
WINDOWS = [(3, 5), (-1, -1), (-1, 0), (4, 0), (0, 0), (2, -1)]


@pytest.fixture(autouse=True)
def provider() -> Iterator[None]:
    assert current_flash_attention_impl() is None, "importing the door must not activate it"
    activate_flash_attention_impl("window_matmul")
    yield
    restore_flash_attention_impl(_raise_warn=False)


def operands(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(n, heads, 8, dtype=torch.float64).to(dtype).requires_grad_() for n, heads in ((12, 4), (15, 2), (15, 2)))
    return q, k, v


def theirs(q: Tensor, k: Tensor, v: Tensor, window_size: tuple[int, int] = (3, 5), **options: Any) -> Any:
    return varlen_attn(q, k, v, CU_Q, CU_K, 7, 8, window_size=window_size, enable_gqa=True, **options)


def ours(q: Tensor, k: Tensor, v: Tensor, window_size: tuple[int, int] = (3, 5), **options: Any) -> Any:
    sides = tuple(None if side == -1 else side for side in window_size)
    return window_attention_varlen(q, k, v, CU_Q, CU_K, sides, **options)  # type: ignore[arg-type]


def assert_same(result: Tensor, expected: Tensor, tensors: tuple[Tensor, ...]) -> None:
    assert torch.equal(result, expected)
    for weight in (torch.randn_like(result), torch.ones(()).to(result).expand(result.shape)):  # and strides of 0, as sum() gives
        gradients = (torch.autograd.grad(x, tensors, weight, retain_graph=True) for x in (result, expected))
        for gradient, right in zip(*gradients, strict=True):
            assert torch.equal(gradient, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("window_size", WINDOWS)
def test_bits_are_those_of_window_attention_varlen(window_size: tuple[int, int], dtype: torch.dtype) -> None:
    tensors = operands(dtype)
    assert_same(theirs(*tensors, window_size, scale=0.3), ours(*tensors, window_size, scale=0.3), tensors)
    _, lse = theirs(*tensors, window_size, return_aux=AuxRequest(lse=True))
    right = ours(*tensors, window_size, return_lse=True)[1]
    assert lse.dtype is torch.float32 and torch.equal(lse, right.float())  # what the wrapper promises, float64 too


def test_gradients_of_float64_are_not_rounded_by_the_float32_lse_of_the_wrapper() -> None:
    tensors = operands(torch.float64)
    assert torch.autograd.gradcheck(theirs, tensors)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_layouts_are_those_the_wrapper_promises(order: tuple[int, ...]) -> None:
    tensors = tuple(x.detach().permute(order).contiguous().permute(*torch.tensor(order).argsort()).requires_grad_() for x in operands())
    out = theirs(*tensors)
    assert_same(out, ours(*tensors), tensors)
    gradients = torch.autograd.grad(out.sum(), tensors)
    for x, like in zip((out, *gradients), (tensors[0], *tensors), strict=True):
        assert x.stride() == torch.empty_like(like).stride()


def test_compiled_whole() -> None:
    tensors = operands()
    assert_same(torch.compile(theirs, fullgraph=True, backend="aot_eager")(*tensors), ours(*tensors), tensors)


def test_into_a_given_tensor() -> None:
    q, k, v = (x.detach() for x in operands())
    out = torch.full_like(q, torch.nan)
    returned = varlen_attn_out(out, q, k, v, CU_Q, CU_K, 7, 8, window_size=(3, 5), enable_gqa=True)
    assert returned is out
    assert torch.equal(out, ours(q, k, v))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_size": (-2, 3)}, r"window_size\[0\] is -2"),
        ({"window_size": (3, -7)}, r"window_size\[1\] is -7"),
        ({"value": torch.zeros(15, 2, 6)}, r"value is \(15, 2, 6\).*one head dim"),
        ({"cu_seq_k": None}, "cu_seq_k is None"),
        ({"seqused_k": torch.ones(3, dtype=torch.int32)}, "seqused_k is a tensor"),
        ({"num_splits": 4}, "num_splits is 4"),
        ({"cu_seq_q": torch.tensor([0, 9, 5, 12], dtype=torch.int32)}, "cu_seqlens_q"),
    ],
)
def test_refusals_name_the_argument(change: dict[str, Any], message: str) -> None:
    q, k, v = (x.detach() for x in operands())
    call = {"query": q, "key": k, "value": v, "cu_seq_q": CU_Q, "cu_seq_k": CU_K, "max_q": 7, "max_k": 8, "enable_gqa": True} | change
    with pytest.raises(ValueError, match=message):
        varlen_attn(**call)


def test_paged_keys_and_the_options_of_the_operator_are_refused() -> None:
    q, k, v = (x.detach() for x in operands())
    table = torch.zeros(3, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match="block_table is a tensor"):
        varlen_attn(q, k[None], v[None], CU_Q, CU_K, 7, 8, enable_gqa=True, block_table=table)
    operator = torch.ops.aten._flash_attention_forward
    with pytest.raises(ValueError, match=r"dropout_p is 0\.1"):
        operator(q, k, v, CU_Q, CU_K, 7, 8, 0.1, False, False)
    with pytest.raises(ValueError, match="return_debug_mask is True"):
        operator(q, k, v, CU_Q, CU_K, 7, 8, 0.0, False, True)
    with pytest.raises(ValueError, match="alibi_slopes is a tensor"):
        operator(q, k, v, CU_Q, CU_K, 7, 8, 0.0, False, False, alibi_slopes=torch.ones(4))


def test_causal_hides_the_right_side() -> None:
    q, k, v = (x.detach() for x in operands())
    out = torch.ops.aten._flash_attention_forward(q, k, v, CU_Q, CU_K, 7, 8, 0.0, True, False, window_size_left=4, window_size_right=4)[0]
    assert torch.equal(out, ours(q, k, v, (4, 0)))


def test_restoring_takes_the_kernels_away_and_activating_brings_them_back() -> None:
    tensors = operands()
    restore_flash_attention_impl()
    with pytest.raises(NotImplementedError):
        theirs(*tensors)
    activate_flash_attention_impl("window_matmul")
    assert torch.equal(theirs(*tensors), ours(*tensors))

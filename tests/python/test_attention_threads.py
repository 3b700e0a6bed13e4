"""tests/python/test_attention_threads.py: fused attention gives the same bits for every number of threads, address and batch, each time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from attention_cases import Case, gradients, leaves
from attention_oracle import Rule
from cases import LAYOUTS
from child import run
from oracle import DTYPES

OPERATOR = "attention"
LARGE = [
    Case(Rule(17, 20), 150, 160, heads=3, kv_heads=3, dim=40, value_dim=24),
    Case(Rule(32, 0), 400, 400, batch=1, heads=2, kv_heads=1, dim=16, value_dim=16, sinks=True, softcap=3.0),
    Case(Rule(9, 9, 3), 130, 110, batch=3, heads=2, kv_heads=1, dim=24, value_dim=24, bias="slots", key_mask=True),
    Case(Rule(12, 5, (1, 4, 64)), 200, 200, heads=3, kv_heads=3, dim=32, value_dim=32, global_tokens=3, bias="full"),
    Case(Rule(600, 0), 1, 1200, batch=1, heads=8, kv_heads=2, dim=64, value_dim=64),
    Case(Rule(2000, 0), 5, 1300, batch=3, heads=6, kv_heads=2, dim=24, value_dim=16, sinks=True, key_mask=True),  # keys of several items
    Case(Rule(1100, 0), 16, 1200, batch=2, heads=1, kv_heads=1, dim=16, value_dim=24, bias="slots", global_tokens=4),
    Case(Rule(1, 1), 40, 40, batch=10, heads=4, kv_heads=4, dim=8, value_dim=8, global_mask=True),
    Case(Rule(8, 8), 1400, 1400, heads=4, kv_heads=4, dim=8, value_dim=8, sinks=True),  # long beside its window: in three segments
    Case(Rule(150_000, 150_000), 40, 40, batch=3, heads=2, kv_heads=2, dim=8, value_dim=8, bias="slots", sinks=True),  # wide sums
]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_case = pytest.mark.parametrize("case", LARGE, ids=str)


def everything(case: Case, tensors: dict[str, Tensor], dropout_p: float = 0.0) -> dict[str, Tensor]:
    """Results and gradients, for cotangents that are the same at each call."""
    leaf = leaves(tensors)
    torch.default_generator.manual_seed(1)
    out, lse = case.ours(leaf, dropout_p=dropout_p)
    return {"out": out, "lse": lse} | gradients((out, lse), leaf, (out.detach().cos(), lse.detach().cos()))


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@by_dtype
@by_case
def test_the_number_of_threads_changes_no_bit(backend: str, case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    for dropout_p in (0.0, 0.3):
        torch.set_num_threads(1)
        one = everything(case, tensors, dropout_p)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert equal(everything(case, tensors, dropout_p), one)


@by_dtype
@by_case
def test_repetition_changes_no_bit(backend: str, case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    first = everything(case, tensors)
    moved = {  # nor does the address
        name: torch.cat([x.new_empty(n + 1), x.flatten()])[n + 1 :].view_as(x) for n, (name, x) in enumerate(tensors.items())
    }
    assert equal(everything(case, moved), first)


@by_dtype
@by_case
def test_the_batch_an_entry_is_in_changes_no_bit(backend: str, case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    whole = everything(case, tensors)
    of_the_batch = [name for name, x in tensors.items() if x.shape[0] == case.batch and not (name == "bias" and x.ndim == 2)]
    for entry in range(case.batch):
        part = everything(case, {name: x[entry : entry + 1] if name in of_the_batch else x for name, x in tensors.items()})
        for name in ("out", "lse", *(name for name in of_the_batch if name in part)):
            assert torch.equal(part[name], whole[name][entry : entry + 1]), name


@by_dtype
def test_threads_with_every_layout(backend: str, dtype: torch.dtype) -> None:
    case = LARGE[0]
    for layout in LAYOUTS:
        tensors = {name: layout(x) for name, x in case.tensors(dtype).items()}
        torch.set_num_threads(1)
        one = everything(case, tensors)
        torch.set_num_threads(3)
        assert equal(everything(case, tensors), one)


def test_calls_from_many_threads(backend: str) -> None:
    case = LARGE[2]
    tensors = case.tensors(torch.float32)
    d_out = torch.randn(3, 2, 130, 24)

    def work(_: int) -> dict[str, Tensor]:
        leaf = leaves(tensors)
        out, lse = case.ours(leaf)
        return {"out": out, "lse": lse} | gradients((out,), leaf, (d_out,))

    expected = work(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(equal(result, expected) for result in pool.map(work, range(12)))


@pytest.mark.best_backend
@pytest.mark.long
def test_no_more_threads_than_torch_allows(backend: str) -> None:
    """Counted by the kernel of the operating system, in a process where nothing else has started a thread."""
    run("""
        import os, torch
        from window_matmul import window_attention

        def tasks():
            return len(os.listdir("/proc/self/task"))

        q, k, v = torch.randn(3, 1, 8, 512, 32)
        torch.set_num_threads(1)
        before = tasks()
        window_attention(q, k, v, 16)
        assert tasks() == before, f"{tasks() - before} more threads, none allowed"
        torch.set_num_threads(3)
        window_attention(q[:, :1, :8], k[:, :1, :8], v[:, :1, :8], 2)
        assert tasks() == before, "attention of 8 x 8 woke a thread"
        window_attention(q, k, v, 16)
        assert tasks() <= before + 2, f"{tasks() - before} more threads, expected 2"
        """)

"""tests/python/test_threads.py: torch's number of threads is obeyed; results are the same bits for every number of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import CASES, LAYOUTS, Case
from child import run
from oracle import DTYPES, Band
from window_matmul import unwindow_matmul, window_matmul, window_softmax

LARGE = [
    Case(300, 310, 40, Band(17, 20), (2, 3)),
    Case(1000, 1000, 16, Band(32, 0), ()),
    Case(500, 400, 24, Band(9, 9, 3), (3,)),
    Case(200, 200, 32, Band(12, 5, (1, 4, 64)), (2, 3)),
    Case(1, 4000, 64, Band(2000, 0), (3,)),
    Case(64, 64, 8, Band(1, 1), (40,)),
]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def everything(tensors: tuple[Tensor, ...], case: Case) -> list[Tensor]:
    """All three operators with all their gradients, for cotangents that are the same at each call."""
    q, k, a, v = (x.detach().requires_grad_() for x in tensors)
    window, options = case.band.window, case.band.options
    scores = window_matmul(q, k, window, **options)
    mixed = unwindow_matmul(a, v, window, **options)
    p = window_softmax(a, window, num_keys=case.keys, **options)
    results = [scores, mixed, p]
    for y, inputs in ((scores, (q, k)), (mixed, (a, v)), (p, (a,))):
        results += torch.autograd.grad(y, inputs, y.detach().cos())
    return results


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@by_dtype
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_the_number_of_threads_changes_no_bit(backend: str, case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    one = everything(tensors, case)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert equal(everything(tensors, case), one)


@by_dtype
def test_repetition_changes_no_bit(backend: str, dtype: torch.dtype) -> None:
    for case in CASES[:30:3]:
        tensors = case.tensors(dtype)
        first = everything(tensors, case)
        for _ in range(3):
            moved = tuple(torch.cat([x.new_empty(n), x.flatten()])[n:].view_as(x) for n, x in zip((1, 3, 5, 7), tensors, strict=True))
            assert equal(everything(moved, case), first)  # nor does the address


@by_dtype
@pytest.mark.parametrize("case", [case for case in LARGE if case.batch and isinstance(case.band.dilation, int)], ids=str)
def test_the_batch_an_entry_is_in_changes_no_bit(backend: str, case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    whole = everything(tensors, case)
    for first, last in ((0, 1), (1, case.batch[0])):
        part = everything(tuple(x[first:last] for x in tensors), case)
        assert equal(part, [x[first:last] for x in whole])


@by_dtype
def test_threads_with_every_layout(backend: str, dtype: torch.dtype) -> None:
    case = Case(150, 140, 33, Band(20, 11), (2, 2))
    for layout in LAYOUTS:
        tensors = tuple(layout(x) for x in case.tensors(dtype))
        torch.set_num_threads(1)
        one = everything(tensors, case)
        torch.set_num_threads(3)
        assert equal(everything(tensors, case), one)


@pytest.mark.best_backend
@pytest.mark.long
def test_no_more_threads_than_torch_allows(backend: str) -> None:
    """Counted by the kernel of the operating system, in a process where nothing else has started a thread."""
    run("""
        import os, torch
        from window_matmul import unwindow_matmul, window_matmul, window_softmax

        def tasks():
            return len(os.listdir("/proc/self/task"))

        q, k = torch.randn(32, 512, 64), torch.randn(32, 64, 512)

        def work():
            a = window_matmul(q, k, 16)
            unwindow_matmul(window_softmax(a, 16), q, 16)

        torch.set_num_threads(1)
        before = tasks()
        work()
        assert tasks() == before, f"{tasks() - before} more threads, none allowed"
        torch.set_num_threads(3)
        window_matmul(q[0, :8, :8], k[0, :8, :8], 2)
        assert tasks() == before, "a product of 8 x 8 woke a thread"
        work()
        assert tasks() == before + 2, f"{tasks() - before} more threads, expected 2"
        torch.set_num_threads(2)
        work()
        assert tasks() <= before + 2
        """)


@pytest.mark.best_backend
def test_work_is_shared(backend: str) -> None:
    """Each of two threads writes half of the output: a page of new memory is counted for who touches it first, whatever else runs."""
    counted = run(
        """
        import ctypes, os, torch
        from window_matmul import window_matmul
        ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of one size
        torch.set_num_threads(2)
        q, k = torch.randn(8, 400, 64), torch.randn(8, 64, 400)
        window_matmul(q, k, 64)

        def of_thread(task):
            return int(open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()[7])

        def faults():
            return {task: of_thread(task) for task in os.listdir("/proc/self/task")}

        before = faults()
        a = window_matmul(q, k, 64)
        print(a.nbytes // os.sysconf("SC_PAGESIZE"), *sorted(after - before.get(task, 0) for task, after in faults().items())[-2:])
        """,
        MALLOC_MMAP_THRESHOLD_="65536",  # the output's memory is the system's, and not that of an earlier one
    )
    pages, less, more = map(int, counted.split())
    assert less >= 0.4 * pages and less + more >= 0.9 * pages, counted

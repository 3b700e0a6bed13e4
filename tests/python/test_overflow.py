"""tests/python/test_overflow.py: sizes beyond 64 bits, and the private operators called with anything: errors, never a crash."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import oracle
from child import run
from oracle import Band, check
from window_matmul import Window, unwindow_matmul, window_matmul, window_softmax

pytestmark = pytest.mark.best_backend
HUGE = 2**59 - 1  # the largest side


def huge(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A view without memory: every stride is 0."""
    return torch.ones((), dtype=dtype).expand(shape)


def test_results_that_overflow(backend: str) -> None:
    """The number of elements, or of bytes, does not fit."""
    calls = [
        lambda: window_matmul(huge(2**31, 2**30, 1), huge(2**31, 1, 2**30), 100),
        lambda: window_matmul(huge(2**62, 1), huge(1, 2**62), 1),
        lambda: window_matmul(huge(2**61, 1), huge(1, 2**61), 0, query_offset=0),  # 2**61 elements, 2**63 bytes
        lambda: window_matmul(huge(4, 4), huge(4, 4), (HUGE, HUGE)),
        lambda: window_matmul(huge(2**32, 1, 2, 2), huge(2**32, 2, 2), 1),  # leading dims that broadcast to 2**64
        lambda: unwindow_matmul(huge(2**32, 1, 2, 3), huge(2**32, 2, 2), 1),
        lambda: unwindow_matmul(huge(2**40, 3), huge(2**30, 2**32), 1, query_offset=0),
        lambda: window_softmax(huge(2**40, 2**21 + 1), (2**20, 2**20)),
        lambda: window_softmax(huge(2, HUGE), (HUGE - 1, 0)),
    ]
    for call in calls:
        with pytest.raises((ValueError, RuntimeError, MemoryError)) as raised:
            call()
        assert "Storage size" not in str(raised.value) or raised.type is not RuntimeError, raised.value


def test_results_that_overflow_are_value_errors(backend: str) -> None:
    for q, k, window in (
        (huge(2**31, 2**30, 1), huge(2**31, 1, 2**30), 100),
        (huge(2**62, 1), huge(1, 2**62), 1),
        (huge(2**32, 1, 2, 2), huge(2**32, 2, 2), 1),
        (huge(4, 4), huge(4, 4), (HUGE, HUGE)),
    ):
        with pytest.raises(ValueError):
            window_matmul(q, k, window)


def test_results_that_no_machine_can_hold(backend: str) -> None:
    for call in (
        lambda: window_matmul(huge(2**38, 1), huge(1, 2**38), 1),
        lambda: unwindow_matmul(huge(2**38, 3), huge(2**38, 16), 1),
        lambda: window_softmax(huge(2**40, 3), 1),
    ):
        with pytest.raises((RuntimeError, MemoryError), match=r"\d{10,}|memory"):
            call()


def test_wide_windows_over_short_sequences(backend: str) -> None:
    """Columns without a key cost nothing where they are only read, however many there are."""
    v = torch.randn(5, 3)
    for side in (10**6, 2**40, 2**57):
        o = unwindow_matmul(huge(4, side + 1), v, (side, 0), query_offset=1)
        check(o, v.double().cumsum(0)[1:], 1e-5, torch.float32)
        o = unwindow_matmul(huge(4, side + 1), v, Window(0, side), query_offset=1)
        check(o, v.double().flip(0).cumsum(0).flip(0)[1:], 1e-5, torch.float32)
        o = unwindow_matmul(huge(5, side + 3), v, (side, 2), dilation=2**60)
        check(o, v.double(), 1e-5, torch.float32)


def test_gradient_of_the_values_under_a_wide_window(backend: str) -> None:
    v = torch.randn(5, 3, requires_grad=True)
    side = 2**40
    (dv,) = torch.autograd.grad(unwindow_matmul(huge(4, side + 1), v, (side, 0), query_offset=1).sum(), v)
    assert torch.equal(dv, torch.tensor([4.0, 4, 3, 2, 1])[:, None].expand(5, 3))


def test_empty_tensors_of_any_length(backend: str) -> None:
    """No element, so nothing to allocate and nothing to do."""
    assert window_matmul(huge(0, 2**40, 3), huge(0, 3, 2**40), 2).shape == (0, 2**40, 5)
    assert window_matmul(huge(0, 5), huge(5, 2**50), (2**30, 5)).shape == (0, 2**30 + 6)
    assert unwindow_matmul(huge(2**50, 3), huge(2**50, 0), 1).shape == (2**50, 0)
    assert unwindow_matmul(huge(0, 3), huge(2**50, 2), 1).shape == (0, 2)
    assert window_softmax(huge(0, 2**50, 3), 1).shape == (0, 2**50, 3)


def test_many_keys_few_of_them_seen(backend: str) -> None:
    """The keys are not walked through: 2**40 of them lie in one place of memory."""
    q = torch.randn(3, 4)
    for offset in (0, 2**39, 2**40 - 3):
        a = window_matmul(q, huge(4, 2**40), (1, 1), query_offset=offset)
        exact = q.double().sum(-1, keepdim=True).expand(3, 3).clone()
        if offset == 0:
            exact[0, 0] = 0
        if offset == 2**40 - 3:
            exact[2, 2] = 0
        check(a, exact, 1e-5, torch.float32)
        o = unwindow_matmul(torch.ones(3, 3), huge(2**40, 2), 1, query_offset=offset)
        assert o.tolist() == [[2.0 if (offset, i) in ((0, 0), (2**40 - 3, 2)) else 3.0] * 2 for i in range(3)]


def test_offsets_and_dilations_at_the_limit(backend: str) -> None:
    q, k, a, v = torch.randn(6, 2), torch.randn(2, 7), torch.randn(6, 5), torch.randn(7, 2)
    far = 2**60
    for offset in (None, 0, 3, far, -far, far - 1):
        for dilation in (1, far, far - 1):
            band = Band(3, 1, dilation, offset)
            check(window_matmul(q, k, (3, 1), **band.options), oracle.window_matmul(q, k, band), 1e-5, torch.float32)
            check(unwindow_matmul(a, v, (3, 1), **band.options), oracle.unwindow_matmul(a, v, band), 1e-5, torch.float32)
            p = window_softmax(a, (3, 1), num_keys=7, **band.options)
            check(p, oracle.window_softmax(a, band, 7), 1e-5, torch.float32)


PRIVATE = """
import itertools, sys, torch
import window_matmul

ops = torch.ops.window_matmul
far = 2**63 - 1
one = torch.ones(())
tensors = [
    torch.ones(2, 5, 4), torch.ones(2, 4, 5), torch.ones(5, 4), torch.ones(2, 5, 3), torch.ones(2, 0, 4), torch.ones(2, 5, 0),
    torch.ones(0, 5, 4), torch.ones(4), one,
    *(torch.ones(2, 5, 4).to(dtype) for dtype in (torch.float64, torch.int32, torch.complex64, torch.bool)),
    torch.ones(2, 5, 4).to_sparse(), torch.ones(2, 5, 4, device="meta"), torch.ones((1,) * 40),
    one.expand(2**31, 2**29, 4), one.expand(2**60, 2), one.expand(5, 2**60), one.expand(2, 2**40, 4), torch.ones(2, 5, 4).transpose(0, 1),
    None, "q", [torch.ones(5, 4)],
]
sides = [(1, 2), (3, 0), (0, 0), (-1, 2), (1, -2), (far, 0), (0, far), (far, far), (2**60, 2**60), (-far - 1, 3), (2**62 - 1, 2**62)]
sides += [(1.5, 1), (None, 1)]
dilations = [[], [1], [2], [1, 3], [1, 2, 3], [0], [-1], [far], [1, far], [0, 0], [-far - 1, 1], None]
shifts = [0, 3, -7, far, -far - 1, 2**60, None]
counts = [5, 0, 1, -1, far, -far - 1, 2**60, 2**40, None]
done = {}

def call(op, *args):
    try:
        op(*args)
        result = "result"
    except Exception as error:
        result = type(error).__name__
        if isinstance(error, (SystemError, UnicodeError)):  # torn objects, or text that is none
            raise
    done[result] = done.get(result, 0) + 1

def vary(*choices):
    "All values of one argument and of two neighbours at a time, the others at their first, which is good."
    good = [choice[0] for choice in choices]
    for n in range(len(choices)):
        for values in itertools.product(*choices[n : n + 2]):
            yield good[:n] + list(values) + good[n + len(values) :]

def spread(arguments):
    return [x for argument in arguments for x in (argument if isinstance(argument, tuple) else (argument,))]

for op, choices in [
    (ops.band_out, (tensors, [torch.ones(2, 4, 5), *tensors], sides, dilations, shifts, [0.0, float("nan"), float("inf"), None])),
    (ops.band_in, (tensors, tensors, sides, dilations, shifts)),
    (ops.band_in_transposed, (tensors, tensors, sides, dilations, shifts, counts)),
    (ops.window_softmax, (tensors, sides, dilations, shifts, counts)),
    (ops.window_softmax_backward, (tensors, tensors, sides, dilations, shifts, counts)),
]:
    for arguments in vary(*choices):
        call(op, *spread(arguments))
print(done)
"""


@pytest.mark.long
def test_private_operators_never_crash(backend: str) -> None:
    """Thousands of calls past the Python checks, in a process of its own: each gives a result or an exception."""
    done: dict[str, int] = eval(run(PRIVATE, timeout=300))
    assert done.pop("result") > 100
    assert sum(done.values()) > 1000


def test_unknown_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu.nothing", "CPU.SCALAR", "cpu", " ", "reference "):
        monkeypatch.setenv("WINDOW_MATMUL_BACKEND", name)
        for call in (
            lambda: window_matmul(torch.ones(3, 2), torch.ones(2, 3), 1),
            lambda: unwindow_matmul(torch.ones(3, 3), torch.ones(3, 2), 1),
            lambda: window_softmax(torch.ones(3, 3), 1),
        ):
            with pytest.raises(ValueError) as raised:
                call()
            message = str(raised.value)
            assert "WINDOW_MATMUL_BACKEND" in message and name in message
            assert all(row in message for row in ("cpu.avx512", "cpu.avx2", "cpu.scalar", "reference")), message
    monkeypatch.setenv("WINDOW_MATMUL_BACKEND", "")  # as if it were not set
    assert window_matmul(torch.ones(3, 2), torch.ones(2, 3), 1).shape == (3, 3)


def test_a_backend_this_machine_cannot_run(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from window_matmul._load import kernels

    for name, why_not in kernels("band_out", "float32").items():
        if why_not:
            monkeypatch.setenv("WINDOW_MATMUL_BACKEND", name)
            with pytest.raises((ValueError, RuntimeError), match=f"(?s){name}.*{re.escape(why_not[:20])}"):
                window_matmul(torch.ones(3, 2), torch.ones(2, 3), 1)

# python/window_matmul/testing/limits.py: checks at the limits: foreign memory, NaN, huge sizes, large batches, wrong arguments.
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .. import functional, reference
from . import cases
from . import device as devices
from .bounds import DTYPES, product_bound, softmax_bound
from .cases import Call, Case
from .outcome import Budget, Outcome

GARBAGE = (float("nan"), float("inf"), float("-inf"))
PATTERN = 0xA5


# ---- memory that is not theirs ------------------------------------------------------------------------------------------------------
def canaries(device: torch.device, budget: Budget) -> Outcome:
    """Results are placed between two blocks that hold a pattern, which must be there afterwards."""
    outcome, random, placed = Outcome("memory around outputs"), budget.random(), 0
    for case in (Case(128, 128, 64, 16, 15), Case(129, 131, 33, 9, 4), Case(64, 64, 32, 31, 32, 2), Case(300, 17, 65, 1, 33)):
        for dtype in DTYPES:
            tensors = {name: x.to(device) for name, x in case.tensors(dtype, random).items()}
            for call in cases.calls(case):
                placed += _results_between(outcome, call, [tensors[name] for name in call.takes], f"{call.name} {case}, {dtype}")
    if device.type == "cuda":
        outcome.true("placement", placed > 0, "no result was placed between the blocks")
    outcome.notes.append(f"{placed} results lay between two blocks of a pattern")
    return outcome


def _results_between(outcome: Outcome, call: Call, inputs: list[Tensor], where: str) -> int:
    """The output and each gradient."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = call.ours(*leaves)
    placed = int(between(outcome, where, partial(call.ours, *inputs)))
    for name, leaf in zip(call.takes, leaves, strict=True):
        placed += between(outcome, f"{where}, gradient of {name}", partial(_gradient, output, leaf))
    return placed


def _gradient(output: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(output, leaf, output.detach(), retain_graph=True)[0]


def between(outcome: Outcome, where: str, call: Callable[[], Tensor]) -> bool:
    """Frees a block between two others, so that the allocator gives it to the result. Whether it did."""
    expected = call()
    size = -(-max(expected.nbytes, 1) // 512) * 512
    blocks = [torch.full((size,), PATTERN, dtype=torch.uint8, device=expected.device) for _ in range(16)]  # the first fill older holes
    before, hole, behind = blocks[-3:]
    address, side_by_side = hole.data_ptr(), (hole.data_ptr() - before.data_ptr(), behind.data_ptr() - hole.data_ptr()) == (size, size)
    del blocks[-2], hole
    actual = call()
    placed = side_by_side and actual.data_ptr() == address
    outcome.equal(where, actual, expected)
    outcome.true(where, bool((before == PATTERN).all()) and bool((behind == PATTERN).all()), "memory beside the output was written")
    used = actual.nbytes
    del actual
    again = torch.empty(size, dtype=torch.uint8, device=expected.device)
    if expected.device.type == "cuda" and placed and again.data_ptr() == address:  # what the block has behind the result
        outcome.true(where, bool((again[used:] == PATTERN).all()), "memory behind the output was written")
    return placed


# ---- what a row does not see --------------------------------------------------------------------------------------------------------
CONFINED = [
    Case(9, 9, 4, 2, 1), Case(12, 15, 3, 3, 0, 2), Case(10, 8, 5, 1, 2, 3, -2), Case(7, 9, 2, 1, 1, (1, 3), None, (1, 2)),
    Case(70, 75, 33, 9, 17, batch=()), Case(150, 150, 64, 20, 20, batch=()),
]  # fmt: skip


def confinement(device: torch.device, budget: Budget) -> Outcome:
    """What is not a number in a key, a query, a value or a slot without a key changes no result of a row that does not see it."""
    outcome, random = Outcome("confinement of NaN and infinities"), budget.random()
    for case in CONFINED:
        for dtype in DTYPES:
            tensors = {name: x.to(device) for name, x in case.tensors(dtype, random).items()}
            for garbage in GARBAGE if budget.thorough else GARBAGE[:1]:
                _check_forward(outcome, case, tensors, garbage, f"{garbage} {case}, {dtype}")
                _check_backward(outcome, case, tensors, garbage, f"{garbage} {case}, {dtype}")
    return outcome


def _except(outcome: Outcome, where: str, actual: Tensor, clean: Tensor, touched: Tensor) -> None:
    touched = touched.to(clean.device).expand(clean.shape)
    outcome.equal(where, actual.masked_fill(touched, 0), clean.masked_fill(touched, 0))


def _check_forward(outcome: Outcome, case: Case, t: dict[str, Tensor], garbage: float, where: str) -> None:
    first, last, middle = (call.ours for call in cases.calls(case))
    key, exists = case.slots()
    scores, mixed, soft = first(t["q"], t["k"]), last(t["a"], t["v"]), middle(t["a"])
    for j in sorted({0, case.keys // 2, case.keys - 1}):
        at = torch.tensor(j, device=t["q"].device)
        _except(outcome, f"key {j} {where}", first(t["q"], t["k"].index_fill(-1, at, garbage)), scores, key == j)
        seen = (key == j).any(-1, keepdim=True)
        _except(outcome, f"value {j} {where}", last(t["a"], t["v"].index_fill(-2, at, garbage)), mixed, seen)
    for i in sorted({0, case.queries // 2, case.queries - 1}):
        row, at = (torch.arange(case.queries) == i)[:, None], torch.tensor(i, device=t["q"].device)
        _except(outcome, f"query {i} {where}", first(t["q"].index_fill(-2, at, garbage), t["k"]), scores, row & exists)
        _except(outcome, f"row {i} {where}", last(t["a"].index_fill(-2, at, garbage), t["v"]), mixed, row)
        _except(outcome, f"softmax, row {i} {where}", middle(t["a"].index_fill(-2, at, garbage)), soft, row & exists)
    spoilt = t["a"].masked_fill(~exists.to(t["a"].device), garbage)
    outcome.equal(f"slots without a key {where}", last(spoilt, t["v"]), mixed)
    outcome.equal(f"softmax, slots without a key {where}", middle(spoilt), soft)


def _check_backward(outcome: Outcome, case: Case, t: dict[str, Tensor], garbage: float, where: str) -> None:
    """Gradients of slots without a key are ignored, and those of one query reach no key that it does not see."""
    key, exists = case.slots()
    call = cases.window_matmul(case, -torch.inf)

    def gradients(g: Tensor) -> tuple[Tensor, ...]:
        leaves = [t["q"].detach().requires_grad_(), t["k"].detach().requires_grad_()]
        return torch.autograd.grad(call.ours(*leaves), leaves, g)

    clean = gradients(t["a"])
    for name, got, want in zip("qk", gradients(t["a"].masked_fill(~exists.to(t["a"].device), garbage)), clean, strict=True):
        outcome.equal(f"gradient of {name}, slots without a key {where}", got, want)
    i = case.queries // 2
    dq, dk = gradients(t["a"].index_fill(-2, torch.tensor(i, device=t["a"].device), garbage))
    _except(outcome, f"gradient of q, row {i} {where}", dq, clean[0], (torch.arange(case.queries) == i)[:, None])
    seen = (key[..., i, :, None] == torch.arange(case.keys)).any(-2)
    _except(outcome, f"gradient of k, row {i} {where}", dk, clean[1], seen[..., None, :])


# ---- sizes --------------------------------------------------------------------------------------------------------------------------
def many_batches(device: torch.device, budget: Budget) -> Outcome:
    """More entries than the second and third dimension of a grid can count."""
    outcome, random = Outcome("more than 65535 batch entries"), budget.random()
    for batch in ((70_001,), (7, 10_001)) if budget.thorough else ((70_001,),):
        case = Case(5, 5, 4, 1, 1, batch=batch)
        for dtype in (torch.float32, torch.bfloat16) if budget.thorough else (torch.bfloat16,):
            tensors = case.tensors(dtype, random)
            for call in cases.calls(case):
                inputs = [tensors[name] for name in call.takes]
                exact, actual = call.formula(*inputs), call.ours(*(x.to(device) for x in inputs))
                outcome.close(f"{call.name} {case}, {dtype}", actual, exact, call.bound(exact, inputs, dtype), dtype)
    return outcome


def large_tensors(device: torch.device, budget: Budget) -> Outcome:
    """A band of more than 2**31 elements: rows at its start, around element 2**31 and at its end, forward and backward."""
    outcome, w, dim, dtype = Outcome("tensors beyond 2**31 elements"), 64, 16, torch.bfloat16
    rows = -(-budget.large // (2 * w + 1))
    needed = 2 * (3 * rows * (2 * w + 1) + 8 * rows * dim)
    if devices.free_bytes(device) < needed:
        outcome.left_out.append(f"that size, {needed >> 30} GiB are not free; {2**20} rows instead")
        rows = 2**20
    random = torch.Generator(device).manual_seed(budget.seed)
    q, v = (torch.randn(rows, dim, generator=random, dtype=torch.float32, device=device).to(dtype) for _ in range(2))
    places = sorted({0, min(2**31 // (2 * w + 1), rows - 64) - 32, rows - 64} - {-32})
    leaf = v.mT.detach().requires_grad_()
    a = functional.window_matmul(q, leaf, w)
    for i in places:
        _check_rows(outcome, q, v, a.detach(), i, w)
    (dk,) = torch.autograd.grad(a, leaf, a.detach())
    a = a.detach()
    p, o = functional.window_softmax(a, w), functional.unwindow_matmul(a, v, w)
    for i in places:
        _check_more_rows(outcome, q, v, a, p, o, dk.mT, i, w)
    return outcome


def _around(i: int, rows: int, w: int) -> tuple[slice, slice, int]:
    """64 rows from i on, the rows they see, and the offset between the two."""
    first = max(0, i - w)
    return slice(i, i + 64), slice(first, min(rows, i + 64 + w)), i - first


def _check_rows(outcome: Outcome, q: Tensor, keys: Tensor, a: Tensor, i: int, w: int) -> None:
    rows, seen, offset = _around(i, len(q), w)
    x, y = q[rows].cpu(), keys[seen].cpu().mT
    exact = reference.window_matmul(x, y, w, query_offset=offset)
    magnitude = reference.window_matmul(x.abs(), y.abs(), w, query_offset=offset)
    outcome.close(f"window_matmul, row {i} of {len(q)}", a[rows], exact, product_bound(exact, magnitude, q.shape[-1], q.dtype), q.dtype)


def _check_more_rows(outcome: Outcome, q: Tensor, v: Tensor, a: Tensor, p: Tensor, o: Tensor, dk: Tensor, i: int, w: int) -> None:
    rows, seen, offset = _around(i, len(q), w)
    x, values = a[rows].cpu(), v[seen].cpu()
    exact = reference.unwindow_matmul(x, values, w, query_offset=offset)
    magnitude = reference.unwindow_matmul(x.abs(), values.abs(), w, query_offset=offset)
    outcome.close(f"unwindow_matmul, row {i} of {len(q)}", o[rows], exact, product_bound(exact, magnitude, 2 * w + 1, a.dtype), a.dtype)
    exact = reference.window_softmax(x, w, num_keys=len(values), query_offset=offset)
    outcome.close(f"window_softmax, row {i} of {len(q)}", p[rows], exact, softmax_bound(exact, x, a.dtype), a.dtype)
    around = a[seen].cpu()  # queries that see the keys of `rows`
    first = seen.start
    dense, queries = (reference.to_dense(b, w, len(around)) for b in (around, around.abs())), q[seen].double().cpu()
    exact, magnitude = ((m.mT @ x)[offset : offset + 64] for m, x in zip(dense, (queries, queries.abs()), strict=True))
    bound = product_bound(exact, magnitude, 2 * w + 1, a.dtype)
    outcome.close(f"gradient of k, row {i} of {len(q)} (from {first})", dk[rows], exact, bound, a.dtype)


# ---- wrong arguments ----------------------------------------------------------------------------------------------------------------
def refusals(device: torch.device, budget: Budget) -> Outcome:
    """Each wrong argument is named, and nothing of the device is lost: a right call works afterwards."""
    outcome, elsewhere = Outcome("wrong arguments"), devices.elsewhere(device)
    q, k, a = torch.ones(6, 4, device=device), torch.ones(4, 6, device=device), torch.ones(6, 3, device=device)
    mm, um, sm, refuse = functional.window_matmul, functional.unwindow_matmul, functional.window_softmax, outcome.raises
    both = device.type, elsewhere.type
    refuse("mixed devices, window_matmul", ValueError, ("k", *both), partial(mm, q, k.to(elsewhere), 1))
    refuse("mixed devices, window_matmul", ValueError, ("k", *both), partial(mm, q.to(elsewhere), k, 1))
    refuse("mixed devices, unwindow_matmul", ValueError, ("v", *both), partial(um, a, q.to(elsewhere), 1))
    for dtype in (torch.int32, torch.complex64, torch.bool):
        refuse(f"{dtype}", TypeError, ("q", str(dtype)), partial(mm, q.to(dtype), k.to(dtype), 1))
        refuse(f"{dtype}, softmax", TypeError, ("a", str(dtype)), partial(sm, a.to(dtype), 1))
    refuse("two dtypes", TypeError, ("k", "float64", "float32"), partial(mm, q, k.double(), 1))
    refuse("sparse", TypeError, ("q",), partial(mm, q.to_sparse(), k, 1))
    refuse("shapes", ValueError, ("k",), partial(mm, q, k[:3], 1))
    refuse("width", ValueError, ("a",), partial(um, a, q, 2))
    refuse("window", ValueError, ("window_size", "-1"), partial(mm, q, k, -1))
    refuse("unbounded window", ValueError, ("window_size",), partial(mm, q, k, (1, None)))  # type: ignore[arg-type]
    refuse("dilation", ValueError, ("dilation", "0"), partial(mm, q, k, 1, dilation=0))
    refuse("fill", ValueError, ("fill", "nan"), partial(mm, q, k, 1, fill=float("nan")))
    outcome.equal("a right call afterwards", mm(q, k, 0), torch.full((6, 1), 4.0, device=device))
    return outcome

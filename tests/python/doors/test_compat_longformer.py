"""tests/python/doors/test_compat_longformer.py: allenai's functions against their published definitions, written out by index."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oracle import ROUNDING
from window_matmul.compat.longformer import (
    diagonaled_mm,
    mask_invalid_locations,
    pad_to_window_size,
    sliding_chunks_matmul_pv,
    sliding_chunks_matmul_qk,
)

pytestmark = pytest.mark.best_backend

BATCH, LENGTH, HEADS, DIM = 2, 17, 3, 5
DILATIONS: list[int | list[int]] = [1, 3, [1, 2, 7]]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def keys_of(i: int, w: int, dilation: int, autoregressive: bool) -> list[int | None]:
    """The key of each slot of query i; None beyond the ends."""
    keys = (i + dilation * tap for tap in range(-w, (0 if autoregressive else w) + 1))
    return [j if 0 <= j < LENGTH else None for j in keys]


def by_index(t1: Tensor, t2: Tensor, w: int, d: Any, is_t1_diagonaled: bool, padding: float, autoregressive: bool) -> Tensor:
    """The definition, number by number: a product with a missing key counts `padding` for each term of its sum."""
    dilations = [d] * HEADS if isinstance(d, int) else d
    rows = []
    for i in range(LENGTH):
        for head, dilation in enumerate(dilations):
            x, y = t1[:, i, head], t2[:, :, head]
            keys = keys_of(i, w, dilation, autoregressive)
            if is_t1_diagonaled:
                missing = torch.full_like(y[:, 0], padding)
                terms = (missing if j is None else x[:, slot, None] * y[:, j] for slot, j in enumerate(keys))
                rows.append(torch.stack(list(terms)).sum(0))
            else:
                missing = torch.full_like(y[:, 0], padding)
                rows.append(torch.stack([(missing if j is None else x * y[:, j]).sum(-1) for j in keys], -1))
    return torch.stack(rows, 1).unflatten(1, (LENGTH, HEADS))


def assert_close(result: Tensor, expected: Tensor, tensors: tuple[Tensor, ...], terms: int) -> None:
    """Values and gradients: sums of at most `terms` products of numbers below 5."""
    bound = 25 * terms * terms * ROUNDING[torch.float64]
    torch.testing.assert_close(result, expected, rtol=0, atol=bound)
    finite = torch.randn_like(result).where(expected.isfinite(), 0)
    for gradient, right in zip(*(torch.autograd.grad(x, tensors, finite) for x in (result, expected)), strict=True):
        torch.testing.assert_close(gradient, right, rtol=0, atol=bound)


@pytest.mark.parametrize("padding", [0, -3.5, -torch.inf])
@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("d", DILATIONS)
@pytest.mark.parametrize("w", [0, 2, 9])
def test_diagonaled_mm_is_its_definition(w: int, d: Any, autoregressive: bool, padding: float) -> None:
    width = w + 1 + (0 if autoregressive else w)
    given = torch.tensor(d) if isinstance(d, list) else d
    q, k, v, p = (normal(BATCH, LENGTH, HEADS, n) for n in (DIM, DIM, DIM, width))
    scores = diagonaled_mm(q, k, w, given, False, padding, autoregressive)
    assert_close(scores, by_index(q, k, w, d, False, padding, autoregressive), (q, k), max(width, DIM))
    sums = diagonaled_mm(p, v, w, given, True, padding, autoregressive)
    assert_close(sums, by_index(p, v, w, d, True, padding, autoregressive), (p, v), width)


@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("d", DILATIONS)
def test_masking_leaves_minus_infinity_where_no_key_is_and_nothing_elsewhere(d: Any, autoregressive: bool) -> None:
    w, given = 4, torch.tensor(d) if isinstance(d, list) else d
    x = torch.randn(BATCH, LENGTH, HEADS, w + 1 + (0 if autoregressive else w))
    expected = x.clone()
    for i in range(LENGTH):
        for head, dilation in enumerate([d] * HEADS if isinstance(d, int) else d):
            expected[:, i, head, [j is None for j in keys_of(i, w, dilation, autoregressive)]] = -torch.inf
    assert mask_invalid_locations(x, w, given, autoregressive) is None
    assert torch.equal(x, expected)


@pytest.mark.parametrize("w", [1, 4, 20])
def test_sliding_chunks_are_the_band_with_minus_infinity_and_values_of_minus_one_outside(w: int) -> None:
    q, k, v, p = (normal(BATCH, LENGTH, HEADS, n) for n in (DIM, DIM, DIM, 2 * w + 1))
    scores = sliding_chunks_matmul_qk(q, k, w, 7.0)
    assert_close(scores, by_index(q, k, w, 1, False, -torch.inf, False), (q, k), 2 * w + 1)
    beyond = torch.nn.functional.pad(v, (0, 0, 0, 0, w, w), value=-1.0)
    sums = torch.stack([torch.einsum("bhc,bchd->bhd", p[:, i], beyond[:, i : i + 2 * w + 1]) for i in range(LENGTH)], 1)
    assert_close(sliding_chunks_matmul_pv(p, v, w), sums, (p, v), 2 * w + 1)


def test_padding_to_a_multiple_of_twice_the_window() -> None:
    ids, mask = torch.arange(1, 8).view(1, 7), torch.ones(1, 7, dtype=torch.long)
    padded_ids, padded_mask = pad_to_window_size(ids, mask, 2, 99)
    assert padded_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 99]]
    assert padded_mask.tolist() == [[1] * 7 + [0]]
    assert pad_to_window_size(padded_ids, padded_mask, 2, 99)[0].shape == (1, 8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"t1": torch.zeros(2, 17, 15)}, ValueError, r"t1 is \(2, 17, 15\)"),
        ({"t1": torch.zeros(2, 17, 3, 4), "is_t1_diagonaled": True}, ValueError, r"t1 is \(2, 17, 3, 4\).*H, 5\)"),
        ({"t2": torch.zeros(2, 16, 3, 5)}, ValueError, r"beside t2 of \(2, 16, 3, 5\)"),
        ({"w": -1}, ValueError, "w is -1"),
        ({"d": 0}, ValueError, "d is 0"),
        ({"d": torch.ones(2, dtype=torch.int32)}, ValueError, r"d is \(2,\)"),
        ({"d": torch.ones(3)}, TypeError, "d is torch.float32"),
        ({"padding": float("nan")}, ValueError, "padding is nan"),
        ({"padding": "0"}, TypeError, r"padding is '0' \(str\)"),
        ({"padding": torch.zeros(2)}, TypeError, "padding is tensor"),
        ({"t1": [1.0]}, TypeError, "t1 is of type list"),
        ({"t2": None}, TypeError, "t2 is of type NoneType"),
        ({"autoregressive": "no"}, TypeError, r"autoregressive is 'no' \(str\)"),
        ({"is_t1_diagonaled": 0}, TypeError, r"is_t1_diagonaled is 0 \(int\)"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    call = {"t1": torch.zeros(2, 17, 3, 5), "t2": torch.zeros(2, 17, 3, 5), "w": 2, "d": 1} | change
    with pytest.raises(error, match=message):
        diagonaled_mm(**call)


def test_errors_of_the_others_name_the_argument() -> None:
    x, ids = torch.zeros(2, 17, 3, 5), torch.ones(2, 17, dtype=torch.long)
    with pytest.raises(TypeError, match="input_tensor is of type list"):
        mask_invalid_locations([x], 2, 1, False)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="autoregressive is 1"):
        mask_invalid_locations(x, 2, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="padding_value is None"):
        sliding_chunks_matmul_qk(x, x, 2, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"attention_mask is \(2, 16\) beside input_ids of \(2, 17\)"):
        pad_to_window_size(ids, ids[:, 1:], 2, 0)
    with pytest.raises(TypeError, match=r"one_sided_window_size is 2\.5"):
        pad_to_window_size(ids, ids, 2.5, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pad_token_id is None"):
        pad_to_window_size(ids, ids, 2, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("d", [2**61, [1, 2**61, 2]])
def test_a_dilation_beyond_all_lengths_does_not_wrap(d: Any) -> None:
    x = torch.zeros(1, 5, 3, 17)
    mask_invalid_locations(x, 8, torch.tensor(d) if isinstance(d, list) else d, False)
    far = [True, True, True] if isinstance(d, int) else [False, True, False]
    assert torch.equal((x == 0).sum(-1)[:, :, far].unique(), torch.tensor([1]))  # the query's own key alone

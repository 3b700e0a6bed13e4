"""tests/python/doors/test_compat_numpy.py: the door for NumPy gives the bits of the operators on torch tensors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import window_matmul
from attention_cases import CASES, EMPTY, OPTIONS_TOGETHER, Case
from window_matmul import Window
from window_matmul.compat import numpy as door

pytestmark = pytest.mark.best_backend
DTYPES = (torch.float32, torch.float64, torch.float16)


def array(x: Any) -> Any:
    return x.numpy() if isinstance(x, Tensor) else x


def arrays(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: array(x) for name, x in arguments.items()}


def same(actual: Any, expected: Any) -> None:
    """Dtype, shape, and every bit; NaNs count by their place."""
    if isinstance(expected, tuple):
        return [same(*pair) for pair in zip(actual, expected, strict=True)] and None
    want = expected.numpy()
    assert type(actual) is np.ndarray and actual.dtype == want.dtype and actual.shape == want.shape
    np.testing.assert_array_equal(actual, want, strict=True)
    assert np.array_equal(np.signbit(actual), np.signbit(want))
    return None


# ---- bands ---------------------------------------------------------------------------------------------------------------------------
BANDS: dict[str, dict[str, Any]] = {
    "plain": {"window_size": 2},
    "pair": {"window_size": (3, 0)},
    "Window": {"window_size": Window(1, 2, 2)},
    "dilation": {"window_size": (1, 2), "dilation": 2},
    "dilation for each head": {"window_size": (1, 2), "dilation": [1, 3]},
    "offset": {"window_size": 2, "query_offset": -2},
    "longer than the sequence": {"window_size": (40, 9)},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("band", BANDS)
def test_bands(band: str, dtype: torch.dtype) -> None:
    options = BANDS[band]
    q, k, v = torch.randn(2, 1, 7, 4).to(dtype), torch.randn(2, 4, 9).to(dtype), torch.randn(2, 9, 3).to(dtype)
    a = window_matmul.window_matmul(q, k, **options)
    p = window_matmul.window_softmax(a, **options, num_keys=9)
    same(door.window_matmul(q.numpy(), k.numpy(), **options), a)
    same(door.window_matmul(q.numpy(), k.numpy(), **options, fill=-np.inf), window_matmul.window_matmul(q, k, **options, fill=-torch.inf))
    same(door.window_softmax(a.numpy(), **options, num_keys=9), p)
    same(door.window_softmax(a.numpy(), **options), window_matmul.window_softmax(a, **options))
    same(door.unwindow_matmul(p.numpy(), v.numpy(), **options), window_matmul.unwindow_matmul(p, v, **options))


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)], ids=str)
def test_empty_bands(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    a = window_matmul.window_matmul(x, x.mT, 1)
    same(door.window_matmul(x.numpy(), x.mT.numpy(), 1), a)
    same(door.window_softmax(a.numpy(), 1), window_matmul.window_softmax(a, 1))
    same(door.unwindow_matmul(a.numpy(), x.numpy(), 1), window_matmul.unwindow_matmul(a, x, 1))


# ---- fused attention -----------------------------------------------------------------------------------------------------------------
def check_case(case: Case, dtype: torch.dtype, **more: Any) -> None:
    options = case.tensors(dtype) | case.numbers() | more | {"window_size": case.window, "return_lse": True}
    same(door.window_attention(**arrays(options)), window_matmul.window_attention(**options))


@pytest.mark.parametrize("case", [*CASES, *EMPTY], ids=str)
def test_each_option(case: Case) -> None:
    check_case(case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", OPTIONS_TOGETHER, ids=str)
def test_options_together_in_other_dtypes(case: Case, dtype: torch.dtype) -> None:
    check_case(case, dtype)


def test_scalars_lists_and_none_stand_for_what_they_do_in_torch() -> None:
    q, k, v = torch.randn(3, 1, 2, 6, 4)
    for options in ({"query_offset": torch.tensor(1)}, {"global_tokens": torch.tensor(2)}, {"dilation": [1, 2]}, {"scale": None}):
        same(door.window_attention(*map(array, (q, k, v)), 1, **arrays(options)), window_matmul.window_attention(q, k, v, 1, **options))


def test_the_sums_of_halves() -> None:
    q, k, v = torch.randn(3, 1, 2, 6, 4).half()
    same(
        door.window_attention(*map(array, (q, k, v)), 1, out_dtype=np.float32),
        window_matmul.window_attention(q, k, v, 1, out_dtype=torch.float32),
    )


def test_dropout_is_the_seed_s() -> None:
    q, k, v = torch.randn(3, 1, 2, 16, 4)
    torch.manual_seed(3)
    expected = window_matmul.window_attention(q, k, v, 4, dropout_p=0.5)
    torch.manual_seed(3)
    seed = int(torch.randint((1 << 63) - 1, ()))  # as the operator draws it
    same(door.window_attention(*map(array, (q, k, v)), 4, dropout_p=0.5, dropout_seed=seed), expected)
    with pytest.raises(ValueError, match=r"dropout_seed is None beside a dropout_p of 0.5; it needs to be an int from 0"):
        door.window_attention(*map(array, (q, k, v)), 4, dropout_p=0.5)


# ---- memory --------------------------------------------------------------------------------------------------------------------------
def test_any_strides() -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 3, 4)).astype(np.float32)
    frozen = x.copy()
    frozen.flags.writeable = False
    records = np.zeros(x.shape, [("pad", np.uint8), ("x", np.float32)])  # whose fields lie at odd addresses
    records["x"] = x
    for q in (x.swapaxes(1, 2), frozen.swapaxes(1, 2), records["x"].swapaxes(1, 2), np.asfortranarray(x.swapaxes(1, 2))):
        same(door.window_attention(q, q, q, (2, 1)), window_matmul.window_attention(*[torch.tensor(x).transpose(1, 2)] * 3, (2, 1)))
    turned = x[:, ::-1, ::2, ::-1].swapaxes(1, 2)
    plain = torch.tensor(turned.copy())
    same(door.window_attention(turned, turned, turned, 1), window_matmul.window_attention(plain, plain, plain, 1))
    once = np.broadcast_to(x[:1, :1], (2, 7, 3, 4)).swapaxes(1, 2)
    same(door.window_matmul(once, once.swapaxes(-1, -2), 1), window_matmul.window_matmul(torch.tensor(once), torch.tensor(once).mT, 1))


def test_results_lie_as_q_lies() -> None:
    x = np.zeros((2, 7, 3, 4), np.float32)
    assert door.window_attention(*[x.swapaxes(1, 2)] * 3, 1).swapaxes(1, 2).flags.c_contiguous
    assert door.window_attention(x, x, x, 1).flags.c_contiguous


def test_what_has_dlpack_is_taken_as_it_lies() -> None:
    q, k, v = torch.randn(3, 2, 7, 3, 8)[..., ::2].transpose(2, 3).unbind()
    options: dict[str, Any] = {
        "key_mask": (torch.rand(7, 2) < 0.5).mT,
        "key_lengths": torch.tensor([[1, 0], [5, 0]], dtype=torch.int32)[:, 0],
        "sinks": torch.randn(()).expand(3),
    }
    same(door.window_attention(q, k, v, (2, 1), **options), window_matmul.window_attention(q, k, v, (2, 1), **options))
    same(door.window_matmul(q, k.mT, 1), window_matmul.window_matmul(q, k.mT, 1))


def test_bfloat16_is_ml_dtypes_own() -> None:
    x = torch.randn(1, 2, 7, 4).bfloat16()
    ml_dtypes = pytest.importorskip("ml_dtypes")
    out = door.window_attention(x, x, x, (2, 0))
    assert out.dtype == ml_dtypes.bfloat16
    same(out.astype(np.float32), window_matmul.window_attention(x, x, x, (2, 0)).float())
    again = x.float().numpy().astype(ml_dtypes.bfloat16)
    same(door.window_attention(again, again, again, (2, 0)).astype(np.float32), window_matmul.window_attention(x, x, x, (2, 0)).float())


def test_bfloat16_without_ml_dtypes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    x = torch.randn(1, 2, 7, 4).bfloat16()
    with pytest.raises(ImportError, match="pip install ml_dtypes"):
        door.window_attention(x, x, x, 1)
    same(door.window_attention(x, x, x, 1, out_dtype=np.float32), window_matmul.window_attention(x, x, x, 1, out_dtype=torch.float32))


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 1024, 32)).astype(np.float32)  # 17 million multiply-adds: worth many threads
    results = []
    for threads in ("1", "3", ""):
        monkeypatch.setenv("WINDOW_MATMUL_THREADS", threads)
        results.append(door.window_attention(x, x, x, 64))
    assert all(np.array_equal(results[0], result) for result in results)
    monkeypatch.setenv("WINDOW_MATMUL_THREADS", "many")
    with pytest.raises(ValueError, match="WINDOW_MATMUL_THREADS is 'many'; it needs to be a number from 1"):
        door.window_attention(x, x, x, 64)


def test_nan_of_what_is_not_seen_stays_there() -> None:
    x = np.ones((1, 1, 4, 2), np.float32)
    v = x.copy()
    v[0, 0, 3] = np.nan
    out = door.window_attention(x, x, v, (1, 0))
    assert np.isnan(out[0, 0, 3]).all() and np.isfinite(out[0, 0, :3]).all()

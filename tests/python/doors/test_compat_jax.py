"""tests/python/doors/test_compat_jax.py: the door for JAX gives the bits of the operators on torch tensors, in results and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import window_matmul
from attention_cases import CASES, DIFFERENTIABLE, EMPTY, OPTIONS_TOGETHER, Case, gradients, leaves
from test_compat_numpy import BANDS
from window_matmul import Window

jax = pytest.importorskip("jax")
door = pytest.importorskip("window_matmul.compat.jax")
jnp = jax.numpy

pytestmark = pytest.mark.best_backend
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def array(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    x = x.detach()
    return jnp.asarray(x.float().numpy()).astype("bfloat16") if x.dtype is torch.bfloat16 else jnp.asarray(x.numpy())


def arrays(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: array(x) for name, x in arguments.items()}


def same(actual: Any, expected: Any) -> None:
    """Dtype, shape, and every bit; NaNs count by their place."""
    if isinstance(expected, tuple | list):
        return [same(*pair) for pair in zip(actual, expected, strict=True)] and None
    if isinstance(expected, dict):
        return [same(actual[name], x) for name, x in expected.items()] and None
    want, got = np.asarray(array(expected)), np.asarray(actual)
    assert isinstance(actual, jax.Array) and got.dtype == want.dtype
    np.testing.assert_array_equal(got, want, strict=True)
    assert np.array_equal(np.signbit(got), np.signbit(want))
    return None


def pulled(call: Callable[..., Any], operands: Any, cotangents: Any) -> tuple[Any, Any]:
    """Results of call(*operands), and gradients; compiled whole, which takes less time than piece by piece."""

    def both(operands: Any, cotangents: Any) -> tuple[Any, Any]:
        results, pull = jax.vjp(call, *operands)
        return results, pull(cotangents)

    results: tuple[Any, Any] = jax.jit(both)(tuple(operands), cotangents)
    return results


# ---- bands ---------------------------------------------------------------------------------------------------------------------------
def band_operands(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 1, 7, 4).to(dtype), torch.randn(2, 4, 9).to(dtype), torch.randn(2, 9, 3).to(dtype)


def attend(ours: Any, options: dict[str, Any], q: Any, k: Any, v: Any) -> Any:
    a = ours.window_matmul(q, k, **options, fill=0.5)
    p = ours.window_softmax(a, **options, num_keys=9)
    return a, p, ours.unwindow_matmul(p, v, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bands(dtype: torch.dtype) -> None:
    operands = band_operands(dtype)
    found = jax.jit(lambda *x: [attend(door, options, *x) for options in BANDS.values()])(*map(array, operands))
    for results, options in zip(found, BANDS.values(), strict=True):
        same(results, attend(window_matmul, options, *operands))


GRADIENTS = [("offset", torch.float32), *(("dilation for each head", dtype) for dtype in DTYPES)]


@pytest.mark.parametrize("band, dtype", GRADIENTS, ids=str)
def test_gradients_of_bands(band: str, dtype: torch.dtype) -> None:
    operands = [x.requires_grad_() for x in band_operands(dtype)]
    results = attend(window_matmul, BANDS[band], *operands)
    cotangents = [torch.randn(x.shape).to(dtype) for x in results]
    wanted = torch.autograd.grad(results, operands, cotangents)
    _, found = pulled(lambda *x: attend(door, BANDS[band], *x), map(array, operands), tuple(map(array, cotangents)))
    # Gradients of what was broadcast are summed by torch there, by XLA here; three terms for p, which XLA adds in an order of its own.
    for x, want in zip(found, wanted, strict=True):
        assert x.dtype == array(want).dtype
        size = float(want.abs().max())
        np.testing.assert_allclose(np.float64(x), want.double().numpy(), rtol=0, atol=8 * torch.finfo(dtype).eps * size)


def test_second_gradients_of_bands() -> None:
    operands = [x.requires_grad_() for x in band_operands(torch.float64)]
    options: dict[str, Any] = {"window_size": (2, 1), "dilation": [1, 3]}

    def loss(ours: Any, q: Any, k: Any, v: Any) -> Any:
        p = ours.window_softmax(ours.window_matmul(q, k, **options), **options, num_keys=9)
        return (ours.unwindow_matmul(p, v, **options) ** 3).sum()

    first = torch.autograd.grad(loss(window_matmul, *operands), operands, create_graph=True)
    wanted = torch.autograd.grad(sum((x**2).sum() for x in first), operands)  # type: ignore[arg-type]

    def of_gradients(*x: Any) -> Any:
        return sum((g**2).sum() for g in jax.grad(lambda *y: loss(door, *y), (0, 1, 2))(*x))

    for x, want in zip(jax.jit(jax.grad(of_gradients, (0, 1, 2)))(*map(array, operands)), wanted, strict=True):
        # Sums of some hundred products, in two orders.
        np.testing.assert_allclose(x, want.numpy(), rtol=0, atol=200 * 2.2e-16 * float(want.abs().max()))


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)], ids=str)
def test_empty_bands(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    a = window_matmul.window_matmul(x, x.mT, 1)
    same(door.window_matmul(array(x), array(x.mT), 1), a)
    same(door.window_softmax(array(a), 1), window_matmul.window_softmax(a, 1))
    same(door.unwindow_matmul(array(a), array(x), 1), window_matmul.unwindow_matmul(a, x, 1))


# ---- fused attention -----------------------------------------------------------------------------------------------------------------
def of_case(case: Case, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any], Callable[..., Any]]:
    """The tensors; the arrays that gradients are for; and the call of these."""
    tensors = case.tensors(dtype)
    of_all = arrays(tensors)
    floats = {name: x for name, x in of_all.items() if name in DIFFERENTIABLE}
    rest = {name: x for name, x in of_all.items() if name not in floats} | case.numbers() | {"window_size": case.window}
    return tensors, floats, lambda floats: door.window_attention(**floats, **rest, return_lse=True)


def check_case(case: Case, dtype: torch.dtype) -> None:
    """Results and gradients, through both results."""
    tensors, floats, call = of_case(case, dtype)
    ours = leaves(tensors)
    results = case.ours(ours)
    cotangents = tuple(torch.randn(x.shape).to(x.dtype) for x in results)
    wanted = gradients(results, ours, cotangents)
    found, gradients_found = pulled(call, (floats,), tuple(map(array, cotangents)))
    same(found, list(results))
    same(gradients_found[0], wanted)


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_each_option(case: Case) -> None:
    tensors, floats, call = of_case(case, torch.float32)
    same(call(floats), case.ours(tensors))


@pytest.mark.parametrize("case", [*OPTIONS_TOGETHER, *EMPTY, CASES[-4]], ids=str)
def test_gradients(case: Case) -> None:
    check_case(case, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_gradients_in_other_dtypes(dtype: torch.dtype) -> None:
    check_case(Case(OPTIONS_TOGETHER[3].rule, 9, 9, bias="slots", wide_bias=True, sinks=True, softcap=2.0), dtype)


def test_without_64_bits() -> None:
    """JAX's default. Numbers are float64 and int64 all the same."""
    with jax.enable_x64(False):
        check_case(replace(CASES[-7], scale=0.7123456789, global_mask=False, global_tokens=2**40), torch.float32)


def test_gradients_of_some_alone() -> None:
    """What is not asked for is not computed; lse, or out, alone has one."""
    tensors, floats, _ = of_case(OPTIONS_TOGETHER[3], torch.float32)
    window = OPTIONS_TOGETHER[3].window
    for name in ("q", "bias", "sinks"):
        for result in (0, 1):
            ours = leaves({n: tensors[n] for n in ("q", "k", "v", "bias", "sinks")})
            out = window_matmul.window_attention(**ours, window_size=window, return_lse=True)[result]
            (wanted,) = torch.autograd.grad(out.sum(), [ours[name]], allow_unused=True)

            def of_one(x: Any, name: str = name, result: int = result) -> Any:
                return door.window_attention(**{**floats, name: x}, window_size=window, return_lse=True)[result].sum()

            traced = str(jax.make_jaxpr(jax.grad(of_one))(floats[name]))
            assert f"d_{name}" in traced and "d_k" not in traced
            same(jax.grad(of_one)(floats[name]), torch.zeros_like(ours[name]) if wanted is None else wanted)


def test_scalars_and_none_stand_for_what_they_do_in_torch() -> None:
    q, k, v = torch.randn(3, 1, 2, 6, 4)
    for options in ({"query_offset": torch.tensor(1)}, {"global_tokens": torch.tensor(2)}, {"dilation": [1, 2]}, {"scale": None}):
        same(door.window_attention(*map(array, (q, k, v)), 1, **arrays(options)), window_matmul.window_attention(q, k, v, 1, **options))
    same(door.window_attention(q.numpy(), k.numpy(), v.numpy(), Window(1, 0)), window_matmul.window_attention(q, k, v, (1, 0)))


def test_the_sums_of_halves() -> None:
    ours = [x.requires_grad_() for x in torch.randn(3, 1, 2, 6, 4).half()]
    out = window_matmul.window_attention(*ours, 1, out_dtype=torch.float32)
    found, pulled_back = pulled(lambda *x: door.window_attention(*x, 1, out_dtype="float32"), map(array, ours), array(out))
    same(found, out)
    same(pulled_back, list(torch.autograd.grad(out, ours, out.detach())))


def test_dropout_is_the_seed_s() -> None:
    from window_matmul.compat import numpy as for_numpy

    x = torch.randn(1, 2, 16, 4)
    for seed in (3, 2**40 + 5, 2**64 - 1):
        expected = torch.from_numpy(for_numpy.window_attention(*[x.numpy()] * 3, 4, dropout_p=0.5, dropout_seed=seed))
        same(door.window_attention(*[array(x)] * 3, 4, dropout_p=0.5, dropout_seed=seed), expected)
        as_array = jnp.asarray(seed, "uint64")
        same(jax.jit(lambda s: door.window_attention(*[array(x)] * 3, 4, dropout_p=0.5, dropout_seed=s))(as_array), expected)
    bits = jax.random.bits(jax.random.key(0))
    again = door.window_attention(*[array(x)] * 3, 4, dropout_p=0.5, dropout_seed=int(bits))
    assert np.array_equal(door.window_attention(*[array(x)] * 3, 4, dropout_p=0.5, dropout_seed=bits), again)


# ---- JAX's own attention -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size, is_causal, keys", [(3, True, 10), ((4, 1), False, 12)], ids=str)
def test_jax_dot_product_attention(size: Any, is_causal: bool, keys: int) -> None:
    """The same, dense, on (B, L, H, D), where every query has a key. It has grouped heads too."""
    shapes = ((10, 4), (keys, 2), (keys, 2), (10, 4))
    q, k, v, d_out = (array(torch.randn(2, length, heads, 8, dtype=torch.float64)) for length, heads in shapes)
    window = Window.from_jax(size, is_causal=is_causal)

    def ours(*x: Any) -> Any:
        return door.window_attention(*(y.swapaxes(1, 2) for y in x), window, query_offset=0).swapaxes(1, 2)

    def theirs(*x: Any) -> Any:
        return jax.nn.dot_product_attention(*x, is_causal=is_causal, local_window_size=size)

    (found, gradients_found), (wanted, gradients_wanted) = (pulled(f, (q, k, v), d_out) for f in (ours, theirs))
    # Softmax is float32 there, whatever the dtype: logits below 10 are rounded by 6e-7, ten weights by 1e-6 of themselves; values below 5.
    for x, want in zip((found, *gradients_found), (wanted, *gradients_wanted), strict=True):
        np.testing.assert_allclose(x, want, rtol=0, atol=5e-5)

"""tests/python/doors/test_compat_jax_transforms.py: the door for JAX under vmap, jit, scan and checkpoint: each call as it is alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention_cases import DIFFERENTIABLE, OPTIONS_TOGETHER, Case

jax = pytest.importorskip("jax")
door = pytest.importorskip("window_matmul.compat.jax")
jnp = jax.numpy

from test_compat_jax import array, arrays  # noqa: E402  # which skips itself without JAX

pytestmark = pytest.mark.best_backend


def stacked(results: Any) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *results)


VMAPPED = [
    Case(OPTIONS_TOGETHER[0].rule, kv_heads=1),
    Case(OPTIONS_TOGETHER[3].rule, 9, 9, bias="slots", sinks=True, key_mask=True),
    Case(OPTIONS_TOGETHER[3].rule, 9, 9, bias="full", global_mask=True, key_lengths=True),
]


@pytest.mark.parametrize("case", VMAPPED, ids=str)
def test_vmap_of_attention_is_a_call_each(case: Case) -> None:
    """Everything mapped, some, or one alone; results, and gradients through both."""
    calls = [arrays(case.tensors(torch.float32)) for _ in range(3)]

    def call(given: dict[str, Any]) -> Any:
        options = case.numbers() | {"window_size": case.window, "return_lse": True}
        (out, lse), pull = jax.vjp(
            lambda f: door.window_attention(**(given | f), **options), {n: given[n] for n in DIFFERENTIABLE if n in given}
        )
        return out, lse, pull((out, lse))

    for mapped in (set(calls[0]), {"q", "v", "sinks"}, {"k", "bias", "key_lengths"}):
        axes = {name: 0 if name in mapped else None for name in calls[0]}
        given = {name: jnp.stack([c[name] for c in calls]) if name in mapped else x for name, x in calls[0].items()}
        one = jax.jit(call)
        each = stacked([one({name: c[name] if name in mapped else x for name, x in calls[0].items()}) for c in calls])
        jax.tree.map(np.testing.assert_array_equal, jax.jit(jax.vmap(call, (axes,)))(given), each)


def test_vmap_of_attention_twice_and_with_dropout() -> None:
    x, seeds = array(torch.randn(2, 3, 1, 2, 9, 4)), jnp.arange(3, dtype="uint32")

    def call(q: Any, seed: Any) -> Any:
        return door.window_attention(q, q, q, 3, dropout_p=0.3, dropout_seed=seed)

    found = jax.vmap(jax.vmap(call), (0, None))(x, seeds)
    each = jnp.stack([jnp.stack([call(x[i, j], seeds[j]) for j in range(3)]) for i in range(2)])
    assert np.array_equal(found, each) and not np.array_equal(found[0, 0], call(x[0, 0], seeds[1]))


def test_vmap_of_bands_is_a_call_each() -> None:
    q, k, v = array(torch.randn(3, 2, 7, 4)), array(torch.randn(3, 4, 9)), array(torch.randn(2, 9, 3))

    def call(q: Any, k: Any, v: Any) -> Any:
        def attend(q: Any, k: Any, v: Any) -> Any:
            return door.unwindow_matmul(door.window_softmax(door.window_matmul(q, k, (2, 1)), (2, 1), num_keys=9), v, (2, 1))

        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(out)

    for axes in ((0, 0, None), (0, None, None), (None, 0, None)):
        given = [x if axis == 0 or n == 2 else x[0] for n, (x, axis) in enumerate(zip((q, k, v), axes, strict=True))]
        one = jax.jit(call)
        each = stacked([one(*(x if axis is None else x[n] for x, axis in zip(given, axes, strict=True))) for n in range(3)])
        # Sums over dims that were broadcast are XLA's, in an order of its own: eight terms.
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5), jax.jit(jax.vmap(call, axes))(*given), each)


def test_jit_checkpoint_scan_and_shapes() -> None:
    q = array(torch.randn(1, 2, 32, 8))

    def call(x: Any) -> Any:
        return door.window_attention(x, x, x, (5, 0), softcap=3.0)

    def loss(f: Any) -> Any:
        return jax.grad(lambda x: (f(x) ** 2).sum())

    assert np.array_equal(jax.jit(call)(q), call(q))
    assert np.array_equal(jax.jit(loss(jax.checkpoint(call)))(q), loss(call)(q))
    repeated, _ = jax.lax.scan(lambda x, _: (call(x), None), q, None, 3)
    assert np.array_equal(repeated, call(call(call(q))))
    shape = jax.eval_shape(lambda x: door.window_attention(x, x, x, 3, return_lse=True), jax.ShapeDtypeStruct((2, 4, 6, 8), "bfloat16"))
    assert [(x.shape, str(x.dtype)) for x in shape] == [((2, 4, 6, 8), "bfloat16"), ((2, 4, 6), "float32")]
    assert jax.eval_shape(lambda x: door.window_matmul(x, x.swapaxes(-1, -2), (2, 0)), q).shape == (1, 2, 32, 3)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = array(torch.randn(1, 2, 1024, 32))  # 17 million multiply-adds: worth many threads
    results = []
    for threads in ("1", "3", ""):
        monkeypatch.setenv("WINDOW_MATMUL_THREADS", threads)
        results.append(np.asarray(door.window_attention(x, x, x, 64)))
    assert all(np.array_equal(results[0], result) for result in results)

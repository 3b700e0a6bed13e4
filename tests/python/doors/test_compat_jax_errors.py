"""tests/python/doors/test_compat_jax_errors.py: what the door for JAX refuses when it is traced, in the words of those on torch."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import window_matmul
from test_compat_numpy_errors import BAND_REFUSED, ONES, REFUSED, good
from test_without_torch import NO_TORCH, ROOT

jax = pytest.importorskip("jax")
door = pytest.importorskip("window_matmul.compat.jax")
jnp = jax.numpy

pytestmark = pytest.mark.best_backend
X = np.ones((1, 1, 4, 2), np.float32)


def arrays(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: jnp.asarray(x.numpy()) if isinstance(x, Tensor) else x for name, x in arguments.items()}


def is_value(wrong: dict[str, Any]) -> bool:
    """What only the running call sees."""
    return any(isinstance(x, Tensor) and not x.is_floating_point() and x.shape == (2,) for x in wrong.values())


@pytest.mark.parametrize("wrong", [wrong for wrong in REFUSED if not is_value(wrong)], ids=str)
def test_errors_are_those_of_the_functions_on_torch(wrong: dict[str, Any]) -> None:
    options = good() | wrong
    with pytest.raises((TypeError, ValueError)) as theirs:
        window_matmul.window_attention(**options)
    with jax.enable_x64(True), pytest.raises(theirs.type) as ours:
        jax.eval_shape(lambda: door.window_attention(**arrays(options)))
    expected = str(theirs.value).replace("torch.", "").replace("a tensor (B,)", "an array (B,)")
    assert str(ours.value).replace("Array(True, dtype=bool) (ArrayImpl)", "tensor(True) (Tensor)") == expected


@pytest.mark.parametrize("wrong", BAND_REFUSED, ids=str)
def test_errors_of_bands_likewise(wrong: dict[str, Any]) -> None:
    options = {"q": ONES(2, 6, 5), "k": ONES(2, 5, 8), "window_size": 1} | wrong
    with pytest.raises((TypeError, ValueError)) as theirs:
        window_matmul.window_matmul(**options)
    with jax.enable_x64(True), pytest.raises(theirs.type) as ours:
        door.window_matmul(**arrays(options))
    assert str(ours.value) == str(theirs.value).replace("torch.", "")


@pytest.mark.parametrize("wrong", [wrong for wrong in REFUSED if is_value(wrong)], ids=str)
def test_values_are_looked_at_when_the_call_runs(wrong: dict[str, Any]) -> None:
    options = good() | wrong
    with pytest.raises(ValueError) as theirs:
        window_matmul.window_attention(**options)
    with jax.enable_x64(True), pytest.raises(jax.errors.JaxRuntimeError) as ours:
        jax.block_until_ready(door.window_attention(**arrays(options)))
    assert str(theirs.value).partition(";")[0].split(" is ")[-1] in str(ours.value) and "INVALID_ARGUMENT" in str(ours.value)


class OnAGpu:
    platform, id = "gpu", 1


@pytest.mark.parametrize(
    "q, error, said",
    [
        ([[1.0]], TypeError, "q is of type list; it needs to be an array: JAX's or NumPy's"),
        (1.0, TypeError, "q is of type float; it needs to be an array"),
        (torch.ones(1, 1, 4, 2), TypeError, "q is of type Tensor; it needs to be an array"),
        (np.ma.masked_array(X), TypeError, "q is of type MaskedArray; it needs to be an array"),
        (
            X.astype(np.float64),
            TypeError,
            "q is float64, which JAX has only where jax_enable_x64 is set; it needs to be float32, or that to be",
        ),
        (X.astype(np.complex64), TypeError, "q is complex64; it needs to be float32"),
        (X[0], ValueError, "q is (1, 4, 2); it needs to be (B, H, Lq, D)"),
    ],
    ids=str,
)
def test_what_is_no_array_here(q: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        door.window_attention(q, X, X, 1)
    assert raised.type is error and said in str(raised.value)


def test_arrays_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.asarray(X)
    monkeypatch.setattr(type(x), "devices", lambda self: {OnAGpu()})
    with pytest.raises(ValueError, match=r"q is on the device gpu:1; it needs to be on the CPU, where jax.device_put\(x, jax.devices"):
        door.window_attention(x, X, X, 1)


def test_what_is_traced_is_no_number() -> None:
    for name, need in (("scale", "a finite number or None"), ("dropout_p", "a number from 0 to 1"), ("query_offset", "an int, an array")):
        with pytest.raises(TypeError, match=f"{name} is .*; it needs to be {need}"):
            jax.jit(lambda x, name=name: door.window_attention(X, X, X, 1, **{name: x}))(1)


def test_seeds_and_out_dtype() -> None:
    with pytest.raises(ValueError, match=r"dropout_seed is None beside a dropout_p of 0.5; it needs to be an int from 0"):
        door.window_attention(X, X, X, 1, dropout_p=0.5)
    for seed in (jnp.asarray(1.0), jnp.arange(2, dtype="uint32"), jax.random.key(0)):
        with pytest.raises(TypeError, match=r"(?s)dropout_seed is .*; it needs to be an int from 0 to 2\*\*64 - 1"):
            door.window_attention(X, X, X, 1, dropout_p=0.5, dropout_seed=seed)
    with pytest.raises(TypeError, match=r"out_dtype is .*float16.* beside q of float32; it needs to be None, float32 or the dtype of q"):
        door.window_attention(X, X, X, 1, out_dtype=np.float16)
    with pytest.raises(TypeError, match="unexpected keyword argument 'deterministic'"):
        door.window_attention(X, X, X, 1, deterministic=True)


def test_derivatives_that_are_not_there() -> None:
    def loss(x: Any) -> Any:
        return (door.window_attention(x, x, x, 1) ** 2).sum()

    with pytest.raises(NotImplementedError, match=r"no derivatives of their own; .* window_matmul \+ window_softmax \+ unwindow_matmul"):
        jax.eval_shape(jax.grad(lambda x: jax.grad(loss)(x).sum()), X)
    for forward in (jax.hessian(loss), lambda x: jax.jvp(loss, (x,), (x,))):
        with pytest.raises(TypeError, match="forward-mode"):  # JAX's own words
            forward(jnp.asarray(X))


def test_neither_torch_nor_more_of_jax_is_needed() -> None:
    code = """
    import jax
    import window_matmul
    from window_matmul.compat import jax as door
    x = jax.numpy.arange(1.0, 9.0).reshape(4, 2)
    print(door.window_matmul(x, x.T, 1).tolist(), sys.modules["torch"])
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", NO_TORCH + code.replace("\n    ", "\n")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[[0.0, 5.0, 11.0], [11.0, 25.0, 39.0], [39.0, 61.0, 83.0], [83.0, 113.0, 0.0]] None", done.stderr

#!/usr/bin/env bash
# findings/jax_float64_softmax.sh: jax 0.10.2: dot_product_attention in float64 has the precision of float32: its softmax is computed in that.
#
# On a CPU with jax_enable_x64, float64 in and out. The formula by jax.numpy's own operations has errors of 1e-16, this one of 1e-7.
# A key whose logit is 1e-9 higher than another's has the same weight.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check jax==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
print("jax", jax.__version__)
q, k, v = np.random.default_rng(0).normal(size=(3, 1, 6, 1, 8))
out = jax.nn.dot_product_attention(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), scale=1.0)
scores = np.einsum("bqhd,bkhd->bhqk", q, k)
weights = np.exp(scores - scores.max(-1, keepdims=True))
exact = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
error = float(abs(np.asarray(out) - exact).max())
print(f"{out.dtype}: error {error:.1e}")
assert out.dtype == np.float64 and 1e-9 < error < 1e-5, "the behaviour has changed"

keys = jnp.asarray([1.0, 1.0 + 1e-9]).reshape(1, 2, 1, 1)
values = jnp.asarray([1.0, -1.0]).reshape(1, 2, 1, 1)
one = float(jax.nn.dot_product_attention(jnp.ones((1, 1, 1, 1)), keys, values, scale=1.0)[0, 0, 0, 0])
print(f"difference of two weights: {one}, exactly {np.tanh(-0.5e-9)}")
assert one == 0.0, "the behaviour has changed"
PYTHON

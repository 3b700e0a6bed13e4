#!/usr/bin/env bash
# findings/jax_negative_window.sh: jax 0.10.2: in dot_product_attention a negative local_window_size is an offset, not 'no limit'.
#
# In flash-attention and its relatives -1 is a side without a limit. Here (2, -1) is strictly the keys before the query, and (-1, 0) and -1
# leave no key at all: every row then is the mean of all values, keys after the query included.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check jax==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

LENGTH = 6
q = jnp.zeros((1, LENGTH, 1, 8))
v = jnp.zeros((1, LENGTH, 1, 8)).at[0, :, 0, :LENGTH].set(jnp.eye(LENGTH))  # a token's value says where it is


def seen(window: int | tuple[int, int]) -> list[int]:
    """How many keys each query gives weight to."""
    out = jax.nn.dot_product_attention(q, q, v, local_window_size=window)[0, :, 0, :LENGTH]
    return (np.asarray(out) > 0).sum(axis=1).tolist()


print("jax", jax.__version__)
for window, expected in {(2, 0): [1, 2, 3, 3, 3, 3], (2, -1): [6, 1, 2, 2, 2, 2], (-1, 0): [6] * 6, -1: [6] * 6}.items():
    print(f"local_window_size={window}: keys seen by each query {seen(window)}")
    assert seen(window) == expected, "the behaviour has changed"
PYTHON

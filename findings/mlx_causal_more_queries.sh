#!/usr/bin/env bash
# findings/mlx_causal_more_queries.sh: mlx 0.32.4: with mask="causal" and more queries than keys, rows that see no key average all of them.
#
# The mask is aligned at the end, so of 8 queries on 3 keys the first 5 come before every key. Their outputs are not 0 or NaN but the mean
# of all values: of keys that causality hides.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check mlx==0.32.4 mlx-cpu==0.32.4 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import mlx.core as mx
import numpy as np

QUERIES, KEYS = 8, 3
v = np.zeros((1, 1, KEYS, 16), np.float32)
v[0, 0, :, :KEYS] = np.eye(KEYS)  # a token's value says where it is
q, k = mx.zeros((1, 1, QUERIES, 16)), mx.zeros((1, 1, KEYS, 16))
out = mx.fast.scaled_dot_product_attention(q, k, mx.array(v), scale=1.0, mask="causal")
weights = np.array(out)[0, 0, :, :KEYS]

print("mlx", version("mlx"))
print(weights.round(2))
assert np.allclose(weights[:5], 1 / 3) and np.allclose(weights[5], [1, 0, 0]), "the behaviour has changed"
PYTHON

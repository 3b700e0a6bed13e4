#!/usr/bin/env bash
# findings/local_attention_rotary.sh: local-attention 1.11.2: not causal, queries are rotated look_forward * window_size places too late.
#
# With equal queries and keys and rotary embeddings (dim=...) a query's highest weight is at its own place. In the causal form it is. With
# look_forward=1 the queries get the last rows of the rotation table, which reaches a window further: query 6 looks hardest at key 10.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 local-attention==1.11.2
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from local_attention import LocalAttention

LENGTH, DIM, QUERY = 12, 64, 6
x = torch.full((1, LENGTH, DIM), 3.0)
values = torch.eye(LENGTH, DIM)[None]  # a token's value says where it is

print("local-attention", version("local-attention"), "torch", torch.__version__)
for causal, expected in ((True, 6), (False, 10)):
    attention = LocalAttention(dim=DIM, window_size=4, causal=causal, look_backward=1, look_forward=0 if causal else 1)
    weights = attention(x, x, values)[0, QUERY, :LENGTH]
    print(f"causal={causal}: query {QUERY} looks hardest at key {weights.argmax().item()} ({weights.max():.2f})")
    assert weights.argmax() == expected, "the behaviour has changed"
PYTHON

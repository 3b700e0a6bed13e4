#!/usr/bin/env bash
# findings/local_attention_fillers.sh: local-attention 1.11.2: the fillers of autopad and of the sequence's ends have weight where no mask
# is given.
#
# All scores equal and all values 1: every output should be 1. With autopad and no mask, not causal, the zeros behind the end join the
# softmax: 10 tokens in windows of 4 give 0.83 and 0.75. A query all of whose real keys are masked averages the filler -1 in as well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 local-attention==1.11.2
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from local_attention import LocalAttention


def outputs(length: int, mask: torch.Tensor | None = None) -> list[float]:
    attention = LocalAttention(window_size=4, causal=False, look_backward=1, look_forward=1, autopad=True)
    x = torch.zeros(1, length, 8)
    return [round(x.item(), 2) for x in attention(x, x, torch.ones(1, length, 8), mask=mask)[0, :, 0]]


print("local-attention", version("local-attention"), "torch", torch.__version__)
padded, masked = outputs(10), outputs(12, torch.zeros(1, 12, dtype=torch.bool))
print("10 tokens, no mask:      ", padded)
print("12 tokens, every one masked:", masked)
assert padded == [1.0] * 4 + [0.83] * 4 + [0.75] * 2, "the behaviour has changed"
assert masked == [0.33] * 4 + [1.0] * 4 + [0.33] * 4, "the behaviour has changed"
PYTHON

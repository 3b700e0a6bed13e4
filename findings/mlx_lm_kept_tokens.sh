#!/usr/bin/env bash
# findings/mlx_lm_kept_tokens.sh: mlx-lm 0.32.2: the first tokens that RotatingKVCache keeps are seen in decoding, but not within a prompt.
#
# max_kv_size gives a RotatingKVCache(max_size, keep=4), which never drops the first 4 tokens. Token by token a query sees them and the last
# max_size - 4. The mask of a prompt is a window of max_size that knows nothing of them: of 14 tokens the last sees keys 6-13 instead of 0-3
# and 10-13, and 1-3 and 9-13 where the prompt comes in chunks of 12 and 2. So the same tokens have other outputs as a prompt than as an
# answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check mlx==0.32.4 mlx-cpu==0.32.4 mlx-lm==0.32.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.cache import RotatingKVCache

LENGTH, SIZE, KEEP = 14, 8, 4
mx.set_default_device(mx.cpu)


def seen(chunks: list[int]) -> list[int]:
    """The keys that the last query sees, where tokens come in these chunks."""
    cache, values = RotatingKVCache(max_size=SIZE, keep=KEEP), mx.eye(LENGTH)[None, None]  # a token's value says where it is
    for count in chunks:
        mask = create_attention_mask(mx.zeros((1, count, 1)), cache)
        zeros = mx.zeros((1, 1, count, LENGTH))
        k, v = cache.update_and_fetch(zeros, values[:, :, cache.offset : cache.offset + count])
        out = scaled_dot_product_attention(zeros, k, v, cache=cache, scale=1.0, mask=mask)
    return np.nonzero(np.array(out)[0, 0, -1] > 1e-6)[0].tolist()


print("mlx-lm", version("mlx-lm"), "mlx", version("mlx"))
WINDOW, PART, KEPT = [6, 7, 8, 9, 10, 11, 12, 13], [1, 2, 3, 9, 10, 11, 12, 13], [0, 1, 2, 3, 10, 11, 12, 13]
for chunks, expected in (([LENGTH], WINDOW), ([7, 7], WINDOW), ([12, 2], PART), ([13, 1], KEPT), ([1] * LENGTH, KEPT)):
    found = seen(chunks)
    print(f"in chunks of {chunks}: the last query sees keys {found}")
    assert found == expected, "the behaviour has changed"
PYTHON

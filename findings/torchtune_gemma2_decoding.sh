#!/usr/bin/env bash
# findings/torchtune_gemma2_decoding.sh: torchtune 0.6.1: in decoding, Gemma 2's window lies at the first keys, and a query misses its own.
#
# Its layers cut the window out of the mask that they get by triu and tril, which count rows from 0. With a cache generate() hands over the
# one row of the new token: it is row 0 then, and sees keys 0 to W - 1, whatever its position. A query at position 9 with W = 4 should see
# keys 6-9, as in one pass, and sees keys 0-3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -qq --disable-pip-version-check --no-deps torchtune==0.6.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import distribution
from types import ModuleType

import torch

# The packages' own __init__ files ask for a dozen more packages (data sets, tokenizers), which attention does not use: they are left out.
for name in ("torchtune", "torchtune.modules", "torchtune.models", "torchtune.models.gemma2", "torchtune.utils"):
    package = sys.modules[name] = ModuleType(name)
    package.__path__ = [str(distribution("torchtune").locate_file(name.replace(".", "/")))]
from torchtune.models.gemma2._attention import Gemma2Attention
from torchtune.modules.kv_cache import KVCache

LENGTH, WINDOW = 10, 4
attention = Gemma2Attention(
    embed_dim=LENGTH, num_heads=1, num_kv_heads=1, head_dim=LENGTH, max_seq_len=LENGTH, sliding_window_size=WINDOW,
    q_proj=torch.nn.Linear(LENGTH, LENGTH, bias=False), k_proj=torch.nn.Linear(LENGTH, LENGTH, bias=False),
    v_proj=torch.nn.Identity(), output_proj=torch.nn.Identity(), query_pre_attn_scalar=1,
)  # fmt: skip
torch.nn.init.zeros_(attention.q_proj.weight)  # all scores equal
x, causal = torch.eye(LENGTH)[None], torch.ones(1, LENGTH, LENGTH, dtype=torch.bool).tril()  # a token's value says where it is


@torch.no_grad()
def seen(decoding: bool) -> list[list[int]]:
    """The keys that each query sees, in one pass or token by token as generate() does."""
    if not decoding:
        rows = attention(x, x, mask=causal)[0]
    else:
        attention.kv_cache, attention.cache_enabled = KVCache(1, LENGTH, 1, LENGTH, torch.float32), True
        places = torch.arange(LENGTH).split(1)
        rows = torch.cat([attention(x[:, i], x[:, i], mask=causal[:, i], input_pos=i[None])[0] for i in places])
    return [row.nonzero().flatten().tolist() for row in rows]


print("torchtune", distribution("torchtune").version, "torch", torch.__version__)
whole, decoded = seen(decoding=False), seen(decoding=True)
for position in (2, 3, 4, 9):
    print(f"query {position} sees keys {whole[position]} in one pass, {decoded[position]} in decoding")
assert whole == [list(range(max(0, i - WINDOW + 1), i + 1)) for i in range(LENGTH)], "the behaviour has changed"
assert decoded == [list(range(min(i + 1, WINDOW))) for i in range(LENGTH)], "the behaviour has changed"
PYTHON

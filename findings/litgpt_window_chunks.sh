#!/usr/bin/env bash
# findings/litgpt_window_chunks.sh: litgpt 0.5.13: a prompt in chunks, as its own error asks for, sees the future in layers with a window.
#
# The cache of such a layer is a ring of sliding_window_size places. A longer prompt raises ValueError: causality would be violated, so
# "use chunked prefill with chunk size <= " the window. But a chunk overwrites the ring before it is read, and its mask is that of places,
# not of positions: once the ring has turned, each query of the chunk sees all the others, later ones included, and misses the keys they
# overwrote. Only chunks of one token are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 litgpt==0.5.13 lightning==2.6.6
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from litgpt import GPT, Config

LENGTH, WINDOW = 12, 4
torch.manual_seed(0)
sizes = {"block_size": 16, "vocab_size": 32, "padded_vocab_size": 32, "n_layer": 1, "n_head": 1, "n_embd": 16, "rotary_percentage": 1.0}
model = GPT(Config(**sizes, sliding_window_size=WINDOW, sliding_window_indices=[1])).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
ids = torch.randint(32, (1, LENGTH))


@torch.no_grad()
def logits(tokens: torch.Tensor, chunk: int) -> torch.Tensor:
    """(LENGTH, 32): what the model says of a prompt that comes in chunks of this size."""
    model.set_kv_cache(batch_size=1)
    places = torch.arange(LENGTH).split(chunk)
    out = torch.cat([model(tokens[:, places_of_chunk], input_pos=places_of_chunk) for places_of_chunk in places], dim=1)
    model.clear_kv_cache()
    return out[0]


print("litgpt", version("litgpt"), "torch", torch.__version__)
with torch.no_grad():
    whole = model(ids)[0]  # without a cache
try:
    logits(ids, LENGTH)
    raise AssertionError("the behaviour has changed")
except ValueError as error:
    print("a prompt of 12 at once:", error)
changed = ids.clone()
changed[0, 7] = (ids[0, 7] + 1) % 32
for chunk, right, future in ((1, True, False), (2, False, False), (WINDOW, False, True)):
    found = logits(ids, chunk)
    off = (found - whole).abs().max().item()
    moved = (logits(changed, chunk) - found)[4].abs().max().item()
    print(f"in chunks of {chunk}: differs from one pass by {off:.1e}; another token 7 moves the logits of token 4 by {moved:.1e}")
    assert (off < 1e-5) is right and (moved > 1e-4) is future, "the behaviour has changed"
PYTHON

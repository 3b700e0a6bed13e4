#!/usr/bin/env bash
# findings/transformers_sliding_window_one.sh: transformers 5.24.0: with sliding_window=1 the cache keeps everything, and decoding sees all
# of it.
#
# A causal window of W keys makes the cache keep the last W - 1. Its slice from -(W - 1) is [-0:] for W = 1, which is the whole tensor:
# decoding token by token then gives other logits than one pass over the same tokens. From W = 2 on the two agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import MistralConfig, MistralForCausalLM


@torch.no_grad()
def decoded(window: int) -> tuple[float, int]:
    """The largest difference between decoding and one pass, and how many keys the cache holds at the end."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "head_dim": 16, "num_hidden_layers": 1}
    config = MistralConfig(**sizes, num_attention_heads=1, num_key_value_heads=1, sliding_window=window, attn_implementation="eager")
    model = MistralForCausalLM(config).eval()
    ids = torch.randint(32, (1, 9))
    whole = model(ids).logits[0]
    cache, steps = None, []
    for token in ids[0]:
        out = model(token.view(1, 1), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits[0, -1])
    return (whole - torch.stack(steps)).abs().max().item(), cache.layers[0].keys.shape[2]


print("transformers", transformers.__version__, "torch", torch.__version__)
for window, agrees, keys in ((1, False, 9), (2, True, 1), (3, True, 2)):
    difference, kept = decoded(window)
    print(f"sliding_window={window}: differs by {difference:.1e}, {kept} keys kept of 9")
    assert (difference < 1e-5) is agrees and kept == keys, "the behaviour has changed"
PYTHON

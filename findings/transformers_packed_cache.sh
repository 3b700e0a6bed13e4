#!/usr/bin/env bash
# findings/transformers_packed_cache.sh: transformers 5.24.0: position_ids keep packed sequences apart only where no cache is made, and a
# cache is the default.
#
# Two sequences in one row, positions 0-4 and 0-5. "eager" and "sdpa" read from position_ids that they are two, but only where
# attention_mask is None and there is no cache: with the default use_cache=True, in training and in eval mode, or beside a mask of ones, the
# second sequence sees the first, without a word. The path of flash-attention (read, not run) looks at position_ids alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import MistralConfig, MistralForCausalLM

FIRST, SECOND = 5, 6
torch.manual_seed(0)
sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "head_dim": 16, "num_hidden_layers": 1}
sizes |= {"num_attention_heads": 1, "num_key_value_heads": 1, "initializer_range": 0.5}
model = MistralForCausalLM(MistralConfig(**sizes, sliding_window=4))
ids = torch.randint(32, (1, FIRST + SECOND))
positions = torch.cat([torch.arange(FIRST), torch.arange(SECOND)])[None]


@torch.no_grad()
def apart(**options) -> bool:
    """Whether the second of two packed sequences has the logits that it has alone."""
    packed = model(ids, position_ids=positions, **options).logits[:, FIRST:]
    return torch.allclose(packed, model(ids[:, FIRST:]).logits, atol=1e-4)


print("transformers", transformers.__version__, "torch", torch.__version__)
for name in ("eager", "sdpa"):
    model.set_attn_implementation(name)
    for mode in (True, False):
        model.train(mode)
        found = {
            "as it comes": apart(),
            "use_cache=False": apart(use_cache=False),
            "use_cache=False, a mask of ones": apart(use_cache=False, attention_mask=torch.ones_like(ids)),
        }
        print(f"{name}, training={mode}: kept apart", found)
        assert list(found.values()) == [False, True, False], "the behaviour has changed"
PYTHON

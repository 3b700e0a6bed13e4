#!/usr/bin/env bash
# findings/transformers_padded_compression.sh: transformers 5.24.0: with padding on the left DeepSeek-V4 compresses keys together with the
# padding, and sees what comes of it.
#
# Its compressed keys stand for blocks of columns, 4 or 128 of them, counted from the first column of the batch and not from a sequence's
# first token; the mask of padding hides columns, not blocks. So a sequence that is padded on the left, as batches for generation are, has
# other logits than alone from the first block on: with position_ids and without, and also where the padding is whole blocks. On the right
# padding does no harm, nor does it before there is a block.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

LENGTH, BLOCK = 12, 4
sizes = {"vocab_size": 32, "hidden_size": 32, "head_dim": 8, "num_attention_heads": 4, "num_hidden_layers": 1, "sliding_window": 4}
sizes |= {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "initializer_range": 0.2, "pad_token_id": 0}
ids = torch.randint(3, 32, (1, LENGTH), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def differing(layer: str, left: int, right: int, positions: bool) -> list[int]:
    """The tokens whose logits are not those without padding."""
    torch.manual_seed(0)
    config = DeepseekV4Config(**sizes, layer_types=[layer])
    model = DeepseekV4ForCausalLM._from_config(config, attn_implementation="eager").eval()
    mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
    options = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if positions else {}
    padded = torch.nn.functional.pad(ids, (left, right))
    logits = model(padded, attention_mask=mask, use_cache=False, **options).logits[0, left : left + LENGTH]
    alone = model(ids, use_cache=False).logits[0]
    return [i for i in range(LENGTH) if not torch.allclose(logits[i], alone[i], atol=1e-4)]


print("transformers", transformers.__version__, "torch", torch.__version__)
compressed = DeepseekV4Config(**sizes).compress_rates
print("columns in a block:", compressed)
assert compressed == {"compressed_sparse_attention": BLOCK, "heavily_compressed_attention": 128}
first_of = {(1, 0, False): 2, (1, 0, True): 3, (BLOCK, 0, False): 0, (BLOCK, 0, True): 3}  # of the tokens that differ
for left, right in ((1, 0), (BLOCK, 0), (0, 1), (0, BLOCK)):
    for positions in (False, True):
        found = {layer: differing(layer, left, right, positions) for layer in compressed}
        print(f"{left} on the left, {right} on the right, position_ids={positions}: tokens that differ", found)
        after = list(range(first_of.get((left, right, positions), LENGTH), LENGTH))
        assert found == {"compressed_sparse_attention": after, "heavily_compressed_attention": []}, "the behaviour has changed"
PYTHON

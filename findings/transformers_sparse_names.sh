#!/usr/bin/env bash
# findings/transformers_sparse_names.sh: transformers 5.24.0: under any attention name but "eager" and "sdpa" DeepSeek-V3.2 is dense.
#
# Its indexer chooses index_topk keys for each query. They go into the mask only where the attention is named "eager" or "sdpa"; under other
# names they are handed over as `indices=`, which transformers' own functions let pass. The very function and mask function of "sdpa",
# registered as "mine" in the documented tables, give other logits, without an error or a warning. With index_topk as long as the sequence
# all agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, DeepseekV32Config, DeepseekV32ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

LENGTH = 24
AttentionInterface.register("mine", sdpa_attention_forward)
AttentionMaskInterface.register("mine", sdpa_mask)
sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4}
sizes |= {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4}
sizes |= {"index_n_heads": 2, "index_head_dim": 8, "initializer_range": 0.25}


@torch.no_grad()
def differences(topk: int) -> list[float]:
    """How far the logits are from those of "eager": with "sdpa", and with its functions under another name."""
    torch.manual_seed(0)
    model = DeepseekV32ForCausalLM(DeepseekV32Config(**sizes, index_topk=topk, attn_implementation="eager")).eval()
    ids = torch.randint(32, (1, LENGTH))
    expected, found = model(ids, use_cache=False).logits, []
    for name in ("sdpa", "mine"):
        model.set_attn_implementation(name)
        found.append((model(ids, use_cache=False).logits - expected).abs().max().item())
    return found


print("transformers", transformers.__version__, "torch", torch.__version__)
for topk, agrees in ((4, False), (LENGTH, True)):
    sdpa, mine = differences(topk)
    print(f'index_topk={topk}, {LENGTH} tokens: from "eager" differ "sdpa" by {sdpa:.1e}, its functions registered as "mine" by {mine:.1e}')
    assert sdpa < 1e-5 and (mine < 1e-5) is agrees, "the behaviour has changed"
PYTHON

#!/usr/bin/env bash
# findings/transformers_bool_block_bias.sh: transformers 5.24.0: beside a boolean mask DeepSeek-V4 sees the compressed keys it must not.
#
# It lengthens the mask by a bias for its compressed keys, 0 where one is seen and -inf where not, cast to the mask's dtype. Of a boolean
# mask, as the mask function of "sdpa" makes it, -inf becomes True and 0 False: the choice is turned round, and keys of the future are
# seen. The model takes registered attention functions (_supports_attention_backend): one that is right for masks of both kinds gives
# eager's logits beside eager's mask function, and others beside sdpa's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.models.deepseek_v4.modeling_deepseek_v4 import eager_attention_forward

LENGTH = 24
masks: list[torch.Tensor] = []


def attention(module, query, key, value, attention_mask, **kwargs):
    """The model's own eager attention, for masks of both kinds: True is 0, False the lowest number."""
    masks.append(attention_mask)
    if attention_mask.dtype is torch.bool:
        attention_mask = torch.zeros(()).where(attention_mask, torch.finfo(query.dtype).min)
    return eager_attention_forward(module, query, key, value, attention_mask, **kwargs)


for name, function in (("numbers", eager_mask), ("booleans", sdpa_mask)):
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, function)
sizes = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8}
sizes |= {"q_lora_rank": 8, "o_lora_rank": 8, "o_groups": 2, "qk_rope_head_dim": 4}
sizes |= {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 2}
sizes |= {"n_routed_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "sliding_window": 7, "initializer_range": 0.25}


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    config = DeepseekV4Config(**sizes, layer_types=["compressed_sparse_attention"], attn_implementation="eager")
    model, ids = DeepseekV4ForCausalLM(config).eval(), torch.randint(32, (1, LENGTH))
    expected = model(ids, use_cache=False).logits
    for name, agrees in (("numbers", True), ("booleans", False)):
        model.set_attn_implementation(name)
        difference = (model(ids, use_cache=False).logits - expected).abs().max().item()
        mask = masks[-1][0, 0, :, LENGTH:]
        seen = mask.sum(-1) if mask.dtype is torch.bool else (mask == 0).sum(-1)
        print(f'masks of {name}: differs from "eager" by {difference:.1e}; compressed keys seen by each query {seen.tolist()}')
        assert (difference < 1e-5) is agrees and (seen[0] == 0) == agrees, "the behaviour has changed"


print("transformers", transformers.__version__, "torch", torch.__version__)
main()
PYTHON

#!/usr/bin/env bash
# findings/transformers_window_number.sh: transformers 5.24.0: the number that an attention function gets is not always the window of the
# mask.
#
# A function registered with AttentionInterface gets a mask and a number, sliding_window. For most models a number s beside a two-sided mask
# means |i - j| < s. T5Gemma's encoder masks |i - j| <= 4 and hands over 4. Gemma 3's two-sided form halves the window that its config is
# made with, and hands over 3 for 4; set on a config that exists, nothing is halved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, Gemma3TextConfig, Gemma3TextModel, T5GemmaConfig, T5GemmaModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

seen: set[tuple[int, int, int]] = set()
QUERY = 12


def spy(module, query, key, value, attention_mask, dropout=0.0, scaling=None, sliding_window=None, **kwargs):
    keys = attention_mask[0, 0, QUERY].nonzero()
    seen.add((sliding_window, QUERY - keys.min().item(), keys.max().item() - QUERY))
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling)


AttentionInterface.register("spy", spy)
AttentionMaskInterface.register("spy", sdpa_mask)
SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


def t5gemma_encoder():
    side = T5GemmaModuleConfig(**SIZES, num_hidden_layers=1, sliding_window=4, layer_types=["sliding_attention"])
    return T5GemmaModel(T5GemmaConfig(encoder=side, decoder=side, vocab_size=32, attn_implementation="spy")).encoder


def gemma3(late: bool):
    both = {} if late else {"use_bidirectional_attention": True}
    options = {"sliding_window": 4, "layer_types": ["sliding_attention"], "attn_implementation": "spy"}
    config = Gemma3TextConfig(**SIZES, num_hidden_layers=1, **options, **both)
    config.use_bidirectional_attention = True
    return Gemma3TextModel(config)


print("transformers", transformers.__version__, "torch", torch.__version__)
cases = {
    "T5Gemma's encoder": (t5gemma_encoder, (4, 4, 4)),
    "Gemma 3, two-sided from the start": (lambda: gemma3(late=False), (3, 2, 2)),
    "Gemma 3, made two-sided later": (lambda: gemma3(late=True), (4, 3, 3)),
}
for name, (make, expected) in cases.items():
    seen.clear()
    with torch.no_grad():
        make().eval()(input_ids=torch.randint(1, 32, (1, 24)))
    print(f"{name}, sliding_window=4 in the config: (number given, keys before, keys after) = {seen}")
    assert seen == {expected}, "the behaviour has changed"
PYTHON

#!/usr/bin/env bash
# findings/transformers_moshi_window.sh: transformers 5.24.0: Moshi's language model has its window in decoding alone; the same tokens in one
# pass see all that is before them.
#
# The cache is made from config.sliding_window and keeps that many keys, but the mask of a pass is plainly causal: logits of a text depend on
# how it was cut, from the first token on whose past is longer than the window, and training sees another model than generation. With a
# window as long as the text, both ways agree. The text model of Kyutai's speech recognition makes its mask in the same way (read, not run).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import MoshiConfig, MoshiForCausalLM

LENGTH, WINDOW = 12, 4
sizes = {"vocab_size": 32, "hidden_size": 16, "ffn_dim": 16, "head_dim": 16, "num_hidden_layers": 1}
sizes |= {"num_attention_heads": 1, "num_key_value_heads": 1, "initializer_range": 0.5}
ids = torch.randint(32, (1, LENGTH), generator=torch.Generator().manual_seed(0))
other = torch.cat([(ids[:, :1] + 1) % 32, ids[:, 1:]], dim=1)


def model_of(window: int, name: str) -> MoshiForCausalLM:
    torch.manual_seed(0)
    return MoshiForCausalLM._from_config(MoshiConfig(**sizes, sliding_window=window), attn_implementation=name).eval()


@torch.no_grad()
def one_by_one(model: MoshiForCausalLM) -> torch.Tensor:
    """The logits of each token, with the cache that the model makes itself."""
    done = [model(ids[:, :1], use_cache=True)]
    for i in range(1, LENGTH):
        done.append(model(ids[:, i : i + 1], past_key_values=done[-1].past_key_values, use_cache=True))
    return torch.cat([out.logits for out in done], dim=1)


def differing(a: torch.Tensor, b: torch.Tensor) -> list[int]:
    return [i for i in range(LENGTH) if not torch.allclose(a[0, i], b[0, i], atol=1e-4)]


print("transformers", transformers.__version__, "torch", torch.__version__)
for name in ("eager", "sdpa"):
    model = model_of(WINDOW, name)
    with torch.no_grad():
        whole, changed = model(ids).logits, model(other).logits
    found = {
        "tokens that see token 0 in one pass": differing(whole, changed),
        "tokens whose logits differ one by one": differing(whole, one_by_one(model)),
        "the same, window as long as the text": differing(model_of(LENGTH, name)(ids).logits, one_by_one(model_of(LENGTH, name))),
    }
    print(f"{name}, one layer, window of {WINDOW}:", found)
    assert list(found.values()) == [list(range(LENGTH)), list(range(WINDOW, LENGTH)), []], "the behaviour has changed"
PYTHON

#!/usr/bin/env bash
# findings/litgpt_softcap_cache.sh: litgpt 0.5.13: with a cache and a softcap, as in Gemma 2, nothing is masked: token 0 sees the last one.
#
# The cache's mask is boolean, True where a key is seen. Where scores are capped (attention_logit_softcapping) it is added to them as if it
# were a bias: 1 for keys that are seen, 0 for those that are not. So a prompt is not causal, and without input_pos_maxp1 the empty rest of
# the cache has weight too. Without a cache, or without a softcap, the same weights are causal.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 litgpt==0.5.13 lightning==2.6.6
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from litgpt import GPT, Config

LENGTH = 8
torch.manual_seed(0)
sizes = {"block_size": 32, "vocab_size": 32, "padded_vocab_size": 32, "n_layer": 1, "n_head": 1, "n_embd": 16, "rotary_percentage": 1.0}
ids = torch.randint(32, (1, LENGTH))
changed = ids.clone()
changed[0, -1] = (ids[0, -1] + 1) % 32


@torch.no_grad()
def moved(softcap: float | None, cached: bool) -> float:
    """How far another last token moves the logits of the first."""
    model = GPT(Config(**sizes, attention_logit_softcapping=softcap)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    options = {"input_pos": torch.arange(LENGTH), "input_pos_maxp1": LENGTH} if cached else {}
    if cached:
        model.set_kv_cache(batch_size=1)
    return (model(changed, **options) - model(ids, **options))[0, 0].abs().max().item()


print("litgpt", version("litgpt"), "torch", torch.__version__)
for softcap, cached, future in ((None, False, False), (None, True, False), (50.0, False, False), (50.0, True, True)):
    found = moved(softcap, cached)
    print(f"softcap {softcap}, {'with' if cached else 'without'} a cache: another last token moves the logits of token 0 by {found:.1e}")
    assert (found > 1e-3) is future and (found == 0) is not future, "the behaviour has changed"
PYTHON

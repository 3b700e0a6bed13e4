#!/usr/bin/env bash
# findings/transformers_recurrent_padding.sh: transformers 5.24.0: with padding on the left RecurrentGemma's logits are not those of the
# sequence alone, and depend on the name of the attention function.
#
# Its recurrent layers do not look at the mask and run through the padding. Attention alone is right, but what it gives in rows of padding,
# which see no key, differs: the mean of all values under "eager", zeros under "sdpa". Nobody reads those rows where all layers are
# attention; here a recurrent layer behind them carries them into every token. On the right padding does no harm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

PADDING = 5
sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "lru_width": 16}
sizes |= {"num_hidden_layers": 2, "attention_window_size": 4, "pad_token_id": 0}
ids = torch.randint(3, 32, (1, 12), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(blocks: list[str], name: str, left: int = 0, right: int = 0) -> torch.Tensor:
    torch.manual_seed(0)
    model = RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**sizes, block_types=blocks)).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.set_attn_implementation(name)
    mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
    padded = torch.nn.functional.pad(ids, (left, right))
    return model(padded, attention_mask=mask, use_cache=False).logits[0, left : left + ids.shape[1]]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4)


print("transformers", transformers.__version__, "torch", torch.__version__)
for blocks, left_is_right in ((["attention"], True), (["recurrent"], False), (["attention", "recurrent"], False)):
    alone = logits(blocks, "eager")
    eager, sdpa = (logits(blocks, name, left=PADDING) for name in ("eager", "sdpa"))
    found = {
        "padding on the right as alone": same(logits(blocks, "eager", right=PADDING), alone),
        "on the left": same(eager, alone),
        "eager as sdpa, on the left": same(eager, sdpa),
    }
    print(blocks, found)
    assert list(found.values()) == [True, left_is_right, len(blocks) == 1], "the behaviour has changed"
PYTHON

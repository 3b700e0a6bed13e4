#!/usr/bin/env bash
# findings/ctranslate2_prompt_window.sh: ctranslate2 4.8.5: within a prompt that is longer than the window, tokens see up to twice as many
# keys.
#
# It takes a prompt in chunks of sliding_window = W tokens. Each sees its own chunk up to itself, and the whole chunk before: W to 2 W - 1
# keys instead of W. Tokens that are generated see W. So a Mistral of two layers, converted by its own loader, has transformers' logits for
# prompts up to W, and others for longer ones: those of transformers with a mask of such chunks, to 1e-4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import copy
import sys
from collections.abc import Callable

import ctranslate2
import numpy as np
import torch
import transformers
from ctranslate2.converters.transformers import MistralLoader
from transformers import MistralConfig, MistralForCausalLM

WINDOW, VOCABULARY = 4, 32
torch.manual_seed(1)
sizes = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 64, "head_dim": 64, "num_hidden_layers": 2}
sizes |= {"num_attention_heads": 1, "num_key_value_heads": 1, "initializer_range": 0.3, "sliding_window": WINDOW}
model = MistralForCausalLM(MistralConfig(**sizes, attn_implementation="eager")).eval()
with torch.no_grad():
    spec = MistralLoader().get_model_spec(copy.deepcopy(model))  # takes the layers out of what it is given
spec.register_vocabulary([f"t{i}" for i in range(VOCABULARY)])
spec.config.layer_norm_epsilon = model.config.rms_norm_eps
spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = "t0", "t1", "t2"
spec.validate()
spec.optimize()
spec.save(sys.argv[1])
generator = ctranslate2.Generator(sys.argv[1], device="cpu", compute_type="float32")


def logits(ids: torch.Tensor, sees: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> np.ndarray:
    """transformers' logits of the next token, where query i sees the keys j that the function says and that are not behind it."""
    i, j = torch.arange(len(ids))[:, None], torch.arange(len(ids))
    mask = torch.zeros(()).where(sees(i, j) & (j <= i), torch.finfo(torch.float32).min)
    with torch.no_grad():
        return model(ids[None], attention_mask=mask[None, None]).logits[0, -1].numpy()


def window(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    return j > i - WINDOW


def chunks(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """A chunk and the one before; the prompt's last token is a step of generation."""
    return window(i, j) | ((j // WINDOW >= i // WINDOW - 1) & (i < len(i) - 1))


print("ctranslate2", ctranslate2.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
for length, agrees in ((3, True), (4, True), (12, False), (13, False), (14, False)):
    ids = torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(2))
    options = {"max_length": 1, "include_prompt_in_result": False, "return_logits_vocab": True, "sampling_topk": 1}
    found = np.array(generator.generate_batch([[f"t{i}" for i in ids.tolist()]], **options)[0].logits[0][0]).ravel()
    off, off_chunks = (np.abs(found - logits(ids, sees)).max() for sees in (window, chunks))
    print(f"a prompt of {length}, W = {WINDOW}: differs from a window by {off:.1e}, from such chunks by {off_chunks:.1e}")
    assert (off < 1e-4 if agrees else off > 1) and off_chunks < 1e-4, "the behaviour has changed"
PYTHON

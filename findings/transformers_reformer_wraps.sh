#!/usr/bin/env bash
# findings/transformers_reformer_wraps.sh: transformers 5.24.0: Reformer's local attention is a ring: the first chunk sees the last one.
#
# local_num_chunks_before and _after are documented as neighbouring chunks. As an encoder (is_decoder=False) the first chunk's chunk before
# is the last of the sequence, and the last one's chunk after is the first. In a sequence of two chunks, each is before and after the other
# at once, and its keys count twice: with equal scores a query gives 2/3 of its weight to the other chunk. As a decoder causality hides it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import ReformerConfig
from transformers.models.reformer.modeling_reformer import LocalSelfAttention

CHUNK = 4


@torch.no_grad()
def weights(chunks: int, is_decoder: bool) -> list[list[float]]:
    """How much weight the first and the last query give to each chunk, where all scores are equal."""
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "attention_head_size": 8, "local_attn_chunk_length": CHUNK}
    config = ReformerConfig(**sizes, local_num_chunks_before=1, local_num_chunks_after=0 if is_decoder else 1, is_decoder=is_decoder)
    attention = LocalSelfAttention(config).eval()
    torch.nn.init.zeros_(attention.query.weight)
    torch.nn.init.eye_(attention.value.weight)
    x = torch.eye(chunks, 8).repeat_interleave(CHUNK, dim=0)[None]  # a token's value says which chunk it is in
    out = attention(x).hidden_states[0, :, :chunks]
    return [[round(w, 2) for w in out[query].tolist()] for query in (0, -1)]


print("transformers", transformers.__version__, "torch", torch.__version__)
for chunks, is_decoder, expected in (
    (5, False, [[0.33, 0.33, 0, 0, 0.33], [0.33, 0, 0, 0.33, 0.33]]),
    (2, False, [[0.33, 0.67], [0.67, 0.33]]),
    (5, True, [[1, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5]]),
):
    found = weights(chunks, is_decoder)
    print(f"is_decoder={is_decoder}, {chunks} chunks: weights of the first and the last query by chunk {found}")
    assert found == expected, "the behaviour has changed"
PYTHON

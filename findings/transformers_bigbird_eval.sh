#!/usr/bin/env bash
# findings/transformers_bigbird_eval.sh: transformers 5.24.0: in eval mode BigBird's block-sparse attention counts the first block once more
# for each random block.
#
# In training each block of queries attends to num_random_blocks random blocks. In eval mode the plan of random blocks is all zeros, which
# does not leave them out: it names block 0 three times more. With equal scores a query gives half of its weight to block 0 instead of an
# eighth.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import BigBirdConfig, BigBirdModel
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

BLOCK, BLOCKS = 4, 16
config = BigBirdConfig(
    hidden_size=16, num_attention_heads=1, num_random_blocks=3, block_size=BLOCK, use_bias=False, attention_probs_dropout_prob=0.0
)
attention = BigBirdBlockSparseAttention(config, seed=0).eval()
torch.nn.init.zeros_(attention.query.weight)  # all scores equal
torch.nn.init.zeros_(attention.key.weight)
torch.nn.init.eye_(attention.value.weight)
x = torch.eye(BLOCKS).repeat_interleave(BLOCK, dim=0)[None]  # a token's value says which block it is in
blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, BLOCK * BLOCKS), BLOCK)
masks = {"band_mask": band, "from_mask": rows, "to_mask": columns, "from_blocked_mask": blocked, "to_blocked_mask": blocked}


@torch.no_grad()
def weights() -> torch.Tensor:
    """How much weight a query in the middle gives to each block."""
    return attention(x, **masks)[0][0, BLOCK * BLOCKS // 2].round(decimals=4)


print("transformers", transformers.__version__, "torch", torch.__version__)
evaluated, trained = weights(), (attention.train(), weights())[1]
print("eval: ", evaluated.tolist())
print("train:", trained.tolist())
assert evaluated[0] == 0.5 and (evaluated > 0).sum() == 5, "the behaviour has changed"
assert trained[0] == 0.125 and (trained == 0.125).sum() == 8, "the behaviour has changed"
PYTHON

"""tests/python/test_nn_peers.py: `nn.WindowAttention` and its cache equal to attention layers of transformers, with their weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from window_matmul import Window
from window_matmul.nn import WindowAttention

OPERATOR = "attention"
mistral = pytest.importorskip("transformers.models.mistral.modeling_mistral")
CONFIG = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4, "sliding_window": 5}


def theirs_and_ours() -> tuple[torch.nn.Module, WindowAttention, torch.nn.Module]:
    """Mistral's layer: grouped heads, rotary embeddings, a causal window, no biases; and the rotary embeddings it is called with."""
    config = mistral.MistralConfig(**CONFIG, attn_implementation="eager")
    layer = mistral.MistralAttention(config, layer_idx=0).double().eval()
    window = Window.from_hf_causal(config.sliding_window)
    ours = WindowAttention(24, 6, window, num_kv_heads=2, rotary=10000.0, bias=False, dtype=torch.float64).eval()
    names = {"q_proj_weight": layer.q_proj, "k_proj_weight": layer.k_proj, "v_proj_weight": layer.v_proj, "out_proj.weight": layer.o_proj}
    ours.load_state_dict({name: projection.weight for name, projection in names.items()})
    return layer, ours, mistral.MistralRotaryEmbedding(config)


def their_mask(length: int) -> Tensor:
    from transformers.masking_utils import sliding_window_causal_mask_function

    sees = sliding_window_causal_mask_function(CONFIG["sliding_window"])
    seen = torch.tensor([[bool(sees(0, 0, torch.tensor(i), torch.tensor(j))) for j in range(length)] for i in range(length)])
    return torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)


@torch.inference_mode()
def test_a_layer_of_mistral(backend: str) -> None:
    layer, ours, rotary = theirs_and_ours()
    x = torch.randn(2, 23, 24, dtype=torch.float64)
    turns = rotary(x, torch.arange(23)[None])
    theirs = layer(x, position_embeddings=turns, attention_mask=their_mask(23))[0]
    near = {"rtol": 1e-5, "atol": 1e-6}  # their angles are float32, and so is their softmax
    torch.testing.assert_close(ours(x), theirs, **near)
    cache = ours.new_cache(2)
    pieces = [ours(piece, cache=cache) for piece in x.split([9, 1, 1, 3, 1, 8], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), theirs, **near)

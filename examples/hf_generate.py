# examples/hf_generate.py: generation with transformers, stock and with WindowCache: the same tokens, and how many a second.
"""python examples/hf_generate.py [--window 1024] [--past 4000] [--tokens 64] [--batch 1]

A model in the shape of Mistral with random weights (nothing is downloaded) continues a text that is longer than its window: once with
DynamicCache and SDPA, once with WindowCache and window_matmul.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

from window_matmul.hf import WindowCache


def made(window: int) -> Any:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=256,
        hidden_size=512,
        intermediate_size=1792,
        num_hidden_layers=4,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        sliding_window=window,
        max_position_embeddings=1 << 17,
        eos_token_id=None,
    )
    return MistralForCausalLM(config).eval()


def continued(model: Any, text: torch.Tensor, cache: Any, tokens: int) -> tuple[torch.Tensor, float]:
    """The text with its continuation, and tokens a second after the first."""
    options = {"past_key_values": cache, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(text)}
    model.generate(text, max_new_tokens=1, **options)
    text = torch.cat([text, text[:, -1:]], 1)
    options["attention_mask"] = torch.ones_like(text)
    start = time.perf_counter()
    text = model.generate(text, max_new_tokens=tokens, **options)
    return text, tokens * text.shape[0] / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("window", 1024), ("past", 4000), ("tokens", 64), ("batch", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    model = made(given.window)
    text = torch.randint(3, 256, (given.batch, given.past))
    results = {}
    for implementation, cache in (("sdpa", DynamicCache(config=model.config)), ("window_matmul", WindowCache(model.config))):
        model.set_attn_implementation(implementation)
        results[implementation], speed = continued(model, text, cache, given.tokens)
        print(f"{type(cache).__name__:12} {implementation:14} {speed:8.1f} tokens/s")
    print("equal tokens" if torch.equal(results["sdpa"], results["window_matmul"]) else "other tokens")


if __name__ == "__main__":
    main()

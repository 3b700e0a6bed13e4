"""tests/python/distributed/models.py: models of transformers over ranks, in the processes of pool.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from scenes import cut
from transformers import MistralConfig, MistralForCausalLM

import window_matmul.hf  # noqa: F401  # registers the name
from window_matmul.distributed import Layout, context_parallel
from window_matmul.distributed.layout import shards_of

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}


def causal(sliding_window: int | None) -> Any:
    torch.manual_seed(1)
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=sliding_window, attn_implementation="window_matmul")
    return MistralForCausalLM(config).double().eval()


def sliding(group: Any, lengths: tuple[int, ...], layout: str, padded: bool) -> None:
    """Logits of this rank's tokens, and gradients of parameters summed over ranks, are those of one process."""
    rank, shards = dist.get_rank(group), shards_of(Layout[layout], lengths)
    model, length = causal(7), shards.length
    tokens, positions = torch.randint(50, (2, length)), torch.arange(length).expand(2, -1)
    mask = torch.ones(2, length, dtype=torch.int64)
    if padded:
        mask[1, -3:] = 0
    whole = {"input_ids": tokens, "position_ids": positions, "attention_mask": mask}
    seen = mask.bool()
    want = model(**whole, use_cache=False).logits[seen]
    want.square().sum().backward()
    gradients = {name: x.grad.clone() for name, x in model.named_parameters()}
    model.zero_grad()
    with context_parallel(group, layout=Layout[layout], lengths=lengths):
        here = cut(seen, 1, shards, rank)
        logits = model(**{name: cut(x, 1, shards, rank) for name, x in whole.items()}, use_cache=False).logits
        logits[here].square().sum().backward()
    expected = model(**whole, use_cache=False).logits.detach()
    torch.testing.assert_close(logits[here], cut(expected, 1, shards, rank)[here], rtol=1e-10, atol=1e-10)  # two layers of sums of 50 terms
    for name, x in model.named_parameters():
        assert x.grad is not None
        dist.all_reduce(x.grad, group=group)
        torch.testing.assert_close(x.grad, gradients[name], rtol=1e-9, atol=1e-9)


def refused(group: Any, what: str) -> str:
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    with context_parallel(group):
        try:
            if what == "full layer":
                causal(None)(tokens, use_cache=False)
            elif what == "dense mask":
                causal(3)(tokens, attention_mask=torch.ones(1, 1, 8, 8).tril(), use_cache=False)
        except RuntimeError as error:
            return str(error)
    return ""

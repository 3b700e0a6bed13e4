# python/window_matmul/hf/bigbird.py: BigBird's block-sparse attention on fused attention.
"""The queries of each block see their own block and its neighbours, the first and the last one, and some drawn at random: the keys of these
blocks are laid side by side, and a block is an entry of the batch. The first and the last block see every key, in a second call. A
block that is drawn where it is seen already counts once more, as in the stock layer; in evaluation that is the first one, each time.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.big_bird import modeling_big_bird
from transformers.models.bigbird_pegasus import modeling_bigbird_pegasus

from .. import _shards
from ..attention import window_attention
from ..compat import fall_back
from ._patch import Model, Patched, patch

try:  # from transformers 5 on, what asks for attentions is not an argument
    from transformers.utils import output_capturing

    _collector: Any = output_capturing._active_collector
except ImportError:
    _collector = None

__all__ = ["patch_bigbird"]


def patch_bigbird(model: Model) -> Model:
    """Puts the block-sparse attention of BigBird, and of BigBird-Pegasus' encoder, on `window_attention`, in place.

    Outputs and gradients are the stock model's, with padding, in training (the blocks are drawn from numpy's generator as there) and in
    evaluation (where the plan is zeros, and block 0 counts again for each). Parameters and state_dict are untouched. A patched layer
    returns None for its weights, (B, H, L, L), unless attentions are asked for: those come from the stock layer. A model that has
    gone over to full attention, as it does for a short sequence, has layers of its own for that; where it is set to "block_sparse"
    again, it needs to be patched again.

    Args:
        model: any torch.nn.Module with such layers.

    Returns:
        The model; `unpatch` gives it back as it was.

    Raises:
        TypeError: model is no torch.nn.Module.
        ValueError: it has no such layer, or one of a user's subclass.

    Source: Zaheer et al., "Big Bird: Transformers for Longer Sequences" (arXiv:2007.14062).
    """
    return patch(model, (BigBirdBlockSparseAttention, BigBirdPegasusBlockSparseAttention))


def _asked_for_attentions(named: dict[str, Any]) -> bool:
    collected = None if _collector is None else _collector.get()
    return bool(named.get("output_attentions")) or (collected is not None and "attentions" in collected)


class _BlockSparse(Patched):
    """What both layers have in common: all but their names."""

    block_size: int
    num_random_blocks: int
    num_attention_heads: int
    max_seqlen: int
    seed: int
    training: bool

    def bigbird_block_sparse_attention(
        self,
        query_layer: Tensor,
        key_layer: Tensor,
        value_layer: Tensor,
        band_mask: Any,
        from_mask: Tensor,
        to_mask: Tensor,
        *args: Any,
        **named: Any,
    ) -> Any:
        """Of (B, H, L, D), with from_mask (B, 1, L, 1) and to_mask (B, 1, 1, L): (B, L, H, D), and None for the weights."""
        _shards.refuse("a BigBird layer")
        if _asked_for_attentions(named):
            fall_back("BigBird's attentions are asked for: the stock layer computes them, a weight for each query and key")
        elif _is_binary(to_mask) and _is_binary(from_mask):
            visible = None if to_mask.all() else to_mask[:, 0, 0] != 0
            out = self._attend(query_layer, key_layer, value_layer, visible)
            return (out if visible is None and from_mask.all() else out * from_mask).transpose(1, 2), None
        else:
            fall_back("BigBird's attention_mask has numbers other than 0 and 1: the stock layer computes it")
        stock: Any = super()
        return stock.bigbird_block_sparse_attention(query_layer, key_layer, value_layer, band_mask, from_mask, to_mask, *args, **named)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        size, (batch, heads, length, dim) = self.block_size, q.shape
        blocks, hidden = self._blocks(length, q.device)
        rows = (blocks + torch.arange(heads, device=q.device)[:, None, None] * (length // size)).flatten()

        def side_by_side(x: Tensor) -> Tensor:
            return x.reshape(batch, -1, size * dim).index_select(1, rows).view(-1, 1, blocks.shape[-1] * size, dim)

        seen = ~hidden[None, None, :, :, None].expand(batch, heads, -1, -1, size)
        if visible is not None:
            seen = seen & visible.unflatten(1, (-1, size))[:, blocks]
        inner = q[:, :, size:-size].reshape(-1, 1, size, dim)
        inner = window_attention(inner, side_by_side(k), side_by_side(v), None, key_mask=seen.reshape(inner.shape[0], -1))
        ends = window_attention(torch.cat((q[:, :, :size], q[:, :, -size:]), 2), k, v, None, key_mask=visible)
        return torch.cat((ends[:, :, :size], inner.view(batch, heads, -1, dim), ends[:, :, size:]), 2)

    def _blocks(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The blocks of keys that blocks 1 .. n - 2 of queries see, (H, n - 2, 5 + r), and which are there twice, (n - 2, 5 + r)."""
        drawn = torch.as_tensor(np.stack(self._plan(length)), dtype=torch.long, device=device)
        last = length // self.block_size - 1
        i = torch.arange(1, last, device=device)
        fixed = torch.stack((torch.zeros_like(i), i - 1, i, i + 1, torch.full_like(i, last)), -1)
        blocks = torch.cat((fixed.expand(len(drawn), -1, -1), drawn), -1)
        hidden = torch.zeros(blocks.shape[1:], dtype=torch.bool, device=device)
        hidden[0, 0] = hidden[-1, 4] = True  # block 0 beside block 1, the last beside the last but one
        return blocks, hidden

    def _plan(self, length: int) -> list[Any]:
        """The stock layer's plan of random blocks, (n - 2, r) for each head, from the same state of numpy's generator."""
        layer: Any = self
        size, number = self.block_size, self.num_random_blocks
        if self.training:
            np.random.seed(self.seed)
        if length in (1024, 3072, 4096):  # lengths that have a plan of their own there
            whole = (self.max_seqlen, self.max_seqlen, size, size, number)
            return [layer._bigbird_block_rand_mask(*whole, last_idx=1024)[: length // size - 2] for _ in range(self.num_attention_heads)]
        lengths, numbers = layer._get_rand_attn_plan(length, size, number)
        plans: list[Any] = layer._bigbird_block_rand_mask_with_head(
            from_seq_length=length, to_seq_length=length, from_block_size=size, to_block_size=size,
            num_heads=self.num_attention_heads, plan_from_length=lengths, plan_num_rand_blocks=numbers,
        )  # fmt: skip
        return plans


# The names are those of the stock classes, by which wrappers of models find their layers.
class BigBirdBlockSparseAttention(_BlockSparse, modeling_big_bird.BigBirdBlockSparseAttention):
    """The layer of BigBird, patched."""


class BigBirdPegasusBlockSparseAttention(_BlockSparse, modeling_bigbird_pegasus.BigBirdPegasusBlockSparseAttention):
    """The layer of BigBird-Pegasus' encoder, patched."""


def _is_binary(mask: Tensor) -> bool:
    return bool(((mask == 0) | (mask == 1)).all())

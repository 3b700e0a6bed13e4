# examples/text_lm/model.py: a byte-level decoder language model: RMSNorm, rotary positions, windowed attention, SwiGLU.
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, silu

from window_matmul import RollingCache

from .attention import FusedAttention

NUM_BYTES = 256
ROTARY_BASE = 1000.0  # the slowest of the eight turns of a head goes once around in some 2600 bytes: no key of a window looks near again
NEAR = 8.0  # added at the start to a near head's score of the query's own byte: the last ten bytes get 26 % of its weight, not 1 %

Caches = list[RollingCache]  # one for each layer


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    window: int  # bytes before its own that a query sees

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


def rotary_turns(start: int, length: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """exp(i * position * base^(-2d/D)) for positions start, start + 1, ...; complex (length, D/2)."""
    frequency = ROTARY_BASE ** -(torch.arange(0, head_dim, 2, dtype=dtype) / head_dim)
    angle = torch.outer(torch.arange(start, start + length, dtype=dtype), frequency)
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions on x (B, H, L, D): neighbouring numbers are one complex number, which its position turns."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


class Attention(nn.Module):
    """x (B, L, width) -> (B, L, width): projections around `core`, which does the windowed attention."""

    def __init__(self, shape: Shape, core: nn.Module) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.core = core

    def project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, L, D) of x at the positions of `turns`."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return rotate(q, turns), rotate(k, turns), v

    def forward(self, x: Tensor, turns: Tensor, cache: RollingCache | None = None) -> Tensor:
        q, k, v = self.project(x, turns)
        mixed = self.core(q, k, v) if cache is None else cache.attend(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape))
        return out


class SwiGLU(nn.Module):
    """x -> down(silu(gate(x)) * up(x)), the hidden size as small as the width: most of a step is attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        down: Tensor = self.down(silu(gate) * up)
        return down


class Block(nn.Module):
    def __init__(self, shape: Shape, core: nn.Module) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width)
        self.attention = Attention(shape, core)
        self.mlp_norm = nn.RMSNorm(shape.width)
        self.mlp = SwiGLU(shape.width)

    def forward(self, x: Tensor, turns: Tensor, cache: RollingCache | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turns, cache)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class LanguageModel(nn.Module):
    """bytes (B, L) -> logits (B, L, 256) of each next byte."""

    def __init__(self, shape: Shape, core: Callable[[int], nn.Module] = FusedAttention) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(NUM_BYTES, shape.width)
        self.blocks = nn.ModuleList(Block(shape, core(shape.window)) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, NUM_BYTES, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            if name.endswith(("out.weight", "down.weight", "head.weight")):
                nn.init.zeros_(weight)  # every block begins as the identity, every prediction as even odds
        nn.init.normal_(self.embedding.weight, std=0.5)
        for block in self.decoder_blocks():
            self._look_near(nn.init.zeros_(block.attention.qkv.bias))

    @torch.no_grad()
    def _look_near(self, bias: Tensor) -> None:
        """Half the heads begin near: a constant in q and k is a score that falls with the distance, once positions have turned both.

        Among a thousand equal weights a head finds the byte that matters late.
        """
        heads, head_dim = self.shape.heads, self.shape.head_dim
        bias.view(3, heads, head_dim // 2, 2)[:2, : (heads + 1) // 2, :, 0] = (2 * NEAR * head_dim**-0.5) ** 0.5

    def decoder_blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def new_caches(self) -> Caches:
        """Empty caches for one sequence; their memory does not grow with it."""
        shape, dtype = self.shape, self.embedding.weight.dtype
        return [RollingCache(1, shape.heads, shape.head_dim, (shape.window, 0), dtype=dtype) for _ in range(shape.layers)]

    def forward(self, tokens: Tensor, caches: Caches | None = None, first: int = 0) -> Tensor:
        """With caches, `tokens` follow what these have seen, and are appended to them; without, they stand from position `first` on."""
        start = first if caches is None else caches[0].length
        assert isinstance(start, int)  # a list where rows differ
        x = self.embedding(tokens)
        turns = rotary_turns(start, tokens.shape[-1], self.shape.head_dim, x.dtype)
        for index, block in enumerate(self.decoder_blocks()):
            x = block(x, turns, None if caches is None else caches[index])
        logits: Tensor = self.head(self.norm(x))
        return logits

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy in nats of bytes 1.. of tokens (B, L + 1), each predicted from those before it."""
        return cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def narrowed(model: LanguageModel, left: int) -> LanguageModel:
    """A copy whose queries see the `left` bytes before their own."""
    narrow = copy.deepcopy(model)
    for block in narrow.decoder_blocks():
        block.attention.core = FusedAttention(left)
    return narrow

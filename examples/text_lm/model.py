# examples/text_lm/model.py: a byte-level decoder language model: RMSNorm, rotary positions, windowed attention, SwiGLU.
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, silu

from .attention import BandAttention

NUM_BYTES = 256
ROTARY_BASE = 10_000.0

KeysValues = tuple[Tensor, Tensor]  # the last `left` keys and values of a layer, (B, H, <= left, D)
Cache = list[KeysValues]  # for each layer


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
        self.left = shape.window
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.core = core

    def project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, L, D) of x at the positions of `turns`."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return rotate(q, turns), rotate(k, turns), v

    def forward(self, x: Tensor, turns: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        q, k, v = self.project(x, turns)
        if past is not None:  # fewer queries than keys: the operators align the last query with the last key
            k, v = torch.cat((past[0], k), dim=-2), torch.cat((past[1], v), dim=-2)
        mixed = self.core(q, k, v).transpose(1, 2).reshape(x.shape)
        return self.out(mixed), (k[..., -self.left :, :], v[..., -self.left :, :])


class SwiGLU(nn.Module):
    """x -> down(silu(gate(x)) * up(x)), hidden size 8/3 of the width rounded to a multiple of 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = round(width * 8 / 3 / 32) * 32
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

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

    def forward(self, x: Tensor, turns: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        mixed, kept = self.attention(self.attention_norm(x), turns, past)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), kept


class LanguageModel(nn.Module):
    """bytes (B, L) -> logits (B, L, 256) of each next byte."""

    def __init__(self, shape: Shape, core: Callable[[int], nn.Module] = BandAttention) -> None:
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

    def decoder_blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.step(tokens, 0, None)[0]

    def step(self, tokens: Tensor, start: int, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Logits of `tokens`, whose first position is `start`, given the cache of everything before; and the cache after them."""
        x = self.embedding(tokens)
        turns = rotary_turns(start, tokens.shape[-1], self.shape.head_dim, x.dtype)
        kept: Cache = []
        for index, block in enumerate(self.decoder_blocks()):
            x, layer_cache = block(x, turns, cache[index] if cache else None)
            kept.append(layer_cache)
        return self.head(self.norm(x)), kept

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy in nats of bytes 1.. of tokens (B, L + 1), each predicted from those before it."""
        return cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@torch.inference_mode()
def generate(model: LanguageModel, prompt: bytes, length: int, temperature: float, generator: torch.Generator) -> bytes:
    """`length` bytes after `prompt`, one at a time: each step attends from one query to the last `window` cached keys."""
    logits, cache = model.step(torch.tensor([list(prompt)]), 0, None)
    produced: list[int] = []
    while True:
        chances = torch.softmax(logits[0, -1] / temperature, dim=-1)
        produced.append(int(torch.multinomial(chances, 1, generator=generator)))
        if len(produced) == length:
            return bytes(produced)
        position = len(prompt) + len(produced) - 1
        logits, cache = model.step(torch.tensor([produced[-1:]]), position, cache)

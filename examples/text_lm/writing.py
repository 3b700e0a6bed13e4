# examples/text_lm/writing.py: text from a trained model, byte by byte from rolling caches, and how fast that goes.
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from .model import LanguageModel

RECOMPUTED = 5  # how often the whole text is computed again, to time it


@dataclass(frozen=True)
class Writing:
    prompt: bytes
    written: bytes
    seconds_a_byte: float  # one query through the caches, mean over what was written
    seconds_recomputed: float  # for one byte without caches: the whole text again; the best of some
    cache_bytes: int  # of all layers, whatever the length

    @property
    def text(self) -> bytes:
        return self.prompt + self.written


@torch.inference_mode()
def write(model: LanguageModel, prompt: bytes, length: int, temperature: float, seed: int) -> Writing:
    """`length` bytes after `prompt`, which goes into the caches in one piece; then each step is one query."""
    generator = torch.Generator().manual_seed(seed)
    caches = model.new_caches()
    logits = model(as_tokens(prompt), caches)
    written = bytearray()
    began = time.perf_counter()
    while len(written) < length:
        chances = torch.softmax(logits[0, -1] / temperature, dim=-1)
        written.append(int(torch.multinomial(chances, 1, generator=generator)))
        logits = model(as_tokens(written[-1:]), caches)
    cached = (time.perf_counter() - began) / length
    recomputed = min(_seconds_to_recompute(model, as_tokens(prompt + written)) for _ in range(RECOMPUTED))
    return Writing(prompt, bytes(written), cached, recomputed, sum(cache.nbytes for cache in caches))


def _seconds_to_recompute(model: LanguageModel, tokens: Tensor) -> float:
    began = time.perf_counter()
    model(tokens)
    return time.perf_counter() - began


def as_tokens(text: bytes | bytearray) -> Tensor:
    return torch.tensor([list(text)])


@torch.inference_mode()
def decode(model: LanguageModel, tokens: Tensor, prompt: int) -> Tensor:
    """Logits (1, L, 256) of tokens (L,) from rolling caches: the first `prompt` in one piece, the others one by one."""
    caches = model.new_caches()
    return torch.cat([model(piece[None], caches) for piece in (tokens[:prompt], *tokens[prompt:].split(1))], dim=1)

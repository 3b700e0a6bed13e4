# examples/text_lm/text.py: the text as bytes, without its repetitions, cut into training text and held-out blocks.
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

HELD_OUT_BLOCK = 2048  # bytes
HELD_OUT_EVERY = 16  # one block in 16 is held out


@dataclass(frozen=True)
class Corpus:
    name: str
    training: Tensor  # (N,) int64 bytes: all blocks but the held-out ones, joined
    held_out: Tensor  # (M, block) int64: contiguous blocks, never trained on


def read_text(file: str | None) -> tuple[str, str]:
    """(name, text) of a file, or of CPython's own documentation if there is none."""
    if file is not None:
        path = Path(file)
        return path.name, path.read_text(encoding="utf-8", errors="replace")
    from pydoc_data import topics

    return "pydoc_data.topics", "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def without_repetitions(text: str) -> str:
    """Each paragraph once: the topics share whole sections, and held-out text must not stand elsewhere in training text."""
    first: dict[str, str] = {}
    for number, paragraph in enumerate(text.split("\n\n")):
        words = " ".join(paragraph.split())
        first.setdefault(words if len(words) > 40 else f"{number} {words}", paragraph)  # short ones may recur: headings, "Changed in"
    return "\n\n".join(first.values())


def split(name: str, text: str, block: int = HELD_OUT_BLOCK) -> Corpus:
    data = torch.tensor(list(without_repetitions(text).encode()), dtype=torch.int64)
    whole = len(data) // block * block
    blocks, rest = data[:whole].view(-1, block), data[whole:]
    if len(blocks) < 2:
        raise ValueError(f"--text: {name} has {len(data)} bytes without its repetitions; at least {2 * block} are needed")
    held = torch.arange(len(blocks)) % HELD_OUT_EVERY == min(HELD_OUT_EVERY, len(blocks)) // 2
    return Corpus(name, torch.cat((blocks[~held].flatten(), rest)), blocks[held])


def batch(corpus: Corpus, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """(rows, length + 1) bytes from random places of the training text."""
    starts = torch.randint(len(corpus.training) - length, (rows, 1), generator=generator)
    return corpus.training[starts + torch.arange(length + 1)]


def one_byte_floor(held_out: Tensor) -> float:
    """Bits per byte of the best predictor that sees only the current byte, fitted on the held-out text itself.

    No model whose attention passes nothing on can do better, however long it trains.
    """
    pairs = torch.zeros(256 * 256, dtype=torch.float64)
    codes = (held_out[:, :-1] * 256 + held_out[:, 1:]).flatten()
    counts = pairs.scatter_add_(0, codes, torch.ones(len(codes), dtype=torch.float64)).view(256, 256)
    conditional = counts / counts.sum(dim=1, keepdim=True)
    return float(-(torch.special.xlogy(counts, conditional)[counts > 0]).sum() / counts.sum() / torch.tensor(2.0).log())

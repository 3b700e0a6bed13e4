# examples/text_lm/broken.py: attentions with deliberate faults, to learn what held-out loss a fault cannot reach.
"""Run as `python -m text_lm.broken` in examples/: trains the demo's default model once with each fault and prints where it ends."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from .attention import BandAttention
from .text import read_text, split
from .training import Plan, Trainer


def wrong_sign(x: Tensor) -> Tensor:
    """x, with the gradient -1."""
    return 2 * x.detach() - x


def next_row(x: Tensor) -> Tensor:
    """x, with the gradient that belongs to the row after."""
    shifted = x.roll(1, dims=-2)
    return shifted + (x - shifted).detach()


class Faulty(BandAttention):
    """Right outputs, faulty gradients: each of q, k, v passes through its own function."""

    def __init__(self, left: int, q: Callable[[Tensor], Tensor], k: Callable[[Tensor], Tensor], v: Callable[[Tensor], Tensor]) -> None:
        super().__init__(left)
        self.faults = (q, k, v)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().forward(*(fault(x) for fault, x in zip(self.faults, (q, k, v), strict=True)))


class Silent(BandAttention):
    """Attention that passes nothing on."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return 0 * v[..., -q.shape[-2] :, :]


def intact(x: Tensor) -> Tensor:
    return x


FAULTS: dict[str, Callable[[int], BandAttention]] = {
    "intact": BandAttention,
    "output zero": Silent,
    "no gradient for q, k and v": lambda left: Faulty(left, Tensor.detach, Tensor.detach, Tensor.detach),
    "no gradient for q and k": lambda left: Faulty(left, Tensor.detach, Tensor.detach, intact),
    "no gradient for v": lambda left: Faulty(left, intact, intact, Tensor.detach),
    "gradients of q and k with the wrong sign": lambda left: Faulty(left, wrong_sign, wrong_sign, intact),
    "gradient of v with the wrong sign": lambda left: Faulty(left, intact, intact, wrong_sign),
    "gradient of k one row off": lambda left: Faulty(left, intact, next_row, intact),
    "gradient of v one row off": lambda left: Faulty(left, intact, intact, next_row),
}


def main(names: list[str]) -> None:
    corpus = split(*read_text(None))
    for name in names or FAULTS:
        trainer = Trainer(Plan(), corpus, FAULTS[name])
        with tempfile.TemporaryDirectory() as folder:
            trainer.train(Path(folder) / "checkpoint.pt")
        print(f"{name}: {trainer.held_out[-1][1]:.3f} bits per byte", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

# examples/text_lm/broken.py: attentions with deliberate faults: the checks must see each, and what held-out loss they cannot reach.
"""Run as `python -m text_lm.broken [--train] [fault ...]` in examples/. Prints which check each fault fails; with --train also trains the
demo's default model with it, in spite of that, and prints where it ends."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from .attention import FusedAttention
from .checks import CheckFailed, check_attention
from .text import read_text, split
from .training import Plan, Trainer


def wrong_sign(x: Tensor) -> Tensor:
    """x, with the gradient -1."""
    return 2 * x.detach() - x


def next_row(x: Tensor) -> Tensor:
    """x, with the gradient that belongs to the row after."""
    shifted = x.roll(1, dims=-2)
    return shifted + (x - shifted).detach()


class Faulty(FusedAttention):
    """Right outputs, faulty gradients: each of q, k, v passes through its own function."""

    def __init__(self, left: int, q: Callable[[Tensor], Tensor], k: Callable[[Tensor], Tensor], v: Callable[[Tensor], Tensor]) -> None:
        super().__init__(left)
        self.faults = (q, k, v)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().forward(*(fault(x) for fault, x in zip(self.faults, (q, k, v), strict=True)))


class Silent(FusedAttention):
    """Attention that passes nothing on."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return 0 * v[..., -q.shape[-2] :, :]


class Late(FusedAttention):
    """The whole window one key back: a query does not see its own key."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().forward(q, k.roll(1, dims=-2), v.roll(1, dims=-2))


def intact(x: Tensor) -> Tensor:
    return x


FAULTS: dict[str, Callable[[int], FusedAttention]] = {
    "output zero": Silent,
    "window one key short": lambda left: FusedAttention(left - 1),
    "window one key long": lambda left: FusedAttention(left + 1),
    "window one key back": Late,
    "no gradient for q, k and v": lambda left: Faulty(left, Tensor.detach, Tensor.detach, Tensor.detach),
    "no gradient for q and k": lambda left: Faulty(left, Tensor.detach, Tensor.detach, intact),
    "no gradient for q": lambda left: Faulty(left, Tensor.detach, intact, intact),
    "no gradient for k": lambda left: Faulty(left, intact, Tensor.detach, intact),
    "no gradient for v": lambda left: Faulty(left, intact, intact, Tensor.detach),
    "gradients of q and k with the wrong sign": lambda left: Faulty(left, wrong_sign, wrong_sign, intact),
    "gradient of v with the wrong sign": lambda left: Faulty(left, intact, intact, wrong_sign),
    "gradient of k one row off": lambda left: Faulty(left, intact, next_row, intact),
    "gradient of v one row off": lambda left: Faulty(left, intact, intact, next_row),
}


def failed_check(attention: Callable[[int], FusedAttention], left: int, head_dim: int) -> str | None:
    """What the demo's check before training says of it; None where it passes."""
    try:
        check_attention(attention(left), left, head_dim)
    except CheckFailed as failure:
        return str(failure)
    return None


def trained(attention: Callable[[int], FusedAttention]) -> float:
    """Held-out bits per byte at the end of the default run."""
    trainer = Trainer(Plan(), split(*read_text(None)), attention)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(Path(folder) / "checkpoint.pt")
    return trainer.held_out[-1][1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Which check sees each fault, and the held-out loss it ends at.")
    parser.add_argument("--train", action="store_true", help="train the default model with each: minutes a fault")
    parser.add_argument("faults", nargs="*", help="by default all, and the intact attention")
    args = parser.parse_args()
    attentions = {"intact": FusedAttention, **FAULTS}
    plan = Plan()
    for name in args.faults or attentions:
        seen = failed_check(attentions[name], plan.window, plan.shape.head_dim) or "passes every check"
        ends = f"; ends at {trained(attentions[name]):.3f} bits per byte" if args.train else ""
        print(f"{name}: {seen}{ends}", flush=True)


if __name__ == "__main__":
    main()

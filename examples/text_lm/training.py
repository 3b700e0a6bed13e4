# examples/text_lm/training.py: training that can be stopped at any step and continued to the same bits.
import hashlib
import math
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from .attention import KINDS, InHalf
from .model import LanguageModel, Shape
from .muon import Muon
from .text import Corpus, batch

LEARNING_RATE = {"muon": 0.02, "adamw": 0.02}
WARMUP = 0.02  # share of the steps in which the learning rate rises
DECAY = 0.6  # share of the steps in which it falls to zero
EVALUATIONS = 12


@dataclass(frozen=True)
class Plan:
    """Everything that decides the trained weights: two runs of one plan on one machine agree bit for bit."""

    text: str | None = None  # a file; without one CPython's documentation
    steps: int = 400
    rows: int = 2  # sequences in a batch
    context: int = 2048  # bytes in a sequence
    window: int = 1023  # bytes before its own that a query sees
    layers: int = 3
    width: int = 128
    heads: int = 8
    seed: int = 1
    threads: int = field(default_factory=torch.get_num_threads)
    attention: str = "fused"  # of attention.KINDS
    dtype: str = "fp32"  # in which attention is computed; bf16: under autocast, beside weights in fp32

    @property
    def shape(self) -> Shape:
        return Shape(self.layers, self.width, self.heads, self.window)

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.context


class Stopped(Exception):
    """Training ended early because of a signal; the checkpoint is written."""


class StopRequest:
    """While open, the first Ctrl-C (or SIGTERM) only sets `requested`; a second one interrupts at once."""

    def __enter__(self) -> "StopRequest":
        self.requested = False
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Trainer:
    """Model, optimisers, random numbers and history: all that a checkpoint holds. `core` in place of the plan's attention."""

    def __init__(self, plan: Plan, corpus: Corpus, core: Callable[[int], nn.Module] | None = None) -> None:
        self.plan, self.corpus = plan, corpus
        torch.manual_seed(plan.seed)
        self.model = LanguageModel(plan.shape, in_dtype(plan.dtype, core or KINDS[plan.attention]))
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.optimisers = optimisers(self.model)
        self.step = 0
        self.losses: list[float] = []  # training bits per byte of each step
        self.held_out: list[tuple[int, float]] = []  # (step, held-out bits per byte)

    def train_step(self) -> float:
        """One batch; returns its bits per byte."""
        share = self.step / self.plan.steps
        factor = min(1.0, (share + 1 / self.plan.steps) / WARMUP, (1 - share) / DECAY)
        loss = self.gradients(batch(self.corpus, self.plan.rows, self.plan.context, self.generator))
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser, rate in zip(self.optimisers, LEARNING_RATE.values(), strict=True):
            optimiser.param_groups[0]["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        self.losses.append(loss / math.log(2))
        return self.losses[-1]

    def gradients(self, tokens: Tensor) -> float:
        """Fills the weights' gradients; returns the mean loss in nats."""
        loss = self.model.loss(tokens)
        loss.backward()
        return loss.item()

    @torch.inference_mode()
    def evaluate(self, model: LanguageModel | None = None) -> float:
        """Bits per byte of the held-out blocks, for the model in training or for a copy of it."""
        losses = [(model or self.model).loss(block).item() for block in self.corpus.held_out.split(1)]
        return sum(losses) / len(losses) / math.log(2)

    def train(self, checkpoint: Path, quiet: bool = False) -> None:
        """Runs to the last step. Raises Stopped, with everything saved, when a signal asks for it."""
        every = max(10, -(-self.plan.steps // EVALUATIONS))
        with StopRequest() as stop, self._bar(quiet) as bar:
            while self.step < self.plan.steps:
                bits = self.train_step()
                if self.step % every == 0 or self.step == self.plan.steps:
                    self.held_out.append((self.step, self.evaluate()))
                    self.save(checkpoint)
                held_out = f"{self.held_out[-1][1]:.3f}" if self.held_out else "-"
                bar.set_postfix_str(f"bits/byte {bits:.3f}, held-out {held_out}", refresh=False)
                bar.update(self.plan.tokens_per_step)
                if self.is_stopped(stop.requested):
                    self.save(checkpoint)
                    raise Stopped

    def is_stopped(self, requested: bool) -> bool:
        """Whether training ends after this step, as a signal to this process asks."""
        return requested

    def _bar(self, quiet: bool) -> Any:
        per_step = self.plan.tokens_per_step
        interactive = os.isatty(2)
        return tqdm(
            total=self.plan.steps * per_step, initial=self.step * per_step, unit=" tokens", unit_scale=True, desc="training",
            disable=quiet, dynamic_ncols=interactive, mininterval=0.2 if interactive else 10.0,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Written beside and renamed: a checkpoint is whole or it is the one before."""
        state = {
            "plan": asdict(self.plan), "text": digest(self.corpus),
            "step": self.step, "losses": self.losses, "held_out": self.held_out,
            "model": self.model.state_dict(), "generator": self.generator.get_state(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(path)

    def load(self, path: Path) -> None:
        """Takes everything back that `save` wrote for the same plan and text."""
        state = torch.load(path, weights_only=True)
        if state["text"] != digest(self.corpus):
            raise ValueError(f"--resume: {self.corpus.name} is not the text that {path} was trained on; start anew without --resume")
        self.step, self.losses, self.held_out = state["step"], state["losses"], state["held_out"]
        self.model.load_state_dict(state["model"])
        self.generator.set_state(state["generator"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def in_dtype(dtype: str, core: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    return core if dtype == "fp32" else lambda left: InHalf(core(left))


def optimisers(model: LanguageModel) -> list[torch.optim.Optimizer]:
    """One for each of LEARNING_RATE: the matrices of the blocks, and everything else."""
    matrices = [weight for weight in model.blocks.parameters() if weight.ndim == 2]
    chosen = set(matrices)
    others = [weight for weight in model.parameters() if weight not in chosen]
    return [
        Muon(matrices, lr=LEARNING_RATE["muon"], weight_decay=0.1),
        torch.optim.AdamW(others, lr=LEARNING_RATE["adamw"], betas=(0.9, 0.95), weight_decay=0.0),
    ]


def stored_plan(path: Path) -> Plan:
    return Plan(**torch.load(path, weights_only=True)["plan"])


def digest(corpus: Corpus) -> str:
    return hashlib.sha256(bytes(corpus.training.tolist()) + bytes(corpus.held_out.flatten().tolist())).hexdigest()

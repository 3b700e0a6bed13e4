# examples/long_lm/trainer.py: the trainer of text_lm over the ranks of a mesh, with checkpoints that any number of ranks takes up.
import json
import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from text_lm.model import LanguageModel
from text_lm.text import Corpus
from text_lm.training import Plan, Trainer, digest, optimisers
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from window_matmul.distributed import window_attention

from .ranks import Ranks
from .traffic import Traffic

PROGRESS = "progress.json"


@dataclass(frozen=True)
class LongPlan(Plan):
    """What decides the weights; the number of ranks is not among it."""

    steps: int = 40
    rows: int = 1
    context: int = 16384
    weights: str = "float32"


class ShardedAttention(nn.Module):
    """Causal windowed attention over this rank's part of the sequence; the keys before it come from the ranks that hold them."""

    def __init__(self, left: int, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.window, self.group = (left, 0), group

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = window_attention(q, k, v, self.window, group=self.group)
        assert isinstance(out, Tensor)  # a pair with return_lse
        return out


class LongTrainer(Trainer):
    """Every rank draws the same batch, and computes its rows and its part of their length. Weights are replicated, or sharded by FSDP2."""

    def __init__(self, plan: LongPlan, corpus: Corpus, ranks: Ranks, fsdp: bool) -> None:
        if plan.rows % ranks.size("data"):
            raise ValueError(f"--rows {plan.rows}: {ranks.size('data')} data-parallel ranks need a multiple of their number")
        super().__init__(plan, corpus, partial(ShardedAttention, group=ranks.mesh.get_group("sequence")))
        self.model.to(getattr(torch, plan.weights))
        self.ranks = ranks
        self.module = _sharded(self.model, ranks) if fsdp else DistributedDataParallel(self.model)
        self.optimisers = optimisers(self.model)  # of the sharded weights
        self.given: dict[str, int] = {}  # bytes that this process gave to torch.distributed in its first step
        self.seconds: list[float] = []  # of each step

    def train_step(self) -> float:
        began = time.perf_counter()
        with Traffic() if not self.given else nullcontext() as traffic:
            bits = super().train_step()
        if traffic:
            self.given = dict(traffic.given)
        self.seconds.append(time.perf_counter() - began)
        return bits

    def gradients(self, tokens: Tensor) -> float:
        loss = self._loss(tokens[self.ranks.chunk("data", len(tokens))])
        (loss * self.ranks.count / self.plan.tokens_per_step).backward()  # gradients are averaged over the ranks: their sum is the mean's
        return self.ranks.sum(loss.item()) / self.plan.tokens_per_step

    def _loss(self, tokens: Tensor) -> Tensor:
        """Sum of the cross-entropies of the bytes that this rank predicts, of tokens (B, L + 1); in float64, or it would have 4 digits."""
        places = self.ranks.chunk("sequence", tokens.shape[1] - 1)
        seen, next_ones = tokens[:, places], tokens[:, places.start + 1 : places.stop + 1]
        of_each = cross_entropy(self.module(seen, first=places.start).flatten(0, 1), next_ones.flatten(), reduction="none")
        return of_each.sum(dtype=torch.float64)

    @torch.no_grad()
    def evaluate(self, model: LanguageModel | None = None) -> float:
        """Bits per byte of the held-out blocks for the model in training; data-parallel ranks do the same."""
        blocks = self.corpus.held_out
        total = self.ranks.sum(self._loss(blocks).item()) / self.ranks.size("data")
        return total / blocks[:, 1:].numel() / math.log(2)

    def is_stopped(self, requested: bool) -> bool:
        """All stop after the same step, whichever was asked."""
        return self.ranks.sum(float(requested)) > 0

    def save(self, path: Path) -> None:
        """A folder of its own for each step; `.metadata`, which is written last, makes it whole, and then the older ones go."""
        folder = path / f"step-{self.step:06d}"
        if self.ranks.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            plan = {"plan": asdict(self.plan), "text": digest(self.corpus)}
            progress = plan | {"step": self.step, "losses": self.losses, "held_out": self.held_out}
            (folder / PROGRESS).write_text(json.dumps(progress))
        state_dict_saver.save(self._state(), checkpoint_id=folder)
        if self.ranks.rank == 0:
            for older in set(path.glob("step-*")) - {folder}:
                shutil.rmtree(older)

    def load(self, path: Path) -> None:
        folder = newest(path)
        progress = json.loads((folder / PROGRESS).read_text())
        if progress["text"] != digest(self.corpus):
            raise ValueError(f"--resume: {self.corpus.name} is not the text that {folder} was trained on; start anew without --resume")
        state = self._state()
        state_dict_loader.load(state, checkpoint_id=folder)
        set_state_dict(self.model, self.optimisers, model_state_dict=state["model"], optim_state_dict=state["optimisers"])
        self.generator.set_state(state["generator"])
        self.step, self.losses = progress["step"], progress["losses"]
        self.held_out = [(step, bits) for step, bits in progress["held_out"]]

    def _state(self) -> dict[str, Any]:
        model, optimiser = get_state_dict(self.model, self.optimisers)
        return {"model": model, "optimisers": optimiser, "generator": self.generator.get_state()}


def _sharded(model: LanguageModel, ranks: Ranks) -> nn.Module:
    """FSDP2: weights, gradients and optimisers cut over "data", replicated over "sequence"."""
    for part in (*model.decoder_blocks(), model):
        fully_shard(part, mesh=ranks.mesh)
        part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # gloo has no mean
    return model


def newest(path: Path) -> Path:
    """The newest checkpoint that was written to its end."""
    whole = sorted(found.parent for found in path.glob("step-*/.metadata"))
    if not whole:
        raise ValueError(f"--resume: there is no whole checkpoint in {path}; start without --resume")
    return whole[-1]


def stored_plan(path: Path) -> LongPlan:
    return LongPlan(**json.loads((newest(path) / PROGRESS).read_text())["plan"])

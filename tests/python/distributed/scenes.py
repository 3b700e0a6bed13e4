"""tests/python/distributed/scenes.py: calls over ranks beside the same call in one process; runs in the processes of pool.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import window_matmul
from window_matmul import distributed
from window_matmul.distributed import Layout
from window_matmul.distributed.layout import Shards, shards_of

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
# A sum of n terms in another order is off by at most n u of its terms' sizes, and softmax and its gradient chain three sums of fewer than
# 200 terms of about 1, over some 10: 1e-12 leaves float64 (u = 1.1e-16) a factor of ten, float32 gets the same in its u.
# bfloat16 rounds results to 2^-9; a gradient is rounded in up to four parts (early rows, late rows, two neighbours) of sizes below 16.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-12 * 2**29, torch.bfloat16: 4 * 16 * 2.0**-9}


@dataclass(frozen=True)
class Scene:
    """A call of window_attention on a whole sequence, and how it is cut."""

    lengths: tuple[int, ...]  # of chunks
    window: Any
    layout: str = "contiguous"
    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    dtype: str = "float64"
    key_lengths: tuple[int, ...] | None = None  # of chunks of keys, where they are not those of queries
    options: tuple[tuple[str, Any], ...] = ()  # of the call; a name in TENSORS with True stands for a tensor
    heads_inside: bool = False  # tensors lie as (B, L, H, D)
    gives_lengths: bool = True
    check: bool = True

    @property
    def ranks(self) -> int:
        return len(self.lengths) // Layout[self.layout].chunks_of_rank

    @property
    def queries(self) -> int:
        return sum(self.lengths)

    @property
    def keys(self) -> int:
        return sum(self.lengths if self.key_lengths is None else self.key_lengths)

    def shards(self) -> tuple[Shards, Shards]:
        of_keys = self.lengths if self.key_lengths is None else self.key_lengths
        return shards_of(Layout[self.layout], self.lengths), shards_of(Layout[self.layout], of_keys)


def cut(x: Tensor, dim: int, shards: Shards, rank: int) -> Tensor:
    return torch.cat([x.narrow(dim, begin, end - begin) for begin, end in shards.chunks(rank)], dim)


@dataclass
class Whole:
    """Tensors of a scene: (name, (tensor, dim of its rows or None, whether they are queries)); and the numbers among its options."""

    tensors: dict[str, tuple[Tensor, int | None, bool]] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def shard(self, scene: Scene, rank: int) -> dict[str, Tensor]:
        of_queries, of_keys = scene.shards()
        return {
            name: x.clone() if dim is None else _laid(cut(x, dim, of_queries if is_query else of_keys, rank), scene)
            for name, (x, dim, is_query) in self.tensors.items()
        }


def _laid(x: Tensor, scene: Scene) -> Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2) if scene.heads_inside and x.ndim == 4 else x


def whole_of(scene: Scene) -> Whole:
    torch.manual_seed(20240229)
    dtype, batch, heads = DTYPES[scene.dtype], scene.batch, scene.heads

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(dtype)

    whole = Whole({"q": (_laid(normal(batch, heads, scene.queries, 4), scene), 2, True)})
    for name, size in (("k", 4), ("v", 3)):
        whole.tensors[name] = (_laid(normal(batch, scene.kv_heads, scene.keys, size), scene), 2, False)
    for name, value in scene.options:
        if name == "bias":
            width = scene.window[0] + 1 + scene.window[1]
            if value == "slots":
                whole.tensors[name] = (normal(heads, width), None, False)
            else:
                bias = normal(batch, heads, scene.queries, width)
                whole.tensors[name] = (bias.masked_fill(torch.rand(bias.shape) < 0.2, -torch.inf), 2, True)
        elif name == "sinks":
            whole.tensors[name] = (normal(heads), None, False)
        elif name in ("key_mask", "global_tokens") and value is True:
            whole.tensors[name] = (torch.rand(batch, scene.keys) < (0.7 if name == "key_mask" else 0.2), 1, False)
        elif name in ("key_lengths", "query_offset") and isinstance(value, tuple):
            whole.numbers[name] = torch.tensor(value)
        else:
            whole.numbers[name] = value
    return whole


def results_of(call: Callable[..., tuple[Tensor, Tensor]], tensors: dict[str, Tensor], d_out: Tensor, d_lse: Tensor) -> dict[str, Tensor]:
    """Both results, and the gradients of all tensors that have one."""
    leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in tensors.items()}
    out, lse = call(**leaves)
    (out * d_out).sum().add((lse.where(lse.isfinite(), 0.0) * d_lse).sum()).backward()
    return {"out": out.detach(), "lse": lse.detach()} | {f"d_{name}": x.grad for name, x in leaves.items() if x.grad is not None}


def compare(group: Any, scene: Scene, seed: int = 5) -> dict[str, Tensor]:
    """Over ranks and in one process; returns this rank's results."""
    rank, whole = dist.get_rank(group), whole_of(scene)
    of_queries, of_keys = scene.shards()
    shape = (scene.batch, scene.heads, scene.queries)
    d_out, d_lse = torch.randn(*shape, 3, dtype=torch.float64).to(DTYPES[scene.dtype]), torch.randn(shape, dtype=torch.float64)
    if scene.dtype != "float64":
        d_lse = d_lse.float()
    window = scene.window

    def alone(**tensors: Tensor) -> Any:
        torch.manual_seed(seed)
        return window_matmul.window_attention(window_size=window, return_lse=True, **tensors, **whole.numbers)

    def together(**tensors: Tensor) -> Any:
        torch.manual_seed(seed + rank)  # the first rank's counts
        lengths = scene.lengths if scene.gives_lengths and scene.key_lengths is None else None
        cut_so = {"group": group, "layout": Layout[scene.layout], "lengths": lengths, "check": scene.check}
        return distributed.window_attention(window_size=window, return_lse=True, **cut_so, **tensors, **whole.numbers)

    want = results_of(alone, {name: x for name, (x, _, _) in whole.tensors.items()}, d_out, d_lse)
    got = results_of(together, whole.shard(scene, rank), cut(d_out, 2, of_queries, rank), cut(d_lse, 2, of_queries, rank))
    for name, x in got.items():
        expected = want[name]
        dim, is_query = (2, True) if name in ("out", "lse") else whole.tensors[name[2:]][1:]
        if dim is None:
            total = x.clone()
            dist.all_reduce(total, group=group)
        else:
            total, expected = x, cut(expected, dim, of_queries if is_query else of_keys, rank)
        tolerance = TOLERANCE[DTYPES[scene.dtype]] * (1 if dim is not None else scene.ranks)
        torch.testing.assert_close(total, expected, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
    return got

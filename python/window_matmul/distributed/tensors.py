# python/window_matmul/distributed/tensors.py: DTensors whose sequences are sharded: the public functions over the ranks of one mesh dim.
"""Everything is sharded along the sequence as q is, on the first dim of the mesh that shards it. On the other dims of the mesh q's batch or
heads may be sharded, where the operator can take them apart; whatever lies otherwise is redistributed first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from .._attention.arguments import draw_seed
from .attention import attend
from .layout import Layout
from .trio import unwindow_matmul, window_matmul, window_softmax
from .varlen import attend_packed


class _Cut:
    """How q is sharded: the sequence on one dim of the mesh, and on the others some of its dims, or none."""

    def __init__(self, q: Any, dim: int, others: Callable[[int, int], bool]) -> None:
        """`others(dim, ranks)`: whether q may stay sharded on another of its dims, over so many ranks."""
        self.mesh, self.dim = q.device_mesh, dim
        self.at = next(n for n, p in enumerate(q.placements) if p == Shard(dim) and self.mesh.size(n) > 1)
        self.of_others = [
            p.dim if isinstance(p, Shard) and p.dim != dim and others(p.dim, self.mesh.size(n)) else None
            for n, p in enumerate(q.placements)
        ]

    @property
    def group(self) -> Any:
        return self.mesh.get_group(self.at)

    def places(self, dim: int | None, of_others: dict[int, int]) -> list[Placement]:
        """Of a tensor whose sequence is `dim`, and which of its dims is which one of q."""
        ways = [None if d is None else of_others.get(d) for d in self.of_others]
        ways[self.at] = dim
        return [Replicate() if way is None else Shard(way) for way in ways]

    def local(self, name: str, x: Any, dim: int | None, of_others: dict[int, int]) -> Any:
        """This rank's part of an argument. The gradient of what several ranks have is the sum of theirs."""
        if not isinstance(x, Tensor):
            return x
        if not isinstance(x, DTensor):
            raise ValueError(f"{name} is a plain tensor beside a DTensor of queries; it needs to be a DTensor, as by distribute_tensor")
        places = self.places(dim, of_others)
        shards = [n == self.at or d is not None for n, d in enumerate(self.of_others)]
        of_gradient = [Partial() if cut and p == Replicate() else p for p, cut in zip(places, shards, strict=True)]
        return x.redistribute(self.mesh, places).to_local(grad_placements=of_gradient)

    def seed(self, dropout_p: Any) -> Tensor | None:
        """That of the mesh's first rank."""
        drawn = draw_seed(dropout_p, torch.device(self.mesh.device_type))
        return None if drawn is None else distribute_tensor(drawn, self.mesh).to_local()

    def result(self, x: Tensor, like: Any, last: int | None, dim: int) -> Tensor:
        """Of q's shape, but for its last dim, which is `last` or missing."""
        shape = (*like.shape[:-1], *(() if last is None else (last,)))
        if dim != self.dim:  # (H, total_q) beside (total_q, H, D)
            shape = (shape[1], shape[0])
        of_others = {n: n for n in range(like.ndim)} if dim == self.dim else {1: 0}
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(x, self.mesh, self.places(dim, of_others), run_check=False, shape=torch.Size(shape), stride=stride)


_FULL = {0: 0, 1: 1}  # which dim of an argument is q's batch, which its heads


def attention(q: Any, k: Any, v: Any, window_size: Any, options: dict[str, Any]) -> Any:
    """`window_matmul.window_attention`."""
    splits_heads = isinstance(options["dilation"], int)

    def others(dim: int, ranks: int) -> bool:
        return not options["dropout_p"] and (dim == 0 or (dim == 1 and splits_heads and k.shape[1] % ranks == 0))

    cut = _Cut(q, 2, others)
    dims: dict[str, tuple[int | None, dict[int, int]]] = {"key_mask": (1, {0: 0}), "global_tokens": (1, {0: 0}), "sinks": (None, {1: 0})}
    dims |= {"key_lengths": (None, {0: 0}), "query_offset": (None, {0: 0})}
    dims["bias"] = (None, {1: 0}) if options["bias"] is not None and options["bias"].ndim == 2 else (2, _FULL)
    local = {name: cut.local(name, x, *dims.get(name, (None, {}))) for name, x in options.items()}
    q_here, k_here, v_here = (cut.local(name, x, 2, _FULL) for name, x in (("q", q), ("k", k), ("v", v)))
    seed = cut.seed(options["dropout_p"])
    found = attend(q_here, k_here, v_here, window_size, cut.group, Layout.contiguous, None, True, local, seed=seed)
    if isinstance(found, tuple):
        return cut.result(found[0], q, v.shape[3], 2), cut.result(found[1], q, None, 2)
    return cut.result(found, q, v.shape[3], 2)


def attention_varlen(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, window_size: Any, options: dict[str, Any]) -> Any:
    """`window_matmul.window_attention_varlen`."""
    splits_heads = isinstance(options["dilation"], int)

    def others(dim: int, ranks: int) -> bool:
        return not options["dropout_p"] and dim == 1 and splits_heads and k.shape[1] % ranks == 0

    cut = _Cut(q, 0, others)
    dims: dict[str, tuple[int | None, dict[int, int]]] = {"key_mask": (0, {}), "global_tokens": (0, {}), "sinks": (None, {1: 0})}
    dims["bias"] = (None, {1: 0}) if options["bias"] is not None and options["bias"].ndim == 2 else (1, {1: 0})
    local = {name: cut.local(name, x, *dims.get(name, (None, {}))) for name, x in options.items()}
    here = [cut.local(name, x, 0, {1: 1}) for name, x in (("q", q), ("k", k), ("v", v))]
    here += [cut.local(name, x, None, {}) for name, x in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k))]
    seed = cut.seed(options["dropout_p"])
    found = attend_packed(here[0], here[1], here[2], here[3], here[4], window_size, cut.group, Layout.contiguous, None, True, local, seed)
    if isinstance(found, tuple):
        return cut.result(found[0], q, v.shape[2], 0), cut.result(found[1], q, None, 1)
    return cut.result(found, q, v.shape[2], 0)


_TRIO: dict[str, Callable[..., Tensor]] = {
    "window_matmul": window_matmul,
    "unwindow_matmul": unwindow_matmul,
    "window_softmax": window_softmax,
}


def band(name: str, x: Any, y: Any, window_size: Any, options: dict[str, Any]) -> Any:
    """One of the explicit three: x is q or a, y is k or v, None for window_softmax."""
    rows = x.ndim - 2
    splits = rows - (not isinstance(options["dilation"], int))  # dim -3 stays whole if each of its entries has its own dilation

    def others(dim: int, _ranks: int) -> bool:
        return dim < splits and (y is None or (y.ndim == x.ndim and y.shape[dim] == x.shape[dim]))

    cut = _Cut(x, rows, others)
    same = {n: n for n in range(rows)}
    tensors = [cut.local("a" if name != "window_matmul" else "q", x, rows, same)]
    if name == "window_matmul":
        tensors.append(cut.local("k", y, y.ndim - 1, same))
    elif y is not None:
        tensors.append(cut.local("v", y, y.ndim - 2, same))
    if y is not None and torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]) != x.shape[:-2]:
        raise ValueError(f"the leading dims of q or a, a DTensor of {tuple(x.shape)}, need to hold those of k or v, {tuple(y.shape)}")
    found = _TRIO[name](*tensors, window_size, group=cut.group, **options)
    return cut.result(found, x, found.shape[-1], rows)

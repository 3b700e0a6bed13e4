# python/window_matmul/distributed/parallel.py: modules and models over ranks: `WindowParallel` and `context_parallel`.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ParallelStyle

from .. import _shards
from .._integers import as_int
from ..attention import AnyWindow
from ..nn import WindowAttention
from .attention import attend
from .faults import as_group
from .layout import Layout, as_layout


class WindowParallel(ParallelStyle):
    """For `parallelize_module`: a `window_matmul.nn.WindowAttention` whose x is this rank's shard of a sequence, and whose result is too.

    Parameters stay whole on each rank, and their gradients are those of its rows: their sum over the group is that of one process, which
    DistributedDataParallel or fully_shard over the same ranks takes (as means).

    Args:
        seq_dim: the dim of x along which the sequence is cut: 1, x being (B, n_r, E).
        layout: how it is cut; rotary positions are those in the whole sequence.
        lengths: of all chunks in the order of the sequence; by default each rank says its own.
        check: whether ranks first make sure that they mean the same call.

    Raises:
        TypeError: an argument of a wrong type, or another module.
        ValueError: another seq_dim.

    >>> import torch, torch.distributed as dist
    >>> from torch.distributed.tensor.parallel import parallelize_module
    >>> from window_matmul.nn import WindowAttention
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> attention = WindowAttention(16, 4, (3, 0), rotary=10000.0)
    >>> x = torch.randn(1, 8, 16)
    >>> alone = attention(x)
    >>> attention = parallelize_module(attention, dist.init_device_mesh("cpu", (1,)), WindowParallel())
    >>> torch.testing.assert_close(attention(x), alone)
    >>> dist.destroy_process_group()
    """

    def __init__(
        self, seq_dim: int = 1, *, layout: Layout = Layout.contiguous, lengths: Sequence[int] | None = None, check: bool = True
    ) -> None:
        super().__init__()
        if as_int("seq_dim", seq_dim) not in (1, -2):
            raise ValueError(f"seq_dim is {seq_dim}; it needs to be 1: WindowAttention takes (batch, length, features)")
        self.layout, self.lengths, self.check = as_layout(layout), lengths, check

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, WindowAttention):
            raise TypeError(f"module is of type {type(module).__name__}; WindowParallel needs a window_matmul.nn.WindowAttention")
        module._shards = _Shards(as_group(device_mesh), self.layout, self.lengths, self.check)
        return module


class _Shards:
    """What a module calls instead of `window_matmul.window_attention`."""

    def __init__(self, group: Any, layout: Layout, lengths: Sequence[int] | None, check: bool) -> None:
        self.group, self.layout, self.lengths, self.check = group, layout, lengths, check

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window_size: AnyWindow, rotary: float | None, options: dict[str, Any]) -> Tensor:
        out: Tensor = attend(q, k, v, window_size, self.group, self.layout, self.lengths, self.check, options, rotary)  # type: ignore[assignment]
        return out

    def __deepcopy__(self, _memo: Any) -> _Shards:
        return self  # copies of a module have the same group


@contextmanager
def context_parallel(mesh: Any, *, layout: Layout = Layout.contiguous, lengths: Sequence[int] | None = None) -> Iterator[None]:
    """Within it, models of transformers with `attn_implementation="window_matmul"` take their inputs for this rank's shard of a sequence.

    Sliding layers exchange halos. Full layers go to torch's own `torch.distributed.tensor.experimental.context_parallel` where that is
    active around them, with `Layout.zigzag` if its load balancer is on, as it is by default; else they raise. The model needs the positions
    of its tokens in the whole sequence (`position_ids`), and a padding mask is a shard like the tokens. Forward and backward both belong
    inside.

    Args:
        mesh: a DeviceMesh of one dim, a ProcessGroup, or None for all processes.
        layout: how sequences are cut.
        lengths: of all chunks in the order of the sequence; by default each rank says its own.

    Raises:
        TypeError: a mesh or layout of a wrong type.
        ValueError: a mesh of more than one dim, or a group that this process is not in.
    """
    before = _shards.current
    _shards.current = _shards.Cut(as_group(mesh, "mesh"), as_layout(layout), lengths)
    try:
        yield
    finally:
        _shards.current = before

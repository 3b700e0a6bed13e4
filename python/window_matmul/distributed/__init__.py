# python/window_matmul/distributed/__init__.py: windows over the ranks of torch.distributed, by exchange of halos.
"""A sequence that is cut along its length over the ranks of a group. A query sees the keys of its window only, so a rank needs the last
`left` and the first `right` keys of its neighbours, a halo, and nothing else travels. The engine is torch.distributed as it is: gloo, NCCL,
torchrun, DeviceMesh, DistributedDataParallel, fully_shard, distributed checkpoints.
"""

from typing import TYPE_CHECKING, Any

from .attention import window_attention
from .halo import halo_exchange
from .layout import Layout
from .trio import unwindow_matmul, window_matmul, window_softmax
from .varlen import window_attention_varlen

if TYPE_CHECKING:
    from .parallel import WindowParallel, context_parallel

__all__ = [
    "Layout",
    "WindowParallel",
    "context_parallel",
    "halo_exchange",
    "unwindow_matmul",
    "window_attention",
    "window_attention_varlen",
    "window_matmul",
    "window_softmax",
]


def __getattr__(name: str) -> Any:
    """What imports torch.distributed.tensor, when it is asked for."""
    if name in ("WindowParallel", "context_parallel"):
        from . import parallel

        return getattr(parallel, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

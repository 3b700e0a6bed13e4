# examples/long_lm/traffic.py: counts the bytes that a process gives to torch.distributed.
import resource
from collections import Counter
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operator of torch.distributed -> what it carries here, and which of its arguments holds what this process gives.
CARRIED = {
    "send": ("keys and values of windows, and their gradients", 0),
    "allreduce_": ("gradients of weights, and sums", 0),
    "_allgather_base_": ("weights, and agreement on calls", 1),
    "_reduce_scatter_base_": ("gradients of sharded weights", 1),
    "allgather_": ("agreement on calls", 1),
    "broadcast_": ("other", 0),
}
RECEIVING = ("recv_", "recv_any_source_", "barrier")
HALOS = CARRIED["send"][0]


class Traffic(TorchDispatchMode):
    """While open, `given` grows by the bytes of each call, by what they are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again as what it is made of
        operator = func.overloadpacket.__name__
        if func.namespace == "c10d" and operator not in RECEIVING:
            name, place = CARRIED.get(operator, ("other", 0))
            self.given[name] += sum(x.nbytes for x in tree_leaves(args[place]) if isinstance(x, Tensor))
        return func(*args, **(kwargs or {}))


def resident_peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

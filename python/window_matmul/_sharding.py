# python/window_matmul/_sharding.py: DTensors: which placements the operators take as they lie, and which are refused.
"""Batch entries and heads never meet in an operator: sharded there, or replicated, it runs on the local parts. PyTorch redistributes
whatever else it gets to the nearest such placement. Queries that are sharded within their sequences go to window_matmul.distributed, with
everything else sharded as they are; without such queries other arguments are gathered, and so are gradients, whose placement nobody
chooses.

torch.distributed.tensor is never imported here before the program has done so.
"""

import math
import sys
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from torch import Tensor

_MODULE = "torch.distributed.tensor"
_DIMS = {"q": (0, 1), "bias": (0, 1), "sinks": (None, 0), "mask": (0, None), "other": (None, None)}  # batch and heads; bias: (B, H, Lq, W)
_OPTIONS = ("bias", "sinks", "mask", "mask", "other", "other", "other", "mask", "mask")
_FORWARD, _BACKWARD = ("q",) * 3 + _OPTIONS, ("q",) * 7 + _OPTIONS  # which of _DIMS the tensors of each operator have
_OUT, _Q, _K = 2, 0, 1
_BIAS, _SINKS, _CU_Q, _SEED = 3, 4, 7, 9  # places behind q
_PUBLIC: dict[str, tuple[int | None, ...]] = {  # the dims of sequences of arguments, counted from the end
    "band_out": (-2, -1),
    "band_in": (-2, -2),
    "window_softmax": (-2,),
    "attention": (-2, -2, -2, -2, None, -1, -1),
}


def is_loaded() -> bool:
    """Whether there can be DTensors. If so, PyTorch knows from now on how to shard the operators."""
    if getattr(sys.modules.get(_MODULE), "DTensor", None) is None:
        return False
    _register()
    return True


def _dtensors() -> Any:
    """PyTorch's module of DTensors, once it is loaded."""
    return sys.modules[_MODULE]


# Questions to this process, not to the graph: torch.compile would wrap, and guard, all the thousands of entries of sys.modules.
is_loaded._dynamo_marked_constant = True  # type: ignore[attr-defined]
_dtensors._dynamo_marked_constant = True  # type: ignore[attr-defined]


# ---- arguments -----------------------------------------------------------------------------------------------------------------------
def is_cut(q: Tensor) -> bool:
    """Whether queries (or rows of a band) are sharded within their sequences, dim -2."""
    return is_loaded() and isinstance(q, Tensor) and q.ndim >= 2 and _shards(q, q.ndim - 2)


def is_cut_varlen(q: Tensor) -> bool:
    """The same of packed sequences, dim 0."""
    return is_loaded() and isinstance(q, Tensor) and q.ndim == 3 and _shards(q, 0)


def over_ranks() -> Any:
    """The public functions of DTensors whose sequences are sharded."""
    from .distributed import tensors

    return tensors


def whole(op: str, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The arguments of an operator whose queries are not sharded within their sequences: none of them is."""
    ready = list(tensors)
    for n, (x, dim) in enumerate(zip(tensors, _PUBLIC.get(op, ()), strict=False)):
        if x is not None and dim is not None and not (n == _BIAS and x.ndim == 2):  # a bias (H, W) has no rows
            ready[n] = gathered(x, x.ndim + dim)
    return ready


def prepare_attention(args: tuple[Any, ...], num_tensors: int) -> tuple[Any, ...]:
    """(*tensors, band, ...) as the operator takes them: with one seed for all ranks, and whole heads where each has its own dilation."""
    tensors, band = args[:num_tensors], args[num_tensors]
    if not is_dtensor(tensors[_Q]):
        return args
    ready = whole("attention", tensors)
    if has_dilations(band):
        ready = [gathered(x, _heads_dim(kind, x)) for kind, x in zip(_FORWARD, ready, strict=True)]
    if tensors[_SEED] is not None and not is_dtensor(tensors[_SEED]):
        mesh = tensors[_Q].device_mesh
        ready[_SEED] = _dtensors().distribute_tensor(tensors[_SEED], mesh)  # that of the first rank
    return *ready, *args[num_tensors:]


def has_dilations(band: Sequence[int]) -> bool:
    """Of fused attention: whether there is one for each head."""
    return len(band) > 4


def gradients(of: Sequence[Tensor | None], band: Sequence[int]) -> Sequence[Tensor | None]:
    """Those of fused attention's results, with whole sequences, and whole heads where each has its own dilation."""
    return [gathered(gathered(g, 2), 1 if has_dilations(band) else None) for g in of]


def gathered(x: Any, dim: int | None) -> Any:
    """A tensor, or None, that is not sharded on this dim."""
    if x is None or dim is None or not _shards(x, dim):
        return x
    replicate = _dtensors().Replicate()
    return x.redistribute(placements=[replicate if getattr(p, "dim", None) == dim else p for p in x.placements])


def replicated(x: Tensor, like: Any) -> Tensor:
    """What every rank has computed for itself, beside a DTensor."""
    module = _dtensors()
    if not is_dtensor(like):
        return x
    return module.DTensor.from_local(x, like.device_mesh, [module.Replicate()] * like.device_mesh.ndim, run_check=False)  # type: ignore[no-any-return]


def is_dtensor(x: Tensor | None) -> bool:
    """Whether it is a DTensor."""
    return isinstance(x, _dtensors().DTensor)


def _shards(x: Any, dim: int) -> bool:
    """Between several ranks."""
    return is_dtensor(x) and any(getattr(p, "dim", None) == dim and x.device_mesh.size(n) > 1 for n, p in enumerate(x.placements))


# ---- rules ---------------------------------------------------------------------------------------------------------------------------
@cache
def _register() -> None:
    from torch.distributed.tensor.experimental import register_sharding

    from ._attention import ops as attention
    from ._band import ops as band

    for op in (band.band_out, band.band_in, band.band_in_transposed, band.window_softmax, band.window_softmax_backward):
        register_sharding(op.full)(partial(_band_rule, op.tensors))
    register_sharding(attention.attention)(_attention_rule)
    register_sharding(attention.attention_backward)(_attention_backward_rule)


Rule = list[tuple[list[Any], list[Any]]]  # placements of results and of arguments, one pair for each way to take a dim of the mesh


def _band_rule(tensors: int, *args: Any) -> Rule:
    from torch.distributed.tensor import Replicate, Shard

    leading, dilation = len(args[0].shape) - 2, args[tensors + 2]
    dims = range(leading - (len(dilation) > 1))  # dim -3 stays whole if each of its entries has its own dilation
    return [([way], [way] * tensors + [None] * (len(args) - tensors)) for way in (Replicate(), *map(Shard, dims))]


def _attention_rule(*args: Any) -> Rule:
    tensors = args[: len(_FORWARD)]
    return [
        ([_place("q", way), _place("q", way)], [*_places(_FORWARD, tensors, way), *[None] * (len(args) - len(tensors))])
        for way in _ways(tensors, _FORWARD, tensors)
    ]


def _attention_backward_rule(*args: Any) -> Rule:
    tensors, wanted = args[: len(_BACKWARD)], args[-1]
    others = len(_BACKWARD) - len(_FORWARD)
    bias = tensors[others + _BIAS]
    kinds = ("q", "q", "q", "sinks" if bias is None or len(bias.shape) == 2 else "bias", "sinks")
    return [
        (
            [_place(kind if wanted >> n & 1 else "other", way, wanted >> n & 1) for n, kind in enumerate(kinds)],
            [*_places(_BACKWARD, tensors, way), *[None] * (len(args) - len(tensors))],
        )
        for way in _ways(tensors[others:], _BACKWARD[_OUT:], tensors[_OUT:])
    ]


_WHOLE, _BY_BATCH, _BY_HEADS = None, 0, 1


def _ways(tensors: Sequence[Any], kinds: Sequence[str], all_tensors: Sequence[Any]) -> list[int | None]:
    """Dropout draws by the place in the whole batch."""
    if tensors[_SEED] is not None:
        return [_WHOLE]
    return [_WHOLE, *[_BY_BATCH] * (tensors[_CU_Q] is None), *[_BY_HEADS] * _heads_divide(tensors, kinds, all_tensors)]


def _heads_divide(tensors: Sequence[Any], kinds: Sequence[str], all_tensors: Sequence[Any]) -> bool:
    """Whether each rank gets whole groups of heads, on whichever dims of the mesh PyTorch decides to have them: on any but those that
    hold the batch alone."""
    q, k = tensors[_Q], tensors[_K]
    if q.shape[1] == k.shape[1]:
        return True
    sizes = (q.mesh.size(n) for n in range(q.mesh.ndim) if not _is_by_batch(n, kinds, all_tensors))
    return bool(k.shape[1] % math.prod(sizes) == 0)


def _is_by_batch(mesh_dim: int, kinds: Sequence[str], tensors: Sequence[Any]) -> bool:
    expected = (
        (x.placements[mesh_dim], _place(_kind(kind, x), _BY_BATCH)) for kind, x in zip(kinds, tensors, strict=True) if x is not None
    )
    return all(placement == of_batch for placement, of_batch in expected)


def _kind(kind: str, x: Any) -> str:
    return "sinks" if kind == "bias" and len(x.shape) == 2 else kind  # (H, W)


def _heads_dim(kind: str, x: Tensor | None) -> int | None:
    return None if x is None else _DIMS[_kind(kind, x)][_BY_HEADS]


def _places(kinds: Sequence[str], tensors: Sequence[Any], way: int | None) -> list[Any]:
    return [None if x is None else _place(_kind(kind, x), way) for kind, x in zip(kinds, tensors, strict=True)]


def _place(kind: str, way: int | None, is_sum: bool | int = False) -> Any:
    """Of one tensor; `is_sum`: of its gradient, a sum over the batch where it has no batch dim."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    dim = None if way is None else _DIMS[kind][way]
    if dim is not None:
        return Shard(dim)
    return Partial() if is_sum and way == _BY_BATCH else Replicate()

# python/window_matmul/distributed/attention.py: `window_attention` of a sequence that is cut over ranks.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import attention as plain
from .._rotary import turn, turns
from ..attention import AnyWindow
from .agreement import Fields, Own, agree, is_alone
from .faults import Link
from .global_tokens import gathered
from .layout import Layout, Ranges
from .local import Call, attended
from .options import Arguments, as_arguments, describe, needs_numbers, own_of

Result = Tensor | tuple[Tensor, Tensor]


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: AnyWindow,
    *,
    group: Any,
    layout: Layout = Layout.contiguous,
    lengths: Sequence[int] | None = None,
    check: bool = True,
    **options: Any,
) -> Result:
    """`window_matmul.window_attention` of a whole sequence, of which each rank has a shard and computes that of the result.

    Only keys and values that are seen from elsewhere travel: of each rank the last `left` and the first `right`, in one message each way.
    Rows that see nothing from elsewhere are computed in the meantime, and likewise in backward.

    Args:
        q: (B, H, n_r, D), this rank's rows.
        k: (B, Hkv, m_r, D); as a rule m_r is n_r.
        v: (B, Hkv, m_r, Dv).
        window_size: as in `window_matmul.window_attention`, for the whole sequence. An unbounded side asks for all keys there are.
        group: a ProcessGroup, a DeviceMesh of one dim, or None for all processes. All its ranks need to call, and to run backward.
        layout: how the sequence is cut: `Layout.contiguous` or `Layout.zigzag`.
        lengths: of all chunks in the order of the sequence, P numbers, for zigzag 2P; 0 is allowed. By default each rank says how many
            rows it has, and in zigzag its two chunks are of one length.
        check: whether ranks first make sure that they mean the same call, by one all-gather of a few numbers. Without it ranks that do
            not may wait for each other until the group's timeout, or compute something else.
        options: those of `window_matmul.window_attention`. key_mask, a mask of global_tokens and a bias (B, H, n_r, W) are shards as k and
            q are; a bias (H, W), sinks, and numbers of batch entries are the same everywhere; query_offset and key_lengths count in the
            whole sequence. With dropout the seed is drawn by the group's first rank, and a weight is dropped by its place in the whole
            sequence: the result does not depend on how that is cut.

    Returns:
        (B, H, n_r, Dv), and with return_lse (B, H, n_r): this rank's rows of what one process would return. Differentiable once. Gradients
        of sinks and of a bias (H, W) are those of this rank's rows: their sum over the group is the whole.

    Raises:
        TypeError: an argument of a wrong type, or a tensor of a wrong dtype.
        ValueError: a wrong value or shape, or ranks that do not mean the same call: on all of them, naming rank, argument and values.
        RuntimeError: another rank refused its arguments, or was waited for in vain: dead, or late by more than the group's timeout.

    >>> import torch, torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> out = window_attention(q, k, v, (2, 2), group=None)  # of one process: the whole sequence
    >>> tuple(out.shape)
    (1, 2, 8, 4)
    >>> dist.destroy_process_group()

    Source: the exchange of halos as in domain decomposition; zigzag as in Megatron-LM and torch's context parallelism.
    """
    return attend(q, k, v, window_size, group, layout, lengths, check, options)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: AnyWindow,
    group: Any,
    layout: Layout,
    lengths: Sequence[int] | None,
    check: bool,
    options: dict[str, Any],
    rotary: float | None = None,
    seed: Tensor | None = None,
) -> Result:
    """With a base of rotary positions that turn q and k first; `seed` has been drawn for more ranks than those of the group."""
    link = Link(group, "window_attention")
    if is_alone(link, layout, lengths, check):
        if rotary is not None:
            q, k = (turned(x, rotary, ((0, x.shape[2]),)) for x in (q, k))
        return plain.window_attention(q, k, v, window_size, **options)  # type: ignore[no-any-return]
    given: list[Arguments] = []

    def describe_own() -> tuple[Fields, Own]:
        given.append(as_arguments(q, k, v, window_size, options, seed))
        return describe(given[0]) | {"rotary": str(rotary)}, own_of(given[0])

    of_queries, of_keys, owns = agree(link, layout, lengths, check, describe_own, gathers=needs_numbers(options))
    a = given[0]
    a.take_seed(owns[0].seed)
    if rotary is not None:
        a.q, a.k = turned(a.q, rotary, of_queries.chunks(link.rank)), turned(a.k, rotary, of_keys.chunks(link.rank))
    for at, length in enumerate(a.lengths):
        if length > of_keys.length:
            raise ValueError(f"key_lengths[{at}] is {length}; it needs to be at most {of_keys.length}, the number of keys on all ranks")
    found = gathered(link, a, of_keys, [x.globals for x in owns]) if a.has_globals else None
    out, lse = attended(a, [Call(link, a, of_queries, of_keys, found)])
    return (out, lse) if a.with_lse else out


def turned(x: Tensor, base: float, chunks: Ranges) -> Tensor:
    """Rows of these chunks, at their rotary positions."""
    parts = [turns(base, x.shape[-1], end - begin, begin, x) for begin, end in chunks]
    cos, sin = (torch.cat(angles) for angles in zip(*parts, strict=True))
    return turn(x, cos, sin)

# python/window_matmul/distributed/varlen.py: `window_attention_varlen`: packed sequences, some of which cross borders of ranks.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import attention as plain
from .._attention.arguments import as_bounds
from ..attention import AnyWindow
from .agreement import Fields, Own, agree, is_alone, listed
from .faults import Link
from .global_tokens import GlobalTokens, first_tokens, gathered
from .layout import Layout, Range, Shards, overlap, union, without
from .local import Call, Here, attended
from .options import Arguments, as_arguments, describe, needs_numbers, own_of
from .routes import index_of
from .steps import Step


def window_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    window_size: AnyWindow,
    *,
    group: Any,
    layout: Layout = Layout.contiguous,
    lengths: Sequence[int] | None = None,
    check: bool = True,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """`window_matmul.window_attention_varlen` of packed sequences, of which each rank has a shard: of all rows together.

    Sequences that lie on one rank are computed there, those that cross a border as by `window_attention`.

    Args:
        q: (n_r, H, D), this rank's rows.
        k: (m_r, Hkv, D); as a rule m_r is n_r.
        v: (m_r, Hkv, Dv).
        cu_seqlens_q: (number of sequences + 1,), int32 or int64: where sequences begin and end among the rows of all ranks; the same on
            all ranks.
        cu_seqlens_k: likewise.
        window_size, group, layout, lengths, check: as in `window_attention`.
        options: those of `window_matmul.window_attention_varlen`; key_mask, a mask of global_tokens and a bias (H, n_r, W) are shards.

    Returns:
        (n_r, H, Dv), and with return_lse (H, n_r): this rank's rows. Differentiable once.

    Raises:
        TypeError, ValueError, RuntimeError: as `window_attention`.
    """
    return attend_packed(q, k, v, cu_seqlens_q, cu_seqlens_k, window_size, group, layout, lengths, check, options)


def attend_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    window_size: AnyWindow,
    group: Any,
    layout: Layout,
    lengths: Sequence[int] | None,
    check: bool,
    options: dict[str, Any],
    seed: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`seed` has been drawn for more ranks than those of the group."""
    link = Link(group, "window_attention_varlen")
    if is_alone(link, layout, lengths, check):
        return plain.window_attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, window_size, **options)  # type: ignore[no-any-return]
    given: list[tuple[Arguments, list[int], list[int]]] = []

    def describe_own() -> tuple[Fields, Own]:
        a = as_arguments(q, k, v, window_size, options, seed, 3)
        cu_q, cu_k = _bounds("cu_seqlens_q", cu_seqlens_q, a.q), _bounds("cu_seqlens_k", cu_seqlens_k, a.q)
        if len(cu_q) != len(cu_k):
            raise ValueError(f"cu_seqlens_k is of length {len(cu_k)}; it needs to be as long as cu_seqlens_q, {len(cu_q)}")
        given.append((a, cu_q, cu_k))
        return describe(a) | {"cu_seqlens_q": listed(cu_q), "cu_seqlens_k": listed(cu_k)}, own_of(a)

    of_queries, of_keys, owns = agree(link, layout, lengths, check, describe_own, gathers=needs_numbers(options))
    a, cu_q, cu_k = given[0]
    for name, bounds, rows in (("cu_seqlens_q", cu_q, of_queries.length), ("cu_seqlens_k", cu_k, of_keys.length)):
        if bounds[-1] > rows:
            raise ValueError(f"{name} is a sequence to {bounds[-1]}; it needs to be one to at most the number of rows on all ranks, {rows}")
    a.take_seed(owns[0].seed)
    masks = gathered(link, a, of_keys, [x.globals for x in owns]) if a.global_mask is not None else None
    packed = _Packed(link, a, of_queries, of_keys, list(zip(pairwise(cu_q), pairwise(cu_k), strict=True)), masks)
    out, lse = attended(a, [*packed.cut, packed.here()])
    out = out.transpose(1, 2)[0]
    return (out, lse[0]) if a.with_lse else out


def _bounds(name: str, cu_seqlens: Tensor, q: Tensor) -> list[int]:
    values: list[int] = as_bounds(name, cu_seqlens, q).tolist()
    if values[0] < 0:
        raise ValueError(f"{name} is a sequence from {values[0]}; it needs to be one from 0 or later")
    for before, after in pairwise(values):
        if after < before:
            raise ValueError(f"{name} is {after} after {before}; it needs to be a sequence that never falls")
    return values


class _Local(NamedTuple):
    """A sequence of which this rank has everything: which one, and its local rows."""

    number: int
    queries: Range
    keys: Range


class _Packed:
    """One call: the sequences that ranks have to themselves in one step, each of the others as a call over ranks."""

    def __init__(
        self,
        link: Link,
        a: Arguments,
        of_queries: Shards,
        of_keys: Shards,
        sequences: list[tuple[Range, Range]],
        masks: GlobalTokens | None,
    ) -> None:
        self.link, self.a, self.of_queries, self.of_keys, self.masks = link, a, of_queries, of_keys, masks
        self.own: list[_Local] = []
        self.cut: list[Call] = []
        for number, (queries, keys) in enumerate(sequences):
            if queries[0] == queries[1]:
                continue
            owner = self._owner(queries, keys)
            if owner == link.rank:
                self.own.append(_Local(number, self._local(of_queries, queries), self._local(of_keys, keys)))
            elif owner is None:
                local, local_keys = self._local(of_queries, queries), self._local(of_keys, keys)
                if a.has_globals or local[0] < local[1] or local_keys[0] < local_keys[1]:
                    self.cut.append(self._call(number, queries, keys, local, local_keys))

    def _owner(self, queries: Range, keys: Range) -> int | None:
        """The rank that has all of it in neighbouring rows."""
        rank = self.of_queries.owner(queries[0])
        parts = ((self.of_queries, queries), (self.of_keys, keys))
        return rank if all(overlap(shards.runs(rank), (x,)) == (x,) or x[0] == x[1] for shards, x in parts) else None

    def _local(self, shards: Shards, rows: Range) -> Range:
        return shards.local(self.link.rank, rows[0]), shards.local(self.link.rank, rows[1])

    def _call(self, number: int, queries: Range, keys: Range, local: Range, local_keys: Range) -> Call:
        a, (at, size), (at_keys, num_keys) = self.a, (local[0], local[1] - local[0]), (local_keys[0], local_keys[1] - local_keys[0])
        part = replace(
            a,
            q=a.q.narrow(2, at, size),
            k=a.k.narrow(2, at_keys, num_keys),
            v=a.v.narrow(2, at_keys, num_keys),
            bias=a.bias if a.bias is None or a.bias.ndim == 2 else a.bias.narrow(2, at, size),
            key_mask=None if a.key_mask is None else a.key_mask.narrow(1, at_keys, num_keys),
            sequence=number,
        )
        found = None
        if self.masks is not None:
            found = self.masks.restricted(*keys)
        elif a.global_tokens > 0:
            found = first_tokens(a.global_tokens, keys[1] - keys[0], a.q.device)
        return Call(self.link, part, self.of_queries.restricted(*queries), self.of_keys.restricted(*keys), found, (at, at_keys))

    def here(self) -> Here:
        """What this rank has to itself: a step for neighbouring rows, also of no sequence."""
        size = self.a.q.shape[2]
        rest = without(((0, size),), union((call.at[0], call.at[0] + call.a.q.shape[2]) for call in self.cut), size)
        return Here([self._step(rows, [x for x in self.own if rows[0] <= x.queries[0] < rows[1]]) for rows in rest], self.a.k.shape[2])

    def _step(self, rows: Range, sequences: list[_Local]) -> Step:
        """Rows of no sequence are sequences without keys."""
        a, (start, end) = self.a, rows
        first, last = (sequences[0].keys[0], sequences[-1].keys[1]) if sequences else (0, 0)
        numbers, bounds = [], [(start, first)]
        for number, queries, keys in sequences:
            if (queries[0], keys[0]) != bounds[-1]:
                bounds += [(queries[0], bounds[-1][1]), (queries[0], keys[0])]
                numbers += [0, 0]
            bounds.append((queries[1], keys[1]))
            numbers.append(number)
        if bounds[-1][0] != end:
            bounds.append((end, last))
            numbers.append(0)
        cu_q, cu_k = (torch.tensor(cu, device=a.q.device) - cu[0] for cu in zip(*bounds, strict=True))
        masks = (None if x is None else x.narrow(1, first, last - first) for x in (a.key_mask, a.global_mask))
        others = (*masks, cu_q, cu_k, self._seed(numbers, bounds), None, None)
        return Step(rows, ((first, last),), others, (a.band(a.q), 0, a.global_tokens, a.reals))

    def _seed(self, numbers: list[int], bounds: list[tuple[int, int]]) -> Tensor | None:
        if self.a.seed is None:
            return None
        device = self.a.q.device
        places = [index_of(tuple((0, end[n] - begin[n]) for begin, end in pairwise(bounds)), device) for n in (0, 1)]
        return torch.cat([self.a.seed, torch.tensor(numbers, dtype=torch.int64, device=device), *places])

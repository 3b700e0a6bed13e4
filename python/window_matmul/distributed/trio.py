# python/window_matmul/distributed/trio.py: the explicit operators of a sequence that is cut over ranks, differentiable to any order.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import functional as plain
from .._band.arguments import as_band, as_count, as_fill, as_offset, as_operand, as_operands, check_heads
from ..functional import Dilation, WindowSize
from .agreement import Fields, Own, agree, is_alone
from .exchange import exchanged
from .faults import Link
from .halo import described, one_or_all
from .layout import Layout, plan_of
from .places import Reach, needs_of
from .routes import Rows, route_of


def window_matmul(
    q: Tensor,
    k: Tensor,
    window_size: WindowSize,
    *,
    group: Any,
    layout: Layout = Layout.contiguous,
    lengths: Sequence[int] | None = None,
    check: bool = True,
    dilation: Dilation = 1,
    fill: float = 0.0,
    query_offset: int | None = None,
) -> Tensor:
    """`window_matmul.window_matmul` of a whole sequence: this rank's queries with the keys of their windows, wherever these are.

    Args:
        q: (..., n_r, N), this rank's rows.
        k: (..., N, m_r), transposed as ever; as a rule m_r is n_r.
        group, layout, lengths, check: as in `window_matmul.distributed.window_attention`.
        window_size, dilation, fill, query_offset: as in `window_matmul.window_matmul`, for the whole sequence.

    Returns:
        (..., n_r, W), this rank's rows. Differentiable to any order, in reverse mode; all ranks need to run each backward.

    Raises:
        TypeError, ValueError, RuntimeError: as `window_matmul.distributed.window_attention`.
    """
    options: dict[str, Any] = {"dilation": dilation, "fill": fill}
    call = _Call("window_matmul", group, layout, lengths, check)
    if call.alone:
        return plain.window_matmul(q, k, window_size, query_offset=query_offset, **options)

    def describe() -> Fields:
        check_heads(dilation, "q", as_operands("q", q, "k", k)[0])
        if q.shape[-1] != k.shape[-2]:
            raise ValueError(f"k is {tuple(k.shape)} beside q of {tuple(q.shape)}; its dim -2 needs to be q's dim -1, {q.shape[-1]}")
        as_fill(fill)
        return {"fill": str(float(fill))}

    call.agree(describe, window_size, dilation, query_offset, q=(q, -2), k=(k, -1))
    return call.of_windows(q, k.mT, lambda part, keys, at: plain.window_matmul(part, keys.mT, window_size, query_offset=at, **options))


def unwindow_matmul(
    a: Tensor,
    v: Tensor,
    window_size: WindowSize,
    *,
    group: Any,
    layout: Layout = Layout.contiguous,
    lengths: Sequence[int] | None = None,
    check: bool = True,
    dilation: Dilation = 1,
    query_offset: int | None = None,
) -> Tensor:
    """`window_matmul.unwindow_matmul` of a whole sequence: this rank's rows, summed over values wherever these are.

    Args:
        a: (..., n_r, W), this rank's rows.
        v: (..., m_r, N); as a rule m_r is n_r.
        group, layout, lengths, check: as in `window_matmul.distributed.window_attention`.
        window_size, dilation, query_offset: as in `window_matmul.unwindow_matmul`, for the whole sequence.

    Returns:
        (..., n_r, N), this rank's rows. Differentiable to any order, in reverse mode; all ranks need to run each backward.

    Raises:
        TypeError, ValueError, RuntimeError: as `window_matmul.distributed.window_attention`.
    """
    call = _Call("unwindow_matmul", group, layout, lengths, check)
    if call.alone:
        return plain.unwindow_matmul(a, v, window_size, dilation=dilation, query_offset=query_offset)

    def describe() -> Fields:
        check_heads(dilation, "a", as_operands("a", a, "v", v)[0])
        _check_width(a, window_size, dilation)
        return {}

    call.agree(describe, window_size, dilation, query_offset, a=(a, -2), v=(v, -2))
    return call.of_windows(
        a, v, lambda part, values, at: plain.unwindow_matmul(part, values, window_size, dilation=dilation, query_offset=at)
    )


def window_softmax(
    a: Tensor,
    window_size: WindowSize,
    *,
    group: Any,
    layout: Layout = Layout.contiguous,
    lengths: Sequence[int] | None = None,
    check: bool = True,
    dilation: Dilation = 1,
    num_keys: int | None = None,
    query_offset: int | None = None,
) -> Tensor:
    """`window_matmul.window_softmax` of a whole sequence: this rank's rows. Nothing travels but the lengths.

    Args:
        a: (..., n_r, W), this rank's rows.
        group, layout, lengths, check: as in `window_matmul.distributed.window_attention`.
        window_size, dilation, query_offset: as in `window_matmul.window_softmax`, for the whole sequence.
        num_keys: Lk of the whole sequence; by default the number of all rows.

    Returns:
        (..., n_r, W), this rank's rows. Differentiable to any order.

    Raises:
        TypeError, ValueError, RuntimeError: as `window_matmul.distributed.window_attention`.
    """
    call = _Call("window_softmax", group, layout, lengths, check)
    if call.alone:
        return plain.window_softmax(a, window_size, dilation=dilation, num_keys=num_keys, query_offset=query_offset)

    def describe() -> Fields:
        check_heads(dilation, "a", as_operand("a", a))
        _check_width(a, window_size, dilation)
        return {"num_keys": str(None if num_keys is None else as_count("num_keys", num_keys))}

    call.agree(describe, window_size, dilation, query_offset, a=(a, -2))
    keys = call.length if num_keys is None else as_count("num_keys", num_keys)
    shift = keys - call.length if query_offset is None else as_offset(query_offset)
    return call.of_rows(
        a, lambda part, begin: plain.window_softmax(part, window_size, dilation=dilation, num_keys=keys, query_offset=shift + begin)
    )


def _check_width(a: Tensor, window_size: WindowSize, dilation: Dilation) -> None:
    left, right, _ = as_band(window_size, dilation)
    if a.shape[-1] != left + 1 + right:
        raise ValueError(f"a is {tuple(a.shape)}; its dim -1 needs to be left + 1 + right = {left + 1 + right}")


class _Call:
    """What the three have in common."""

    def __init__(self, name: str, group: Any, layout: Layout, lengths: Sequence[int] | None, check: bool) -> None:
        self.link, self._cut = Link(group, name), (layout, lengths, check)

    @property
    def alone(self) -> bool:
        return is_alone(self.link, *self._cut)

    @property
    def length(self) -> int:
        """Of the whole sequence."""
        return self.of_queries.length

    def agree(
        self,
        describe: Callable[[], Fields],
        window_size: WindowSize,
        dilation: Dilation,
        query_offset: int | None,
        **tensors: tuple[Tensor, int],
    ) -> None:
        """The tensors that are cut, each with the dim of its rows: first that of the queries."""
        names = [*tensors]

        def describe_all() -> tuple[Fields, Own]:
            left, right, taps = as_band(window_size, dilation)
            fields = {"window_size": f"({left}, {right})", "dilation": one_or_all(taps)} | describe()
            for name, (x, dim) in tensors.items():
                fields |= described(name, x, dim)
            fields["query_offset"] = str(None if query_offset is None else as_offset(query_offset))
            rows = [x.shape[dim] for x, dim in tensors.values()]
            return fields, Own(rows[0], rows[-1])

        self.of_queries, self.of_keys, _ = agree(self.link, *self._cut, describe_all, (names[0], names[-1]))
        self.shift = self.of_keys.length - self.length if query_offset is None else as_offset(query_offset)
        left, right, taps = as_band(window_size, dilation)
        reach = max(taps, default=1)
        self.reach = Reach(self.shift - left * reach, self.shift + right * reach, self.of_keys.length)

    def of_windows(self, x: Tensor, y: Tensor, f: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
        """f(rows of x, the rows of y that their windows hold, the place of the key aligned with the first among these)."""
        rank, dim = self.link.rank, y.ndim - 2
        plan = plan_of(self.of_keys, needs_of(self.reach, self.of_queries), rank)
        (own,), pieces = exchanged(route_of(self.link, plan, [y], [dim]), [y])
        rows = Rows(dim, own, self.of_keys.runs(rank))
        rows.add(plan, [piece for (piece,) in pieces])

        def of_run(part: Tensor, begin: int) -> Tensor:
            keys = self.reach.of((begin, begin + part.shape[-2]))
            return f(part, rows.take((keys,)), self.shift + begin - keys[0])

        return self.of_rows(x, of_run)

    def of_rows(self, x: Tensor, f: Callable[[Tensor, int], Tensor]) -> Tensor:
        """f(rows of x, the place of the first) for all runs of this rank."""
        runs = self.of_queries.runs(self.link.rank) or ((0, 0),)
        parts = [f(part, begin) for part, (begin, _) in zip(x.split([end - begin for begin, end in runs], -2), runs, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -2)

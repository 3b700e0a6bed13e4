# python/window_matmul/hf/_places.py: which keys a mask function of transformers lets a query see, found by evaluating it once.
"""transformers describes a pattern as a function of indices, `mask_function(batch, head, query, key) -> bool`, put together of closures.

It is called here with places instead of indices: objects that know only how a number depends on the query and the key. A comparison of two
places is then an interval of distances key - query, and `&` and `|` of these are intervals again. So one call tells the pattern of all
pairs: what it says holds for any length, and nothing is believed for its name. Tensors looked up at a place (the numbers of packed
sequences, their positions) stay symbols, whose values are checked afterwards. What places cannot say is unknown: never wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FAR = 1 << 60  # beyond any distance


class Seen:
    """Query q sees key k only where first <= k - q <= last, and if `exact` wherever that holds.

    With `segments`, only where these are equal at q and k. With `positions`, k - q is the difference of these at k and q.
    """

    def __init__(
        self, first: int = -FAR, last: int = FAR, exact: bool = True, segments: Tensor | None = None, positions: Tensor | None = None
    ) -> None:
        self.first, self.last, self.exact, self.segments, self.positions = first, last, exact, segments, positions

    def __and__(self, other: Any) -> Seen:
        seen = as_seen(other)
        segments, one = _same(self.segments, seen.segments)
        positions, another = _same(self.positions, seen.positions)
        exact = self.exact and seen.exact and one and another
        return Seen(max(self.first, seen.first), min(self.last, seen.last), exact, segments, positions)

    def __or__(self, other: Any) -> Seen:
        seen = as_seen(other)
        if self.first > self.last:
            return seen
        if seen.first > seen.last:
            return self
        if self.has_tables or seen.has_tables:
            return unknown()
        touch = max(self.first, seen.first) <= min(self.last, seen.last) + 1
        return Seen(min(self.first, seen.first), max(self.last, seen.last), self.exact and seen.exact and touch)

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Seen:
        return unknown()

    def __bool__(self) -> bool:
        raise TypeError("a pattern of places has no truth value")

    def to(self, *_: Any, **__: Any) -> Seen:
        return self

    @property
    def has_tables(self) -> bool:
        return self.segments is not None or self.positions is not None

    @property
    def device(self) -> None:
        return None


def unknown() -> Seen:
    return Seen(exact=False)


def as_seen(value: Any) -> Seen:
    if isinstance(value, Seen):
        return value
    if value is True:
        return Seen()
    return Seen(1, 0) if value is False else unknown()


def _same(a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, bool]:
    """The table of both, and whether there is one at most."""
    return (b, True) if a is None else (a, b is None or a is b)


class Place:
    """query * q + key * k + constant, or that of what `table` holds there; any other number is `OTHER`."""

    def __init__(self, q: int, k: int, constant: int = 0, table: Tensor | None = None, is_distance: bool = False) -> None:
        self.q, self.k, self.constant, self.table, self.is_distance = q, k, constant, table, is_distance

    def _plus(self, other: Any, sign: int) -> Place:
        if self is OTHER or self.is_distance:
            return OTHER
        if type(other) is int:
            return Place(self.q, self.k, self.constant + sign * other, self.table)
        if isinstance(other, Place) and other is not OTHER and not other.is_distance and other.table is self.table:
            return Place(self.q + sign * other.q, self.k + sign * other.k, self.constant + sign * other.constant, self.table)
        return OTHER

    def __add__(self, other: Any) -> Place:
        return self._plus(other, 1)

    def __sub__(self, other: Any) -> Place:
        return self._plus(other, -1)

    __radd__ = __add__

    def __rsub__(self, other: Any) -> Place:
        return (-self)._plus(other, 1)

    def __neg__(self) -> Place:
        return OTHER if self is OTHER or self.is_distance else Place(-self.q, -self.k, -self.constant, self.table)

    def __abs__(self) -> Place:
        return Place(self.q, self.k, self.constant, self.table, True) if self.q + self.k == 0 and abs(self.q) == 1 else OTHER

    def _other(self, *_: Any, **__: Any) -> Place:
        return OTHER

    __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __truediv__ = __rtruediv__ = __getitem__ = _other

    # ---- comparisons --------------------------------------------------------------------------------------------------------------------
    def __ge__(self, other: Any) -> Seen:
        return _at_least(self, other, 0)

    def __gt__(self, other: Any) -> Seen:
        return _at_least(self, other, 1)

    def __le__(self, other: Any) -> Seen:
        return _at_most(self, other, 0)

    def __lt__(self, other: Any) -> Seen:
        return _at_most(self, other, 1)

    def __eq__(self, other: Any) -> Seen:  # type: ignore[override]
        if isinstance(other, Place) and self.table is not None and other.table is self.table and _are_query_and_key(self, other):
            return Seen(segments=self.table)
        return _at_least(self, other, 0) & _at_most(self, other, 0)

    def __ne__(self, other: Any) -> Seen:  # type: ignore[override]
        return unknown()

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("a place has no truth value")

    def to(self, *_: Any, **__: Any) -> Place:
        return self

    @property
    def device(self) -> None:
        return None

    def new_ones(self, *_: Any, **__: Any) -> Seen:
        return Seen()

    def new_zeros(self, *_: Any, **__: Any) -> Seen:
        return Seen(1, 0)


OTHER = Place(0, 0)
_QUERY, _KEY = Place(1, 0), Place(0, 1)


def _are_query_and_key(a: Place, b: Place) -> bool:
    pairs = ((a.q, a.k, a.constant), (b.q, b.k, b.constant))
    return pairs == ((1, 0, 0), (0, 1, 0)) or pairs == ((0, 1, 0), (1, 0, 0))


def _at_least(a: Place, b: Any, more: int) -> Seen:
    """a - b >= more."""
    if a.is_distance:
        return unknown()
    if isinstance(b, Place) and b.is_distance:
        return _at_most(b, a, more)
    rest = a - b
    bound = more - rest.constant
    if rest is OTHER:
        return unknown()
    if (rest.q, rest.k) == (-1, 1):
        return Seen(bound, FAR, positions=rest.table)
    if (rest.q, rest.k) == (1, -1):
        return Seen(-FAR, -bound, positions=rest.table)
    if rest.q >= 0 and rest.k >= 0 and bound <= 0 and rest.table is None:  # indices are at least 0
        return Seen()
    return unknown()


def _at_most(a: Place, b: Any, less: int) -> Seen:
    """b - a >= less, where a may be a distance |k - q + c|."""
    if not a.is_distance:
        return _at_least(-a, -b, less) if isinstance(b, int | Place) else unknown()
    if type(b) is not int:
        return unknown()
    reach, middle = b - less, a.constant * a.q  # |q - k + c| = |k - q - c|
    return Seen(middle - reach, middle + reach, positions=a.table)


class _Lookups(TorchFunctionMode):
    """tensor[batch, place] is a symbol; everything else is done."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__getitem__:
            return func(*args, **(kwargs or {}))
        table, index = args
        if type(index) is tuple and len(index) == 2 and type(index[1]) is Place and table.ndim == 2:
            place = index[1]
            if index[0] is OTHER and place is not OTHER and place.table is None and not place.is_distance:
                return Place(place.q, place.k, 0, table) if place.constant == 0 else OTHER
            return OTHER
        if type(index) is Place or (type(index) is tuple and any(type(x) is Place for x in index)):
            return OTHER
        return func(*args, **(kwargs or {}))


def seen_by(mask_function: Callable[..., Any]) -> Seen:
    """What a mask function lets through; unknown where it does what places do not know."""
    if torch.compiler.is_compiling():
        with _Lookups():
            return as_seen(mask_function(OTHER, OTHER, _QUERY, _KEY))
    try:
        with _Lookups():
            return as_seen(mask_function(OTHER, OTHER, _QUERY, _KEY))
    except Exception:  # it is somebody else's function, and need not take anything but tensors
        return unknown()

# python/window_matmul/_arguments.py: the arguments that are no tensors, and shapes, checked: for every door, with torch or without.
"""Each check returns what the operators take, or says precisely what is wrong: TypeError for a type, ValueError for a value or shape."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Protocol, TypeAlias

from ._integers import as_int, as_positive, as_side
from .window import Window

MAX_DIMS = 16
_MAX_SIDE = 1 << 59  # left + 1 + right stays within 2**60, what the library takes
_MAX_DISTANCE = 1 << 60
UNBOUNDED = 1 << 60  # a side that reaches beyond every sequence
COUNT = "an int of at least 0, or None"

Shape = Sequence[int]

# As users write them: of bands, of fused attention, whose sides may be unbounded, and the distance of taps.
WindowSize: TypeAlias = int | tuple[int, int] | Window
AnyWindow: TypeAlias = WindowSize | tuple[int | None, int | None] | None
Dilation: TypeAlias = int | tuple[int, ...] | list[int]


class Shaped(Protocol):
    @property
    def ndim(self) -> int: ...
    @property
    def shape(self) -> Shape: ...


# ---- window_size, dilation ----------------------------------------------------------------------------------------------------------
def as_band(window_size: object, dilation: object) -> tuple[int, int, tuple[int, ...]]:
    """left, right, and the dilation: () for 1, one int, or one for each entry of dim -3."""
    left = right = None
    if type(window_size) is int:
        left = right = window_size
    elif type(window_size) is tuple and len(window_size) == 2:
        left, right = window_size
    elif type(window_size) is Window and window_size.dilation == 1:
        left, right = window_size.left, window_size.right
    if (
        type(left) is int
        and type(right) is int
        and 0 <= left < _MAX_SIDE
        and 0 <= right < _MAX_SIDE
        and type(dilation) is int
        and dilation == 1
    ):
        return left, right, ()
    return _as_any_band(window_size, dilation)


def _as_any_band(window_size: object, dilation: object) -> tuple[int, int, tuple[int, ...]]:
    left, right = _sides(window_size)
    if left is None or right is None or left >= _MAX_SIDE or right >= _MAX_SIDE:
        raise ValueError(
            f"window_size is {window_size!r}; each side needs to be bounded, and below 2**59: a band is stored in left + 1 + right columns"
        )
    return left, right, as_dilation(window_size, dilation, "entry of dim -3")


def as_window(window_size: object, dilation: object) -> tuple[int, int, tuple[int, ...]]:
    """As `as_band`, for fused attention: a side may be UNBOUNDED, and the dilation is one for each head."""
    if type(dilation) is int and dilation == 1:
        left, right = window_size if type(window_size) is tuple and len(window_size) == 2 else (window_size, window_size)
        if type(left) is int and type(right) is int and 0 <= left < _MAX_SIDE and 0 <= right < _MAX_SIDE:
            return left, right, ()
    left, right = (UNBOUNDED if side is None or side >= _MAX_SIDE else side for side in _sides(window_size))
    return left, right, as_dilation(window_size, dilation, "head")


def _sides(window_size: object) -> tuple[int | None, int | None]:
    need = "an int of at least 0, a pair (left, right) of such, or a Window"
    if isinstance(window_size, Window):
        return window_size.left, window_size.right
    if isinstance(window_size, tuple | list):
        if len(window_size) != 2:
            raise ValueError(f"window_size is {window_size!r}; it needs to be {need}")
        return as_side("window_size[0]", window_size[0]), as_side("window_size[1]", window_size[1])
    if window_size is None:
        return None, None
    side = as_int("window_size", window_size, need)
    if side < 0:
        raise ValueError(f"window_size is {side}; it needs to be {need}")
    return side, side


def to_window(window_size: object) -> Window:
    """The same as a Window."""
    return window_size if isinstance(window_size, Window) else Window(*_sides(window_size))


def as_dilation(window_size: object, dilation: object, each: str) -> tuple[int, ...]:
    """The dilation, which a Window brings along: () for 1, one int, or one for `each`."""
    taps = _taps(dilation, each)
    if isinstance(window_size, Window) and any(tap != window_size.dilation for tap in taps):
        if taps != (1,) or isinstance(dilation, tuple | list):
            raise ValueError(f"dilation is {dilation!r} beside {window_size!r}; it needs to be the same, or left away")
        taps = (window_size.dilation,)
    if max(taps) > _MAX_DISTANCE:
        raise ValueError(f"dilation is {max(taps)}; it needs to be at most 2**60")
    return () if taps == (1,) else taps


def _taps(dilation: object, each: str) -> tuple[int, ...]:
    if not isinstance(dilation, tuple | list):
        return (as_positive("dilation", dilation, f"an int of at least 1, or a tuple or list of one for each {each}"),)
    if not dilation:
        raise ValueError(f"dilation is {dilation!r}; it needs an int for each {each}")
    return tuple(as_positive(f"dilation[{head}]", tap) for head, tap in enumerate(dilation))


def check_heads(dilation: object, name: str, x: Shaped) -> None:
    """A dilation for each head needs the heads: dim -3, after broadcasting."""
    if isinstance(dilation, tuple | list) and (x.ndim < 3 or x.shape[-3] != len(dilation)):
        raise ValueError(
            f"dilation is {dilation!r}; it needs an int for each entry of dim -3 of {name}, which is {tuple(x.shape)} after broadcasting"
        )


# ---- numbers ------------------------------------------------------------------------------------------------------------------------
def as_offset(query_offset: object, need: str = "an int or None") -> int:
    offset = as_int("query_offset", query_offset, need)
    if abs(offset) > _MAX_DISTANCE:
        raise ValueError(f"query_offset is {offset}; it needs to be from -2**60 to 2**60")
    return offset


def as_count(name: str, value: object, need: str = COUNT, at_most: int | None = None) -> int:
    """A number from 0 to 2**60; of one beyond `at_most`, that."""
    number = as_int(name, value, need)
    if number < 0 or (number > _MAX_DISTANCE and at_most is None):
        raise ValueError(f"{name} is {number}; it needs to be " + ("from 0 to 2**60" if at_most is None else need))
    return number if at_most is None else min(number, at_most)


def as_fill(fill: object) -> tuple[float, ...]:
    """Nothing for 0.0, which is the operator's own default."""
    if type(fill) is float and fill == 0.0 and math.copysign(1.0, fill) == 1.0:
        return ()
    if isinstance(fill, bool) or not isinstance(fill, Real):
        raise TypeError(f"fill is {fill!r} ({type(fill).__name__}); it needs to be a float")
    try:
        value = float(fill)
    except OverflowError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"fill is {fill!r}; it needs to be a float other than NaN, infinities included")
    return (value,)


def as_reals(scale: object, softcap: object, dropout_p: object, dim: int) -> tuple[float, ...]:
    """softcap, dropout_p, and the scale unless it is the default."""
    if scale is None and dim == 0:
        raise ValueError("scale is None where the head dim of q and k is 0; it needs to be a number: 1 / sqrt(0) is none")
    if type(softcap) is type(dropout_p) is float and softcap == dropout_p == 0.0 and scale is None:
        return 0.0, 0.0
    cap = as_real("softcap", softcap, "a finite number of at least 0")
    if not 0 <= cap < math.inf:
        raise ValueError(f"softcap is {softcap!r}; it needs to be a finite number of at least 0")
    p = as_probability("dropout_p", dropout_p)
    factor = as_factor("scale", scale)
    return (cap, p) if factor is None else (cap, p, factor)


def as_factor(name: str, value: object) -> float | None:
    """Of the scores; None is the default."""
    if value is None:
        return None
    factor = as_real(name, value, "a finite number or None")
    if not -math.inf < factor < math.inf:
        raise ValueError(f"{name} is {value!r}; it needs to be a finite number or None")
    return factor


def as_probability(name: str, value: object) -> float:
    p = as_real(name, value, "a number from 0 to 1")
    if not 0 <= p <= 1:
        raise ValueError(f"{name} is {value!r}; it needs to be a number from 0 to 1")
    return p


def as_real(name: str, value: object, need: str) -> float:
    if type(value) is float:
        return value
    if type(value).__name__ == "SymFloat":  # torch's, of a graph that is traced
        return value  # type: ignore[return-value]
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it needs to be {need}")
    try:
        return float(value)
    except OverflowError:
        return math.nan


# ---- shapes of fused attention: (B, H, L, n), or (L, H, n) where sequences are packed ---------------------------------------------------
_LAYOUTS = {4: ("(B, H, Lq, D)", "(B, Hkv, Lk, D)", "(B, Hkv, Lk, Dv)"), 3: ("(total_q, H, D)", "(total_k, Hkv, D)", "(total_k, Hkv, Dv)")}


def check_operands(q: Shape, k: Shape, v: Shape, dims: int) -> None:
    fits = (
        len(q) == len(k) == len(v) == dims
        and q[-1] == k[-1]
        and k[:-1] == v[:-1]
        and (dims == 3 or q[0] == k[0])
        and (q[1] == k[1] or (k[1] != 0 and q[1] % k[1] == 0))
    )
    if not fits:
        raise _wrong_shapes(tuple(q), tuple(k), tuple(v), dims)


def _wrong_shapes(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], dims: int) -> ValueError:
    for name, shape, layout in zip("qkv", (q, k, v), _LAYOUTS[dims], strict=True):
        if len(shape) != dims:
            return ValueError(f"{name} is {shape}; it needs to be {layout}")
    if dims == 4 and k[0] != q[0]:
        return ValueError(f"k is {k} beside q of {q}; its dim 0 needs to be q's, {q[0]}")
    if k[-1] != q[-1]:
        return ValueError(f"k is {k} beside q of {q}; its dim -1 needs to be q's, {q[-1]}")
    if k[:-1] != v[:-1]:
        return ValueError(f"v is {v} beside k of {k}; all dims but the last need to be equal")
    return ValueError(f"k is {k} beside q of {q}; its number of heads, dim 1, needs to divide q's, {q[1]}")


def check_heads_of(dilation: object, q: Shaped) -> None:
    if isinstance(dilation, tuple | list) and q.shape[1] != len(dilation):
        raise ValueError(f"dilation is {dilation!r}; it needs an int for each of the {q.shape[1]} heads of q, which is {tuple(q.shape)}")


def check_bias(bias: Shape, q: Shape, sides: tuple[int, int]) -> None:
    if UNBOUNDED in sides:
        raise ValueError(f"bias is {tuple(bias)}, a number for each slot; it needs a window_size with both sides bounded")
    width, heads, packed = sides[0] + 1 + sides[1], q[1], len(q) == 3
    shapes = [(heads, width), (heads, q[0], width) if packed else (*q[:-1], width)]
    if not any(bias == shape for shape in shapes):  # `in` is wrong in torch.compile's graphs where sides are symbols
        full = "(H, total_q, W)" if packed else "(B, H, Lq, W)"
        raise ValueError(f"bias is {tuple(bias)}; it needs to be (H, W) or {full}, here {shapes[0]} or {shapes[1]}")


def check_sinks(sinks: Shape, q: Shape) -> None:
    if tuple(sinks) != (q[1],):
        raise ValueError(f"sinks is {tuple(sinks)}; it needs to be (H,), here ({q[1]},)")


def check_mask(name: str, mask: Shape, need: tuple[int, ...]) -> None:
    if tuple(mask) != need:
        raise ValueError(f"{name} is {tuple(mask)}; it needs to be {'(B, Lk)' if len(need) == 2 else '(total_k,)'}, here {need}")


def check_entries(name: str, numbers: Shape, q: Shape) -> None:
    if tuple(numbers) != (q[0],):
        raise ValueError(f"{name} is {tuple(numbers)}; it needs to be (B,), here ({q[0]},)")

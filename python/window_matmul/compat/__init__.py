# python/window_matmul/compat/__init__.py: what the doors share: the warning about an exact dense way, and the mode in which there is none.
"""Doors for users of other libraries, a module each. A door maps another library's conventions onto the operators. What the operators
cannot say takes an exact dense way, with a `WindowFallbackWarning`, or is an error."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["WindowFallbackWarning", "strict"]

_is_strict: ContextVar[bool] = ContextVar("window_matmul_strict", default=False)
_said: set[str] = set()


class WindowFallbackWarning(UserWarning):
    """A call computes attention the dense way: exact, but in time and memory that grow with the square of the length. Once a reason."""


@contextmanager
def strict() -> Iterator[None]:
    """Inside this context a call that would take a dense way raises `RuntimeError` with the reason."""
    token = _is_strict.set(True)
    try:
        yield
    finally:
        _is_strict.reset(token)


def fall_back(reason: str) -> None:
    """Called by a door before it takes a dense way; `reason` says which call takes it, and why."""
    if _is_strict.get():
        raise RuntimeError(f"{reason}; inside window_matmul.compat.strict() nothing is computed the dense way")
    if reason not in _said:
        _said.add(reason)
        warnings.warn(reason, WindowFallbackWarning, stacklevel=3)


# torch.compiler.assume_constant_result, without importing its compiler: a graph says it, or is refused, when it is traced.
fall_back._dynamo_marked_constant = True  # type: ignore[attr-defined]

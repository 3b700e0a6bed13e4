# python/window_matmul/_integers.py: ints, the sides of windows, and flags, as arguments.
"""Each returns the value as a plain int, None or bool, or says what is wrong: TypeError for a type, ValueError for a value."""

import operator


def as_int(name: str, value: object, need: str = "an int") -> int:
    """An int from whatever is one (numpy's too, but no bool), else TypeError."""
    if type(value) is int:
        return value
    try:
        is_number = not isinstance(value, bool) and str(getattr(value, "dtype", "")) != "torch.bool"
        if is_number and str(getattr(value, "device", "")) != "meta":  # which has no value
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it needs to be {need}")


def as_side(name: str, value: object) -> int | None:
    """How far a window reaches on one side: None and -1 mean unbounded."""
    if value is None:
        return None
    need = "an int of at least 0, or None or -1 for unbounded"
    side = as_int(name, value, need)
    if side < -1:
        raise ValueError(f"{name} is {side}; it needs to be {need}")
    return None if side == -1 else side


def as_positive(name: str, value: object, need: str = "an int of at least 1") -> int:
    number = as_int(name, value, need)
    if number < 1:
        raise ValueError(f"{name} is {number}; it needs to be {need}")
    return number


def as_count_of_keys(name: str, value: object) -> int:
    """A peer's side that has no sign for unbounded."""
    need = "an int of at least 0"
    number = as_int(name, value, need)
    if number < 0:
        raise ValueError(f"{name} is {number}; it needs to be {need}")
    return number


def as_peer_size(name: str, value: object) -> int | None:
    """A peer's window size: at least 1; None and -1 mean unbounded."""
    need = "an int of at least 1, or None or -1 for unbounded"
    unbounded = value is None or as_int(name, value, need) == -1
    return None if unbounded else as_positive(name, value, need)


def as_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it needs to be True or False")
    return value

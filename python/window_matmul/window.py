# python/window_matmul/window.py: `Window`, which keys a query sees, and the windows of other projects translated into it.
"""A window says how many keys before and after the aligned key are seen. The aligned key itself always is."""

import operator
from dataclasses import dataclass
from typing import Any, NoReturn


def as_int(name: str, value: object, need: str = "an int") -> int:
    """An int from whatever is one (numpy's too, but no bool), else TypeError."""
    if type(value) is int:
        return value
    try:
        if not isinstance(value, bool) and str(getattr(value, "dtype", "")) != "torch.bool":
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


def _peer_size(name: str, value: object) -> int | None:
    """A peer's window size: at least 1; None and -1 mean unbounded."""
    need = "an int of at least 1, or None or -1 for unbounded"
    unbounded = value is None or as_int(name, value, need) == -1
    return None if unbounded else as_positive(name, value, need)


@dataclass(frozen=True)
class Window:
    """Which keys a query sees: `left` before the aligned key, the aligned key itself, and `right` after it.

    Args:
        left: keys before the aligned one; None or -1 for all of them.
        right: keys after the aligned one; None or -1 for all of them. 0 is causal.
        dilation: distance of neighbouring taps. It counts taps, not tokens: (2, 2) with dilation 3 sees offsets -6, -3, 0, 3, 6.

    Raises:
        TypeError: an argument is no int (a bool is none).
        ValueError: a side below -1, or a dilation below 1.

    >>> Window(2, -1)
    Window(left=2, right=None, dilation=1)
    >>> Window(128, 0).width
    129
    >>> [j for j in range(10) if Window(1, 1, dilation=2).contains(4, j)]
    [2, 4, 6]
    """

    left: int | None
    right: int | None
    dilation: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "left", as_side("left", self.left))
        object.__setattr__(self, "right", as_side("right", self.right))
        object.__setattr__(self, "dilation", as_positive("dilation", self.dilation))

    @property
    def width(self) -> int | None:
        """The columns of band storage, left + 1 + right; None where a side is unbounded."""
        return None if self.left is None or self.right is None else self.left + 1 + self.right

    def contains(self, i: int, j: int, shift: int = 0) -> bool:
        """Whether query i, aligned with key i + shift, sees key j (if there is a key j: a window knows no lengths)."""
        taps, between = divmod(as_int("j", j) - as_int("i", i) - as_int("shift", shift), self.dilation)
        return between == 0 and (self.left is None or -taps <= self.left) and (self.right is None or taps <= self.right)

    # ---- the conventions of others; None or -1 as a peer's window means unbounded -------------------------------------------------
    @classmethod
    def from_hf_causal(cls, sliding_window: int | None) -> "Window":
        """Hugging Face's causal `sliding_window`: that many keys, the query's own included.

        >>> Window.from_hf_causal(4096)
        Window(left=4095, right=0, dilation=1)

        Source: sliding_window_overlay in transformers/masking_utils.py: key > query - sliding_window.
        """
        size = _peer_size("sliding_window", sliding_window)
        return cls(None if size is None else size - 1, 0)

    @classmethod
    def from_hf_bidirectional(cls, sliding_window: int | None) -> "Window":
        """The `sliding_window` that Hugging Face's two-sided models pass to the attention function (ModernBERT: 65 for 64 on each side).

        >>> Window.from_hf_bidirectional(65)
        Window(left=64, right=64, dilation=1)

        What its mask functions (create_bidirectional_sliding_window_mask) take is one less.

        Source: transformers/models/modernbert/modeling_modernbert.py; flash-attention is called with that number less 1 on each side.
        """
        size = _peer_size("sliding_window", sliding_window)
        return cls(None, None) if size is None else cls(size - 1, size - 1)

    @classmethod
    def from_hf_longformer(cls, attention_window: int | None) -> "Window":
        """Hugging Face Longformer's `attention_window` of one layer: both sides together, an even number.

        >>> Window.from_hf_longformer(512)
        Window(left=256, right=256, dilation=1)

        Source: LongformerSelfAttention in transformers/models/longformer/modeling_longformer.py.
        """
        size = _peer_size("attention_window", attention_window)
        if size is None:
            return cls(None, None)
        if size % 2 != 0:
            raise ValueError(f"attention_window is {size}; it needs to be even: half of it lies on each side")
        return cls(size // 2, size // 2)

    @classmethod
    def from_allenai_longformer(cls, attention_window: int | None, *, dilation: int = 1, autoregressive: bool = False) -> "Window":
        """AllenAI Longformer's `attention_window` of one layer: one side.

        >>> Window.from_allenai_longformer(256, dilation=2, autoregressive=True)
        Window(left=256, right=0, dilation=2)

        Source: LongformerConfig in github.com/allenai/longformer, longformer/longformer.py.
        """
        side = as_side("attention_window", attention_window)
        return cls(side, 0 if _flag("autoregressive", autoregressive) else side, dilation)

    @classmethod
    def from_flash_attn(cls, window_size: tuple[int | None, int | None], *, causal: bool = False) -> "Window":
        """flash-attention's `window_size=(left, right)` beside its `causal`.

        >>> Window.from_flash_attn((128, -1), causal=True)
        Window(left=128, right=0, dilation=1)

        Source: flash_attn_func in github.com/Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py.
        """
        if not isinstance(window_size, tuple | list) or len(window_size) != 2:
            error = ValueError if isinstance(window_size, tuple | list) else TypeError
            raise error(f"window_size is {window_size!r}; it needs to be a pair (left, right)")
        left, right = as_side("window_size[0]", window_size[0]), as_side("window_size[1]", window_size[1])
        if not _flag("causal", causal):
            return cls(left, right)
        if right:
            raise ValueError(f"window_size is {window_size!r} with causal=True; its right side needs to be 0 or -1")
        return cls(left, 0)

    @classmethod
    def from_cudnn(cls, left_bound: int | None, right_bound: int | None) -> "Window":
        """cuDNN's diagonal band: the left bound counts the query's own key, the right bound does not.

        >>> Window.from_cudnn(128, 0)
        Window(left=127, right=0, dilation=1)

        Source: diagonal_band_left_bound and diagonal_band_right_bound in github.com/NVIDIA/cudnn-frontend, docs/operations/Attention.md.
        """
        left = _peer_size("left_bound", left_bound)
        return cls(None if left is None else left - 1, as_side("right_bound", right_bound))

    @classmethod
    def from_flashinfer(cls, window_left: int | None) -> "Window":
        """FlashInfer's causal `window_left`: keys before the query's own.

        >>> Window.from_flashinfer(127)
        Window(left=127, right=0, dilation=1)

        Source: window_left in github.com/flashinfer-ai/flashinfer, flashinfer/prefill.py.
        """
        return cls(as_side("window_left", window_left), 0)

    @classmethod
    def from_local_attention(
        cls, window_size: int | None, *, causal: bool = False, look_backward: int = 1, look_forward: int | None = None
    ) -> "Window":
        """lucidrains' local-attention with `exact_windowsize=True`.

        >>> Window.from_local_attention(128, look_backward=2)
        Window(left=256, right=128, dilation=1)

        Source: LocalAttention in github.com/lucidrains/local-attention, local_attention/local_attention.py.
        """
        size = _peer_size("window_size", window_size)
        if look_forward is None:
            look_forward = 0 if _flag("causal", causal) else 1
        back, forward = as_int("look_backward", look_backward), as_int("look_forward", look_forward)
        if back < 0 or forward < 0:
            raise ValueError(f"look_backward and look_forward are {back} and {forward}; they need to be at least 0")
        if _flag("causal", causal) and forward > 0:
            raise ValueError(f"look_forward is {forward} with causal=True; it needs to be 0 or None")
        left, right = (0 if looks == 0 else None if size is None else size * looks for looks in (back, forward))
        return cls(left, right)

    @classmethod
    def from_natten(cls, *_: Any, **__: Any) -> NoReturn:
        """Always a ValueError: no window equals NATTEN's.

        Source: github.com/SHI-Labs/NATTEN; Hassani et al., "Neighborhood Attention Transformer" (arXiv:2204.07143).
        """
        raise ValueError(
            "NATTEN shifts the windows of queries near the ends inward, so that each sees the same number of keys; a Window never shifts, "
            "so none equals it. Away from the ends its kernel_size k (odd) is Window(k // 2, k // 2)."
        )


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it needs to be True or False")
    return value

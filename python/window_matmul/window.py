# python/window_matmul/window.py: `Window`, which keys a query sees, and the windows of other projects translated into it.
"""A window says how many keys before and after the aligned key are seen. The aligned key itself always is."""

from dataclasses import dataclass
from typing import Any, NoReturn

from ._integers import as_count_of_keys, as_flag, as_int, as_peer_size, as_positive, as_side


@dataclass(frozen=True)
class Window:
    """Which keys a query sees: `left` before the aligned key, the aligned key itself, and `right` after it.

    Args:
        left: keys before the aligned one; None or -1 for all of them.
        right: keys after the aligned one; None or -1 for all of them. 0 is causal.
        dilation: distance of neighbouring taps. It counts taps, not tokens: (2, 2) with dilation 3 sees offsets -6, -3, 0, 3, 6.

    Raises:
        TypeError: an argument is no int (a bool is none); likewise of the `from_*`, whose flags need to be bools.
        ValueError: a side below -1, or a dilation below 1; of the `from_*`, a number that means no window there, or a contradiction.

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
        size = as_peer_size("sliding_window", sliding_window)
        return cls(None if size is None else size - 1, 0)

    @classmethod
    def from_hf_bidirectional(cls, sliding_window: int | None) -> "Window":
        """The `sliding_window` that Hugging Face's two-sided models pass to the attention function (ModernBERT: 65 for 64 on each side).

        >>> Window.from_hf_bidirectional(65)
        Window(left=64, right=64, dilation=1)

        What its mask functions (create_bidirectional_sliding_window_mask) take is one less.

        Source: transformers/models/modernbert/modeling_modernbert.py; flash-attention is called with that number less 1 on each side.
        """
        size = as_peer_size("sliding_window", sliding_window)
        return cls(None, None) if size is None else cls(size - 1, size - 1)

    @classmethod
    def from_hf_longformer(cls, attention_window: int | None) -> "Window":
        """Hugging Face Longformer's `attention_window` of one layer: both sides together, an even number.

        >>> Window.from_hf_longformer(512)
        Window(left=256, right=256, dilation=1)

        Source: LongformerSelfAttention in transformers/models/longformer/modeling_longformer.py.
        """
        size = as_peer_size("attention_window", attention_window)
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
        return cls(side, 0 if as_flag("autoregressive", autoregressive) else side, dilation)

    @classmethod
    def from_flash_attn(cls, window_size: tuple[int | None, int | None], *, causal: bool = False) -> "Window":
        """flash-attention's `window_size=(left, right)` beside its `causal`, which sets the right side to 0 whatever was given.

        >>> Window.from_flash_attn((4095, 4095), causal=True)
        Window(left=4095, right=0, dilation=1)

        -1 is unbounded there (in its CuTe version None is; negatives are offsets). Aligned at the end, as here.

        Source: flash_attn_func in github.com/Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py.
        """
        left, right = _pair("window_size", window_size)
        return cls(left, 0 if as_flag("causal", causal) else right)

    @classmethod
    def from_cudnn(cls, left_bound: int | None, right_bound: int | None) -> "Window":
        """cuDNN's diagonal band: the left bound counts the query's own key, the right bound does not.

        >>> Window.from_cudnn(128, 0)
        Window(left=127, right=0, dilation=1)

        Source: diagonal_band_left_bound and diagonal_band_right_bound in github.com/NVIDIA/cudnn-frontend, docs/operations/Attention.md.
        """
        left = as_peer_size("left_bound", left_bound)
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
        size = as_peer_size("window_size", window_size)
        if look_forward is None:
            look_forward = 0 if as_flag("causal", causal) else 1
        back, forward = as_int("look_backward", look_backward), as_int("look_forward", look_forward)
        if back < 0 or forward < 0:
            raise ValueError(f"look_backward and look_forward are {back} and {forward}; they need to be at least 0")
        if as_flag("causal", causal) and forward > 0:
            raise ValueError(f"look_forward is {forward} with causal=True; it needs to be 0 or None")
        left, right = (0 if looks == 0 else None if size is None else size * looks for looks in (back, forward))
        return cls(left, right)

    @classmethod
    def from_transformer_engine(cls, window_size: tuple[int | None, int | None]) -> "Window":
        """Transformer Engine's `window_size=(left, right)`: (-1, -1) is no window, (-1, 0) its causal mask.

        >>> Window.from_transformer_engine((128, 0))
        Window(left=128, right=0, dilation=1)

        Aligned at the end, as here, with its masks of the bottom right; the others are aligned at the start: pass `query_offset=0`.

        Source: DotProductAttention in github.com/NVIDIA/TransformerEngine, transformer_engine/pytorch/attention.
        """
        return cls(*_pair("window_size", window_size))

    @classmethod
    def from_xformers(cls, window_left: int | None, window_right: int | None) -> "Window":
        """xFormers' LocalAttentionFromBottomRightMask: keys on each side, aligned at the end, as here. -1 and None are unbounded.

        >>> Window.from_xformers(128, 64)
        Window(left=128, right=64, dilation=1)

        Source: github.com/facebookresearch/xformers, xformers/ops/fmha/attn_bias.py.
        """
        return cls(as_side("window_left", window_left), as_side("window_right", window_right))

    @classmethod
    def from_onnx(cls, left_window_size: int | None = -1, right_window_size: int | None = -1) -> "Window":
        """ONNX Attention's window (opset 25): keys on each side; -1, its default, is unbounded; 0 is none on that side.

        >>> Window.from_onnx(4, 0)
        Window(left=4, right=0, dilation=1)

        Aligned at the start, behind the past keys: pass `query_offset=` their number, 0 without a cache. `is_causal` is a right side of 0.

        Source: Attention-25 in github.com/onnx/onnx, docs/Operators.md; onnx/reference/ops/op_attention.py.
        """
        return cls(as_side("left_window_size", left_window_size), as_side("right_window_size", right_window_size))

    @classmethod
    def from_onnxruntime(cls, local_window_size: int | None) -> "Window":
        """The `local_window_size` of ONNX Runtime's GroupQueryAttention: that many keys, the query's own included; causal.

        >>> Window.from_onnxruntime(128)
        Window(left=127, right=0, dilation=1)

        So it counts from release 1.24 on; before, one key more was seen: give it one more. -1 is unbounded. 0 has meant no window, the
        query's own key and no key at all, by release: a ValueError. Aligned at the end of the cache, as here.

        Source: com.microsoft.GroupQueryAttention in github.com/microsoft/onnxruntime, docs/ContribOperators.md.
        """
        size = as_peer_size("local_window_size", local_window_size)
        return cls(None if size is None else size - 1, 0)

    @classmethod
    def from_jax(cls, local_window_size: int | tuple[int, int] | None, *, is_causal: bool = False) -> "Window":
        """jax.nn.dot_product_attention's `local_window_size`, keys on each side or (left, right), beside its `is_causal`.

        >>> Window.from_jax(3, is_causal=True)
        Window(left=3, right=0, dilation=1)

        Aligned at the start: pass `query_offset=0` where Lq != Lk. None is no window; 0 is the query's own key. -1 is an offset there, not
        unbounded: (2, -1) leaves the query's own key out, which is `query_offset` and no window: a ValueError.

        Source: github.com/jax-ml/jax, jax/_src/nn/functions.py.
        """
        pair = local_window_size if isinstance(local_window_size, tuple | list) else (local_window_size, local_window_size)
        if len(pair) != 2:
            raise ValueError(f"local_window_size is {local_window_size!r}; it needs to be an int, a pair (left, right) or None")
        if local_window_size is None:
            left = right = None
        else:
            left, right = (as_count_of_keys("local_window_size", side) for side in pair)
        return cls(left, 0 if as_flag("is_causal", is_causal) else right)

    @classmethod
    def from_keras(cls, sliding_window: int | None, *, causal: bool = False) -> "Window":
        """The `sliding_window` of Keras' attention layers: |i - j| < sliding_window, beside `use_causal_mask`.

        >>> Window.from_keras(4)
        Window(left=3, right=3, dilation=1)

        Aligned at the start: pass `query_offset=0` where Lq != Lk. None is no window; 0 and -1 are refused there and here.

        Source: github.com/keras-team/keras, keras/src/layers/attention/grouped_query_attention.py.
        """
        side = None if sliding_window is None else as_positive("sliding_window", sliding_window, "an int of at least 1 or None") - 1
        return cls(side, 0 if as_flag("causal", causal) else side)

    @classmethod
    def from_mlx(cls, window_size: int | None) -> "Window":
        """The `window_size` of mlx-lm's causal mask: that many keys, the query's own included. None is no window.

        >>> Window.from_mlx(4)
        Window(left=3, right=0, dilation=1)

        Aligned by its `offset`, the number of past keys: at the end, as here. 0 and -1 would hide every key there: a ValueError.

        Source: create_causal_mask in github.com/ml-explore/mlx-lm, mlx_lm/models/base.py.
        """
        size = None if window_size is None else as_positive("window_size", window_size, "an int of at least 1 or None")
        return cls(None if size is None else size - 1, 0)

    @classmethod
    def from_hf_longt5(cls, local_radius: int) -> "Window":
        """Hugging Face LongT5's `local_radius` (of encoders, so Lq == Lk): that many keys on each side; 0 is the query's own alone.

        >>> Window.from_hf_longt5(127)
        Window(left=127, right=127, dilation=1)

        Source: LongT5LocalAttention in transformers/models/longt5/modeling_longt5.py.
        """
        radius = as_count_of_keys("local_radius", local_radius)
        return cls(radius, radius)

    @classmethod
    def from_natten(cls, *_: Any, **__: Any) -> NoReturn:
        """Always a ValueError: no window equals NATTEN's.

        Source: github.com/SHI-Labs/NATTEN; Hassani et al., "Neighborhood Attention Transformer" (arXiv:2204.07143).
        """
        raise ValueError(
            "NATTEN shifts the windows of queries near the ends inward, so that each sees the same number of keys; a Window never shifts, "
            "so none equals it. Away from the ends its kernel_size k (odd) is Window(k // 2, k // 2)."
        )


def _pair(name: str, sides: object) -> tuple[int | None, int | None]:
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        error = ValueError if isinstance(sides, tuple | list) else TypeError
        raise error(f"{name} is {sides!r}; it needs to be a pair (left, right)")
    return as_side(f"{name}[0]", sides[0]), as_side(f"{name}[1]", sides[1])

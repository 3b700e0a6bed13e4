"""tests/python/test_window_peers.py: each converter of `Window` against who sees whom by the other project's own rule, key by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from window_matmul import Window
from window_matmul.reference import band_mask

pytestmark = pytest.mark.best_backend
LENGTHS = [(9, 9), (1, 1), (3, 12), (12, 3), (14, 14)]  # queries, keys
Rule = Callable[[int, int], bool]  # whether the query at position p of the keys sees key j
SIZES = [1, 2, 3, 4, 7, 20]
UNBOUNDED = [None, -1]


def hf_causal() -> Iterator[tuple[str, Window, Rule]]:
    """transformers, masking_utils.sliding_window_causal_mask_function."""
    from transformers.masking_utils import sliding_window_causal_mask_function

    for size in SIZES:
        overlay = sliding_window_causal_mask_function(size)
        yield f"{size}", Window.from_hf_causal(size), lambda p, j, overlay=overlay: bool(overlay(0, 0, torch.tensor(p), torch.tensor(j)))
    for size in UNBOUNDED:
        yield f"{size}", Window.from_hf_causal(size), lambda p, j: j <= p


def hf_bidirectional() -> Iterator[tuple[str, Window, Rule]]:
    """transformers, ModernBERT: a layer passes config.sliding_window + 1 to the attention function; its mask is made with the config's."""
    from transformers.masking_utils import sliding_window_bidirectional_overlay

    for configured in SIZES:
        overlay = sliding_window_bidirectional_overlay(configured)
        yield f"{configured}", Window.from_hf_bidirectional(configured + 1), lambda p, j, overlay=overlay: bool(overlay(0, 0, p, j))
    for size in UNBOUNDED:
        yield f"{size}", Window.from_hf_bidirectional(size), lambda p, j: True


def hf_longformer() -> Iterator[tuple[str, Window, Rule]]:
    """transformers, LongformerSelfAttention: one_sided_attn_window_size = attention_window // 2, and that many keys on each side."""
    for size in (2, 4, 10, 40):
        yield f"{size}", Window.from_hf_longformer(size), lambda p, j, side=size // 2: abs(p - j) <= side


def allenai_longformer() -> Iterator[tuple[str, Window, Rule]]:
    """allenai/longformer, LongformerConfig: attention_window is the "number of attention locations on each side"; with a dilation they are
    so far apart, and autoregressive attention has none after the query."""
    for side in (0, *SIZES):
        for dilation in (1, 2, 5):
            for alone in (False, True):
                window = Window.from_allenai_longformer(side, dilation=dilation, autoregressive=alone)
                places = {t * dilation for t in range(-side, 1 if alone else side + 1)}
                yield f"{side},{dilation},{alone}", window, lambda p, j, places=places: j - p in places


def flash_attn() -> Iterator[tuple[str, Window, Rule]]:
    """flash-attention, flash_attn_func: "keys between [i + seqlen_k - seqlen_q - window_size[0], i + seqlen_k - seqlen_q +
    window_size[1]] inclusive", -1 is infinite; causal is aligned to the bottom right corner."""
    for left in (-1, 0, 3, 20):
        for right in (-1, 0, 2, 20):
            for causal in (False, True):

                def rule(p: int, j: int, left: int = left, right: int = right, causal: bool = causal) -> bool:
                    return (left == -1 or j >= p - left) and (right == -1 or j <= p + right) and not (causal and j > p)

                yield f"{left},{right},{causal}", Window.from_flash_attn((left, right), causal=causal), rule


def cudnn() -> Iterator[tuple[str, Window, Rule]]:
    """cuDNN frontend, SDPA's diagonal band: j + left_bound > i and j <= i + right_bound."""
    for left in (None, *SIZES):
        for right in (None, 0, 1, 5):

            def rule(p: int, j: int, left: int | None = left, right: int | None = right) -> bool:
                return (left is None or j + left > p) and (right is None or j <= p + right)

            yield f"{left},{right}", Window.from_cudnn(left, right), rule


def flashinfer() -> Iterator[tuple[str, Window, Rule]]:
    """FlashInfer, window_left: "the left (inclusive) window size", -1 is the full length; causal."""
    for left in (-1, 0, *SIZES):
        yield f"{left}", Window.from_flashinfer(left), lambda p, j, left=left: j <= p and (left == -1 or p - left <= j)


def both_sides(peer: Callable[[int, int], Window]) -> Iterator[tuple[str, Window, Rule]]:
    """Keys from p - left to p + right, -1 unbounded."""
    for left in (-1, 0, 3, 20):
        for right in (-1, 0, 2, 20):

            def rule(p: int, j: int, left: int = left, right: int = right) -> bool:
                return (left == -1 or j >= p - left) and (right == -1 or j <= p + right)

            yield f"{left},{right}", peer(left, right), rule


def transformer_engine() -> Iterator[tuple[str, Window, Rule]]:
    """Transformer Engine, DotProductAttention: a pair as flash-attention's."""
    return both_sides(lambda left, right: Window.from_transformer_engine((left, right)))


def xformers() -> Iterator[tuple[str, Window, Rule]]:
    """xFormers, LocalAttentionFromBottomRightMask: likewise."""
    return both_sides(Window.from_xformers)


def onnx() -> Iterator[tuple[str, Window, Rule]]:
    """ONNX, Attention-25: "p - left_window_size <= j <= p + right_window_size", where p counts the past; -1 disables a side."""
    return both_sides(Window.from_onnx)


def onnxruntime() -> Iterator[tuple[str, Window, Rule]]:
    """ONNX Runtime 1.24 and newer, GroupQueryAttention: the last local_window_size keys up to the query's own; -1 is all of them."""
    for size in (-1, *SIZES):
        yield f"{size}", Window.from_onnxruntime(size), lambda p, j, size=size: j <= p and (size == -1 or p - j < size)


def jax() -> Iterator[tuple[str, Window, Rule]]:
    """JAX, dot_product_attention: local_window_size keys on each side, or (left, right); is_causal hides what comes later."""
    for size in (None, 0, 1, 3, (0, 2), (3, 0), (20, 1)):
        for causal in (False, True):
            left, right = size if isinstance(size, tuple) else (size, size)

            def rule(p: int, j: int, left: int | None = left, right: int | None = right, causal: bool = causal) -> bool:
                return (left is None or right is None or p - left <= j <= p + right) and not (causal and j > p)

            yield f"{size},{causal}", Window.from_jax(size, is_causal=causal), rule


def keras() -> Iterator[tuple[str, Window, Rule]]:
    """Keras, GroupQueryAttention: abs(i - j) < sliding_window, and beside it use_causal_mask."""
    for size in (None, *SIZES):
        for causal in (False, True):

            def rule(p: int, j: int, size: int | None = size, causal: bool = causal) -> bool:
                return (size is None or abs(p - j) < size) and not (causal and j > p)

            yield f"{size},{causal}", Window.from_keras(size, causal=causal), rule


def mlx() -> Iterator[tuple[str, Window, Rule]]:
    """mlx-lm, create_causal_mask: p >= j, and p < j + window_size."""
    for size in (None, *SIZES):
        yield f"{size}", Window.from_mlx(size), lambda p, j, size=size: p >= j and (size is None or p < j + size)


def hf_longt5() -> Iterator[tuple[str, Window, Rule]]:
    """transformers, LongT5: blocks of local_radius + 1 queries see three blocks of keys, through its mask."""
    from transformers.models.longt5 import modeling_longt5

    for radius in (1, 2, 4, 9):
        block = radius + 1
        mask = modeling_longt5._get_local_attention_mask(torch.ones(1, 20, dtype=torch.long), block, torch.device("cpu"))[0, 0]

        def rule(p: int, j: int, mask: torch.Tensor = mask, block: int = block) -> bool:
            column = j - (p // block - 1) * block
            return 0 <= column < 3 * block and bool(mask[p // block, p % block, column])

        yield f"{radius}", Window.from_hf_longt5(radius), rule


def local_attention() -> Iterator[tuple[str, Window, Rule]]:
    """lucidrains/local-attention with exact_windowsize: keys are masked where position > key + window_size * look_backward, where
    key - window_size * look_forward > position, and, if causal, where position < key."""
    for size in (1, 2, 3):
        for back in (0, 1, 2):
            for forward in (None, 0, 1, 2):
                for causal in (False, True) if not forward else (False,):
                    window = Window.from_local_attention(size, causal=causal, look_backward=back, look_forward=forward)
                    looks = (0 if causal else 1) if forward is None else forward

                    def rule(p: int, j: int, before: int = size * back, after: int = size * looks, causal: bool = causal) -> bool:
                        return not (p > j + before or j - after > p or (causal and p < j))

                    yield f"{size},{back},{forward},{causal}", window, rule


PEERS = [hf_causal, hf_bidirectional, hf_longformer, hf_longt5, allenai_longformer, flash_attn, transformer_engine, xformers, cudnn]
PEERS += [flashinfer, onnx, onnxruntime, jax, keras, mlx, local_attention]


@pytest.mark.parametrize("peer", PEERS)
def test_who_sees_whom(peer: Callable[[], Iterator[tuple[str, Window, Rule]]]) -> None:
    pytest.importorskip("transformers")
    for name, window, rule in peer():
        for queries, keys in [(9, 9)] if peer is hf_longt5 else LENGTHS:  # its positions are those of one sequence
            shift = keys - queries
            theirs = [[rule(i + shift, j) for j in range(keys)] for i in range(queries)]
            assert [[window.contains(i, j, shift) for j in range(keys)] for i in range(queries)] == theirs, (name, window, queries, keys)
            assert band_mask(window, queries, keys).tolist() == theirs, (name, window, queries, keys)


def test_every_converter_is_here() -> None:
    assert {f"from_{peer.__name__}" for peer in PEERS} | {"from_natten"} == {name for name in dir(Window) if name.startswith("from_")}


def test_nattens_rule_is_no_window() -> None:
    """NATTEN's neighbourhood of kernel size 3: near the ends it is shifted inward, so no pair of sides gives it."""
    starts = [min(max(i - 1, 0), 5 - 3) for i in range(5)]
    theirs = [[start <= j < start + 3 for j in range(5)] for start in starts]
    windows = [Window(left, right) for left in range(5) for right in range(5)]
    assert all(band_mask(window, 5, 5).tolist() != theirs for window in windows)
    assert band_mask(Window(1, 1), 5, 5).tolist()[1:-1] == theirs[1:-1]

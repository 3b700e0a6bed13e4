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
            for causal in (False, True) if right < 1 else (False,):

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


PEERS = [hf_causal, hf_bidirectional, hf_longformer, allenai_longformer, flash_attn, cudnn, flashinfer, local_attention]


@pytest.mark.parametrize("peer", PEERS)
def test_who_sees_whom(peer: Callable[[], Iterator[tuple[str, Window, Rule]]]) -> None:
    pytest.importorskip("transformers")
    for name, window, rule in peer():
        for queries, keys in LENGTHS:
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

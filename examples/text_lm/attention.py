# examples/text_lm/attention.py: causal windowed attention: fused, from the explicit operators, and dense with a mask.
"""All classes map q, k, v (B, H, L, D) to (B, H, Lq, D); the model does not know which one it holds."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from window_matmul import unwindow_matmul, window_attention, window_matmul, window_softmax


class FusedAttention(nn.Module):
    """Each query sees its own key and the `left` keys before it; time grows with L * (left + 1), memory with L alone."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.window = (left, 0)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = window_attention(q, k, v, self.window)
        assert isinstance(out, Tensor)  # a pair with return_lse
        return out


class ExplicitAttention(nn.Module):
    """The same from the band operators: the weights are a tensor to look at, and time and memory grow with L * (left + 1)."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.window = (left, 0)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention weights in band storage (B, H, Lq, left + 1); slot c is the key `left - c` positions back."""
        scores = window_matmul(q * q.shape[-1] ** -0.5, k.mT, self.window)
        return window_softmax(scores, self.window, num_keys=k.shape[-2])

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return unwindow_matmul(self.weights(q, k), v, self.window)


class DenseAttention(nn.Module):
    """What PyTorch offers: `scaled_dot_product_attention` with the band as an L x L mask, made once for each length."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left
        self.mask = torch.empty(0, 0, dtype=torch.bool)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.prepare(q.shape[-2], k.shape[-2])
        return scaled_dot_product_attention(q, k, v, attn_mask=self.mask)

    def prepare(self, num_queries: int, num_keys: int) -> None:
        if self.mask.shape != (num_queries, num_keys):
            self.mask = band_mask(num_queries, num_keys, self.left)


class InHalf(nn.Module):
    """`core` under autocast: q, k and v are rounded to bf16, and so is its result; numbers in float64 are left alone."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out: Tensor = self.core(q, k, v)
        return out.to(q.dtype)


KINDS = {"fused": FusedAttention, "explicit": ExplicitAttention, "dense": DenseAttention}


def band_mask(num_queries: int, num_keys: int, left: int) -> Tensor:
    """True where query i sees key j: 0 <= i + num_keys - num_queries - j <= left."""
    ones = torch.ones(num_queries, num_keys, dtype=torch.bool)
    shift = num_keys - num_queries
    return ones.tril_(shift).triu_(shift - left)

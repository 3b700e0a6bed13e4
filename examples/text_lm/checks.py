# examples/text_lm/checks.py: what must hold before the demo claims anything.
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import DenseAttention, band_mask
from .model import Cache, LanguageModel

EXACT = 1e-11
SAME_SUMS = "same sums in another order"


class CheckFailed(Exception):
    """A claim of the demo does not hold; the message says which and by how much."""


@dataclass(frozen=True)
class Finding:
    """One quantity that was compared: its relative error and what was allowed."""

    what: str
    error: float
    bound: float
    reason: str


def check_attention(core: nn.Module, left: int, heads: int, head_dim: int) -> list[Finding]:
    """Outputs and gradients of `core` against dense attention in double precision, for equal lengths and with cached keys."""
    findings = []
    for num_queries, num_keys, case in ((2 * left + 37, 2 * left + 37, "training"), (5, 2 * left + 5, "decoding")):
        inputs = _random_inputs(num_queries, num_keys, heads, head_dim)
        exact = _outputs_and_gradients(lambda q, k, v: dense_attention(q, k, v, left), inputs, torch.float64)
        plain = _outputs_and_gradients(lambda q, k, v: dense_attention(q, k, v, left), inputs, torch.float32)
        ours = {dtype: _outputs_and_gradients(core, inputs, dtype) for dtype in (torch.float64, torch.float32)}
        for index, name in enumerate(("output", "gradient of q", "gradient of k", "gradient of v")):
            allowed = 2 * _difference(plain[index], exact[index]) + torch.finfo(torch.float32).eps
            double, single = (_difference(ours[dtype][index], exact[index]) for dtype in (torch.float64, torch.float32))
            findings.append(Finding(f"{name}, {case} shape, float64", double, EXACT, SAME_SUMS))
            findings.append(Finding(f"{name}, {case} shape, float32", single, allowed, "twice the error of dense attention in float32"))
    return _passed(findings)


def check_model(model: LanguageModel, text: Tensor) -> list[Finding]:
    """The trained model in double precision on real text (L,): against dense attention inside it, and byte by byte from its cache."""
    ours = copy.deepcopy(model).double()
    dense = copy.deepcopy(ours)
    for block in dense.decoder_blocks():
        block.attention.core = DenseAttention(model.shape.window)
    gradients = []
    for either in (ours, dense):
        either.zero_grad()
        either.loss(text[None]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in either.parameters() if p.grad is not None]))
    with torch.inference_mode():
        logits, expected = ours(text[None]), dense(text[None])
        decoded = _decode(ours, text)
    return _passed([
        Finding("logits of the trained model, float64", _difference(logits, expected), EXACT, SAME_SUMS),
        Finding("gradient of all its weights, float64", _difference(*gradients), EXACT, SAME_SUMS),
        Finding("logits decoded byte by byte from the cache, float64", _difference(decoded, expected), EXACT, SAME_SUMS),
    ])  # fmt: skip


def dense_attention(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """The formula over the whole L x L matrix, in the dtype of its inputs."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    hidden = ~band_mask(q.shape[-2], k.shape[-2], left)
    return torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1) @ v


def _random_inputs(num_queries: int, num_keys: int, heads: int, head_dim: int) -> list[Tensor]:
    """q, k, v and the gradient of the output, (2, heads, length, head_dim); fixed numbers, large enough for peaked softmaxes."""
    generator = torch.Generator().manual_seed(0)
    lengths = (num_queries, num_keys, num_keys, num_queries)
    return [2 * torch.randn(2, heads, length, head_dim, generator=generator) for length in lengths]


def _outputs_and_gradients(attention: object, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    assert callable(attention)
    q, k, v, upstream = (x.to(dtype, copy=True).requires_grad_() for x in inputs)
    out = attention(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), upstream, materialize_grads=True)]


def _decode(model: LanguageModel, text: Tensor) -> Tensor:
    rows: list[Tensor] = []
    cache: Cache | None = None
    for position in range(len(text)):
        logits, cache = model.step(text[None, position : position + 1], position, cache)
        rows.append(logits)
    return torch.cat(rows, dim=1)


def _difference(value: Tensor, expected: Tensor) -> float:
    """Length of the difference over length of the expected, all numbers taken as one vector."""
    return float((value.double() - expected.double()).norm() / expected.double().norm())


def _passed(findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        if not finding.error <= finding.bound:  # a NaN fails too
            raise CheckFailed(f"{finding.what}: relative error {finding.error:.2e}, allowed {finding.bound:.2e} ({finding.reason})")
    return findings

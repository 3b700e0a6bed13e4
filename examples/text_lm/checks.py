# examples/text_lm/checks.py: what must hold before the demo claims anything.
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import DenseAttention, ExplicitAttention, band_mask
from .model import LanguageModel
from .writing import decode

EXACT = 1e-11
SAME_SUMS = "same sums in another order"
IN_DTYPE = "twice the error of dense attention in the same dtype"
RECOMPUTED = "the rounding of the log-sum-exp, from which weights are computed again"
BATCH = HEADS = 2  # independent of each other: two tell
BEYOND = 261  # keys that the last query no longer sees; the sizes fill no block evenly

Attends = Callable[[Tensor, Tensor, Tensor], Tensor]


class CheckFailed(Exception):
    """A claim of the demo does not hold; the message says which and by how much."""


@dataclass(frozen=True)
class Finding:
    """One quantity that was compared: its relative error and what was allowed."""

    what: str
    against: str
    dtype: str
    error: float
    bound: float
    reason: str

    def __str__(self) -> str:
        return f"{self.what}, {self.dtype}, against {self.against}"


def check_attention(core: Attends, left: int, head_dim: int, dtypes: tuple[str, ...] = ("float32",)) -> list[Finding]:
    """Outputs and gradients of `core` against dense attention and the explicit pair, for equal lengths and with cached keys.

    In float64, and in other dtypes against what dense attention errs in these.
    """
    pair = ExplicitAttention(left)
    findings = []
    for num_queries, num_keys, case in ((left + BEYOND, left + BEYOND, "training"), (5, left + BEYOND, "decoding")):
        inputs = _random_inputs(num_queries, num_keys, head_dim)
        every = ("float64", *dtypes)
        plain = {dtype: _outputs_and_gradients(lambda q, k, v: dense_attention(q, k, v, left), inputs, dtype) for dtype in every}
        found = {dtype: _outputs_and_gradients(core, inputs, dtype) for dtype in every}
        exact, double = plain["float64"], found["float64"]
        explicit = _outputs_and_gradients(pair, inputs, "float64")
        largest = largest_logsumexp(inputs[0], inputs[1], left)
        for index, name in enumerate(("output", "gradient of q", "gradient of k", "gradient of v")):
            what = f"{name}, {case} shape"
            # Half a unit each for the log-sum-exp, for it in units of log 2, and a bit for log2 e.
            beside = torch.finfo(torch.float32).eps * (1.25 * largest if index else 1)
            reason = f"{IN_DTYPE}, and {RECOMPUTED}" if index else IN_DTYPE
            findings += [
                Finding(what, "dense attention", "float64", _difference(double[index], exact[index]), EXACT, SAME_SUMS),
                Finding(what, "the explicit pair", "float64", _difference(double[index], explicit[index]), EXACT, SAME_SUMS),
            ]
            for dtype in dtypes:
                error, plain_error = (_difference(results[dtype][index], exact[index]) for results in (found, plain))
                findings.append(Finding(what, "dense attention", dtype, error, 2 * plain_error + beside, reason))
    return _passed(findings)


def check_model(model: LanguageModel, text: Tensor) -> list[Finding]:
    """The trained model in double precision on real text (L,): against dense attention inside it, and byte by byte from its caches."""
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
        decoded = decode(ours, text, prompt=model.shape.window // 2)
    compared = [
        ("logits of the trained model", "dense attention", _difference(logits, expected)),
        ("gradient of all its weights", "dense attention", _difference(*gradients)),
        ("logits from the rolling caches, a prompt and then byte by byte", "the whole text at once", _difference(decoded, logits)),
        ("logits from the rolling caches, a prompt and then byte by byte", "dense attention", _difference(decoded, expected)),
    ]
    return _passed([Finding(what, against, "float64", error, EXACT, SAME_SUMS) for what, against, error in compared])


def dense_attention(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """The formula over the whole L x L matrix, in the dtype of its inputs."""
    weights = torch.softmax(dense_scores(q, k, left), dim=-1)
    return weights @ v


def dense_scores(q: Tensor, k: Tensor, left: int) -> Tensor:
    scores: Tensor = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~band_mask(q.shape[-2], k.shape[-2], left), float("-inf"))


def largest_logsumexp(q: Tensor, k: Tensor, left: int) -> float:
    """Backward of fused attention computes weights again as exp(score - logsumexp): they have the rounding of what is subtracted."""
    return float(dense_scores(q, k, left).logsumexp(dim=-1).abs().max())


def _random_inputs(num_queries: int, num_keys: int, head_dim: int) -> list[Tensor]:
    """q, k, v and the gradient of the output, (B, H, length, head_dim); fixed numbers, large enough for peaked softmaxes."""
    generator = torch.Generator().manual_seed(0)
    lengths = (num_queries, num_keys, num_keys, num_queries)
    return [2 * torch.randn(BATCH, HEADS, length, head_dim, generator=generator) for length in lengths]


def _outputs_and_gradients(attention: Attends | nn.Module, inputs: list[Tensor], dtype: str) -> list[Tensor]:
    q, k, v, upstream = (x.to(getattr(torch, dtype), copy=True).requires_grad_() for x in inputs)
    out = attention(q, k, v)
    if not out.requires_grad:
        return [out, *map(torch.zeros_like, (q, k, v))]
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), upstream, materialize_grads=True)]


def _difference(value: Tensor, expected: Tensor) -> float:
    """Length of the difference over length of the expected, all numbers taken as one vector."""
    return float((value.double() - expected.double()).norm() / expected.double().norm())


def _passed(findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        if not finding.error <= finding.bound:  # a NaN fails too
            raise CheckFailed(f"{finding}: relative error {finding.error:.2e}, allowed {finding.bound:.2e} ({finding.reason})")
    return findings

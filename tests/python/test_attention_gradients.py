"""tests/python/test_attention_gradients.py: finite differences, what is not differentiable and says so, precision beside torch's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck
from torch.func import grad, hessian, jacfwd, jvp

from attention_cases import DIFFERENTIABLE, Case, gradients, leaves
from attention_oracle import Rule
from oracle import DTYPES, ROUNDING
from window_matmul import window_attention
from window_matmul._attention import autograd
from window_matmul._attention.ops import Tensors

OPERATOR = "attention"
SMALL = Case(Rule(1, 1), 4, 4, batch=1, dim=2, value_dim=2)
CHECKED = [
    SMALL,
    Case(Rule(2, 0), 3, 5, dim=3, heads=2, kv_heads=1),
    Case(Rule(None, None), 3, 3, sinks=True, softcap=1.5),
    Case(Rule(1, 1, (1, 2)), 5, 5, batch=1, bias="slots", sinks=True),
    Case(Rule(1, 1), 4, 4, bias="full", hides=True, key_mask=True),
    Case(Rule(1, 0), 5, 5, batch=1, global_tokens=1, bias="slots"),
    Case(Rule(1, 1), 4, 4, global_mask=True, sinks=True, scale=0.8),
    Case(Rule(1, 1, query_offset=3), 4, 4, sinks=True),
]


@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_gradcheck(backend: str, case: Case) -> None:
    tensors = leaves(case.tensors())
    names = [name for name in DIFFERENTIABLE if name in tensors]

    def call(*args: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = case.ours(tensors | dict(zip(names, args, strict=True)))
        return out, lse.clamp(min=-1e3)  # a finite number for queries without keys

    hidden = tensors.get("bias")
    if hidden is not None and case.hides:  # finite differences from -inf are none
        hidden = torch.where(hidden == -torch.inf, -50.0, hidden.detach())
        tensors["bias"] = hidden.requires_grad_()
    assert gradcheck(call, [tensors[name] for name in names], check_batched_grad=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_gradient_alone(backend: str, dtype: torch.dtype) -> None:
    """What else is asked for changes no bit of a gradient; nor does asking for one result alone."""
    case = Case(Rule(2, 1), 9, 9, heads=4, kv_heads=2, bias="slots", sinks=True, key_mask=True, global_tokens=1)
    plain = case.tensors(dtype)
    tensors = leaves(plain)
    results = case.ours(tensors)
    cotangents = tuple(torch.randn_like(y) for y in results)
    names = [name for name in DIFFERENTIABLE if name in tensors]
    together = dict(zip(names, torch.autograd.grad(results, [tensors[n] for n in names], cotangents, retain_graph=True), strict=True))
    for name, want in together.items():
        alone = plain[name].clone().requires_grad_()
        (got,) = torch.autograd.grad(case.ours(plain | {name: alone}), alone, cotangents)
        assert torch.equal(got, want), name
    zero = torch.zeros_like(cotangents[1])
    for name, want in gradients(results, tensors, (cotangents[0], zero)).items():
        (got,) = torch.autograd.grad(case.ours(tensors)[0], tensors[name], cotangents[0])
        torch.testing.assert_close(got, want)
    for name in ("q", "k", "bias"):
        (got,) = torch.autograd.grad(case.ours(tensors)[1], tensors[name], cotangents[1])
        (want,) = torch.autograd.grad(case.ours(tensors), tensors[name], (torch.zeros_like(cotangents[0]), cotangents[1]))
        torch.testing.assert_close(got, want)


@pytest.mark.best_backend
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_heads_that_differ_in_dilation_have_keys_of_their_own(
    backend: str, dtype: torch.dtype, compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kernels of a GPU need it: they never see heads that share keys and differ. Each head's part of a sum is rounded, and the sum."""
    case = Case(Rule(2, 1, (1, 2, 3, 3)), 9, 9, heads=4, kv_heads=2, bias="slots", sinks=True, key_mask=True)
    tensors = leaves(case.tensors(dtype))
    cotangents = tuple(torch.randn_like(y) for y in case.ours(tensors))
    want = gradients(case.ours(tensors), tensors, cotangents)
    seen: list[int] = []

    def spy(*args: object) -> Tensors:
        assert isinstance(args[5], Tensor)
        seen.append(args[5].shape[1])
        return right(*args)

    right = autograd._attention_backward
    monkeypatch.setattr(autograd, "_SHARED_DILATION", ("cpu",))
    monkeypatch.setattr(autograd, "_attention_backward", spy)
    call = torch.compile(case.ours, backend="aot_eager") if compiles else case.ours
    got = gradients(call(tensors), tensors, cotangents)
    assert set(seen) == {4}
    for name, gradient in got.items():
        size = float(want[name].double().abs().max())
        torch.testing.assert_close(gradient, want[name], rtol=0, atol=4 * ROUNDING[dtype] * size)


@pytest.mark.best_backend
def test_the_graph(backend: str) -> None:
    q, k, v = torch.randn(3, 1, 1, 5, 4)
    leaf = torch.nn.Parameter(q)
    out, lse = window_attention(leaf, k, v, 2, return_lse=True)
    assert type(out.grad_fn).__name__ == "AttentionBackward" and out.grad_fn is lse.grad_fn
    with torch.no_grad():
        assert not window_attention(leaf, k, v, 2).requires_grad
    assert not window_attention(q, k, v, 2).requires_grad
    sink = torch.zeros(1, requires_grad=True)
    window_attention(q, k, v, 2, sinks=sink).sum().backward()
    assert sink.grad is not None


# ---- what it has no derivative for ---------------------------------------------------------------------------------------------------
def by_square(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return window_attention(q, k, v, 1).square().sum()


@pytest.mark.best_backend
def test_double_backward_says_what_to_use(backend: str) -> None:
    tensors = [x.requires_grad_() for x in torch.randn(3, 1, 1, 4, 2, dtype=torch.float64).unbind()]
    (first,) = torch.autograd.grad(by_square(*tensors), tensors[0], create_graph=True)
    (plain,) = torch.autograd.grad(by_square(*tensors), tensors[0])
    assert torch.equal(first, plain) and first.requires_grad
    names = r"(?s)double backward.*window_matmul.*window_softmax.*unwindow_matmul"
    with pytest.raises(NotImplementedError, match=names):
        first.sum().backward()
    with pytest.raises(NotImplementedError, match=names):
        grad(lambda q: grad(by_square)(q, *tensors[1:]).sum())(tensors[0])


@pytest.mark.best_backend
def test_forward_mode_says_what_to_use(backend: str) -> None:
    q, k, v = torch.randn(3, 1, 1, 4, 2, dtype=torch.float64)
    names = r"(?s)forward-mode.*window_matmul.*window_softmax.*unwindow_matmul"
    for work in (
        lambda: jvp(lambda q: window_attention(q, k, v, 1), (q,), (q,)),
        lambda: jacfwd(by_square)(q, k, v),
        lambda: hessian(by_square)(q, k, v),
    ):
        with pytest.raises(NotImplementedError, match=names):
            work()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=names):
        window_attention(q, forward_ad.make_dual(k, k), v, 1)
    with forward_ad.dual_level():
        window_attention(q, k, v, 1)  # without a tangent there is nothing to refuse


# ---- scores beside which their sums are lost --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("low", [-1e9, -1e10, -1e20, -2e38, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_mask_that_is_finite(backend: str, dtype: torch.dtype, low: float) -> None:
    """Not only -inf hides: where it is all that a query sees, a low number is a bias like others, and the gradients are those of others."""
    case = Case(Rule(5, 0), 17, 17, bias="slots", wide_bias=True)
    for scale in torch.linspace(0.9, 1, 5).tolist():
        tensors = case.tensors(dtype) | {"bias": torch.full((2, 6), low * scale)}
        tensors["q"] = tensors["q"] * 0  # so that all weights of a row are equal, however its scores are rounded
        tensors = leaves(tensors)
        out, lse = case.ours(tensors)
        torch.testing.assert_close(out.double(), case.exact(tensors).out.detach(), rtol=0, atol=4 * ROUNDING[dtype])
        assert lse.isfinite().all()
        d_out = torch.randn_like(out)
        wide = leaves({name: x.detach().double() for name, x in tensors.items()})
        exact = gradients((case.exact(wide).out,), wide, (d_out.double(),))
        for name, got in gradients((out,), tensors, (d_out,)).items():
            rounding = max(ROUNDING[dtype], ROUNDING[got.dtype])
            torch.testing.assert_close(got.double(), exact[name], rtol=0, atol=8 * rounding * max(1, float(exact[name].abs().max())))


def test_the_rounding_of_a_low_log_sum_exp(backend: str) -> None:
    """At 2**30 neighbours in float32 are 64 or 128 apart, and 2**128 is infinite: a weight is at most 1 all the same."""
    case = Case(Rule(5, 0), 17, 17, bias="slots", dim=8)
    for low in range(1_140_000_000, 1_320_000_000, 1_000_000):
        tensors = leaves(case.tensors(torch.float32) | {"bias": torch.full((2, 6), -float(low))})
        out, _ = case.ours(tensors)
        assert all(x.abs().max() < 1e3 for x in gradients((out,), tensors, (torch.ones_like(out),)).values()), low


# ---- precision -----------------------------------------------------------------------------------------------------------------------
def dense(case: Case) -> Callable[..., Tensor]:
    """torch's own mathematics in the dtype of q: scores, mask, softmax, values."""
    inside = case.rule.taps(case.heads, case.queries, case.keys)[0]

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT * case.dim**-0.5).masked_fill(~inside, -torch.inf)
        return torch.softmax(scores, -1) @ v

    return f


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1.0, 4.0])
def test_no_less_precise_than_torch(backend: str, dtype: torch.dtype, size: float) -> None:
    """The largest error of each result is at most that of torch's own operators in the same dtype, and one rounding of the result. In
    float32 both add up in the dtype itself, and either may be luckier: three times; and the backward pass computes its weights from the
    log-sum-exp as it was rounded, instead of keeping them all."""
    base = Case(Rule(20, 20), 90, 90, batch=1, heads=2, dim=32, value_dim=32)
    for case in (base, replace(base, rule=Rule(64, 0)), replace(base, rule=Rule(9, 9, 3))):
        tensors = {name: (x * size).to(dtype) for name, x in case.tensors().items()}
        d_out = torch.randn(1, 2, 90, 32).to(dtype)
        exact = case.exact(tensors)
        wants, ours, theirs = (
            results(f, tensors, d_out, of)
            for f, of in (
                (lambda *x, c=case: c.exact(dict(zip("qkv", x, strict=True))).out, torch.float64),
                (lambda *x, c=case: c.ours(dict(zip("qkv", x, strict=True)))[0], dtype),
                (dense(case), dtype),
            )
        )
        luck, of_lse = (3, ROUNDING[dtype] * float(exact.lse.abs().max())) if dtype == torch.float32 else (1, 0.0)
        for name, got, other, want in zip(("out", *"qkv"), ours, theirs, wants, strict=True):
            error, others = (got - want).abs().max(), (other - want).abs().max()
            allowed = luck * others + (ROUNDING[dtype] + (of_lse if name != "out" else 0)) * want.abs().max()
            assert error <= allowed, f"{name}: {error:.3g}, torch's {others:.3g}"


def results(f: Callable[..., Tensor], tensors: dict[str, Tensor], d_out: Tensor, dtype: torch.dtype) -> list[Tensor]:
    leaf = [x.to(dtype).requires_grad_() for x in tensors.values()]
    out = f(*leaf)
    return [x.double() for x in (out.detach(), *torch.autograd.grad(out, leaf, d_out.to(dtype)))]

"""tests/python/test_merge_states.py: `merge_states` and `out_dtype`: attention over sets of keys, joined, is attention over all of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from attention_cases import Case, check_case
from attention_oracle import Rule
from attention_refusals import FUNCTIONS, good, refused
from oracle import DTYPES, ROUNDING
from window_matmul import merge_states, window_attention, window_attention_varlen

OPERATOR = "attention"
CUTS = [0, 3, 3, 4, 11, 12]
WIDE = {torch.float64: torch.float64}  # of sums; float32 else


def parts_of(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Over the keys from cut to cut, none among them; each at its own offset, so that some queries see nothing of a part."""
    runs = [slice(a, b) for a, b in pairwise(CUTS)]
    parts = [
        window_attention(q, k[:, :, run], v[:, :, run], (4, 0), query_offset=5 - run.start, return_lse=True, **options) for run in runs
    ]
    return [out for out, _ in parts], [lse for _, lse in parts]


def tensors(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(2, heads, length, 4, dtype=torch.float64).to(dtype) for heads, length in ((4, 9), (2, 12), (2, 12)))
    return q, k, v


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_make_up_the_whole(backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded once where the parts are not; parts that are rounded have both roundings."""
    q, k, v = tensors(dtype)
    sums = WIDE.get(dtype, torch.float32)
    with monkeypatch.context() as any_row:
        any_row.delenv("WINDOW_MATMUL_BACKEND")
        exact, exact_lse = window_attention(q.double(), k.double(), v.double(), (4, 0), query_offset=5, return_lse=True)
    for out_dtype, roundings in ((sums, 1), (None, 2)):
        out, lse = merge_states(*parts_of(q, k, v, out_dtype=out_dtype))
        assert out.dtype == (out_dtype or dtype) and lse.dtype == sums
        error = (out.to(dtype).double() - exact).abs().max()
        assert error <= (roundings * ROUNDING[dtype] + 64 * ROUNDING[sums]) * v.double().abs().max()
        assert (lse.double() - exact_lse)[exact_lse.isfinite()].abs().max() <= 64 * ROUNDING[sums]


def test_what_no_part_sees(backend: str) -> None:
    """0 and -inf; and what a part holds where it saw nothing does not count, even NaN."""
    q, k, v = tensors(torch.float32)
    outs, lses = parts_of(q, k, v)
    out, lse = merge_states(outs, lses)
    outs = [x.masked_fill((y == -torch.inf)[..., None], torch.nan).requires_grad_() for x, y in zip(outs, lses, strict=True)]
    lses = [x.requires_grad_() for x in lses]
    again, lse_again = merge_states(outs, lses)
    assert torch.equal(out, again) and torch.equal(lse, lse_again)
    given = torch.autograd.grad(again.sum() + lse_again.clamp(min=-9).sum(), [*outs, *lses])
    assert all(x.isfinite().all() for x in given)
    blind = torch.full((2, 4, 9), -torch.inf)
    out, lse = merge_states([torch.full((2, 4, 9, 4), torch.nan)] * 2, [blind, blind])
    assert not out.any() and torch.equal(lse, blind)


def test_gradients(backend: str) -> None:
    """Through the parts they are those of the whole; and by finite differences."""
    leaves = [x.requires_grad_() for x in tensors(torch.float64)]
    whole = window_attention(*leaves, (4, 0), query_offset=5, return_lse=True)
    d_out, d_lse = torch.randn_like(whole[0]), torch.randn_like(whole[1])
    want = torch.autograd.grad(whole, leaves, (d_out, d_lse))
    got = torch.autograd.grad(merge_states(*parts_of(*leaves)), leaves, (d_out, d_lse))
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    outs, lses = torch.randn(3, 1, 2, 3, 2, dtype=torch.float64), torch.randn(3, 1, 2, 3, dtype=torch.float64)
    assert gradcheck(lambda *x: merge_states(x[:3], x[3:]), [x.requires_grad_() for x in (*outs, *lses)])


@pytest.mark.best_backend
def test_transforms(backend: str) -> None:
    outs, lses = torch.randn(3, 5, 1, 2, 3, 2), torch.randn(3, 5, 1, 2, 3)
    lses[:, 1] = -torch.inf
    want = [merge_states(list(outs[:, n]), list(lses[:, n])) for n in range(5)]
    mapped = torch.vmap(lambda x, y: merge_states([*x], [*y]), in_dims=1)(outs, lses)
    compiled = torch.compile(lambda x, y: merge_states([*x], [*y]), fullgraph=True, backend="aot_eager")
    for n in range(5):
        for got in ([x[n] for x in mapped], compiled(outs[:, n], lses[:, n])):
            assert all(torch.equal(x, y) for x, y in zip(got, want[n], strict=True))


# ---- out_dtype -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(Rule(5, 3), 60, 70, heads=4, dim=17, value_dim=16, sinks=True),
        Case(Rule(None, 0), 5, 700, heads=4, kv_heads=2, value_dim=5),
        Case(Rule(2, 1, (1, 3)), 9, 9, bias="full", global_mask=True, key_mask=True, softcap=2.0),
    ],
    ids=str,
)
def test_sums_as_they_are(backend: str, case: Case, dtype: torch.dtype) -> None:
    """The output in float32, and the gradients from one in float32, which is not rounded on the way."""
    tensors = case.tensors(dtype)
    out, lse = case.ours(tensors, out_dtype=torch.float32)
    narrow, narrow_lse = case.ours(tensors)
    assert out.dtype == torch.float32 and torch.equal(out.to(dtype), narrow) and torch.equal(lse, narrow_lse)
    exact = case.exact(tensors)
    assert (out.double() - exact.out).abs().max() <= 800 * ROUNDING[torch.float32] * tensors["v"].double().abs().max()
    check_case(case, dtype, call=lambda given: case.ours(given, out_dtype=torch.float32), out_dtype=torch.float32)


@pytest.mark.best_backend
def test_out_dtype_under_transforms(backend: str) -> None:
    q, k, v = (x.bfloat16().requires_grad_() for x in torch.randn(3, 2, 1, 2, 9, 4).unbind())

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v, (3, 0), out_dtype=torch.float32)

    def loss(*qkv: Tensor) -> Tensor:
        return call(*qkv).sin().sum()

    want = torch.stack([call(q[n], k[n], v[n]) for n in range(2)])
    assert torch.equal(torch.vmap(call)(q, k, v), want)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(q[0], k[0], v[0])
    assert compiled.dtype == torch.float32 and torch.equal(compiled, want[0])
    plain = torch.autograd.grad(loss(q[0], k[0], v[0]), (q, k, v))
    functional = torch.func.grad(loss, argnums=(0, 1, 2))(q[0], k[0], v[0])
    assert all(torch.equal(x[0], y) for x, y in zip(plain, functional, strict=True))
    packed = window_attention_varlen(
        *(x[0, 0].transpose(0, 1) for x in (q, k, v)), *[torch.tensor([0, 9])] * 2, (3, 0), out_dtype=torch.float32
    )
    assert torch.equal(packed.transpose(0, 1), want[0, 0])
    with torch.autocast("cpu", torch.float16):
        assert window_attention(*torch.randn(3, 1, 2, 9, 4), 2, out_dtype=torch.float32).dtype == torch.float32


# ---- what is refused -------------------------------------------------------------------------------------------------------------------
@pytest.mark.best_backend
@pytest.mark.parametrize("name", FUNCTIONS)
def test_out_dtypes_that_are_not_taken(backend: str, name: str) -> None:
    for wrong in (torch.float64, torch.bfloat16, torch.int32, "float32", 32):
        refused(TypeError, name, "out_dtype", str(wrong), out_dtype=wrong)
    wide = {tensor: x.double() if x.is_floating_point() else x for tensor, x in good(name).items() if isinstance(x, Tensor)}
    refused(TypeError, name, "out_dtype", "float32", **wide, out_dtype=torch.float32)


OUT, LSE = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4)
MERGES: list[tuple[type[Exception], Any, Any, str]] = [
    (TypeError, OUT, [LSE], "outs is of type Tensor"),
    (TypeError, [OUT], LSE, "lses is of type Tensor"),
    (TypeError, None, [LSE], "outs is of type NoneType"),
    (TypeError, [OUT, 1], [LSE, LSE], r"outs\[1\] is of type int"),
    (TypeError, [OUT.long()], [LSE], r"outs\[0\] is torch.int64"),
    (TypeError, [OUT], [LSE.bfloat16()], r"lses\[0\] is torch.bfloat16.*float32 or torch.float64"),
    (TypeError, [OUT, OUT.half()], [LSE, LSE], r"outs\[1\] is torch.float16 beside outs\[0\] of torch.float32"),
    (TypeError, [OUT.to_sparse()], [LSE], r"outs\[0\] has the layout"),
    (ValueError, [], [], "outs is empty"),
    (ValueError, [OUT], [LSE, LSE], "lses holds 2 tensors beside 1 outs"),
    (ValueError, [OUT[0]], [LSE[0]], r"outs\[0\] is \(3, 4, 5\).*\(B, H, L, Dv\)"),
    (ValueError, [OUT], [OUT], r"lses\[0\] is .*\(B, H, L\)"),
    (ValueError, [OUT, OUT[:1]], [LSE, LSE], r"outs\[1\] is \(1, 3, 4, 5\)"),
    (ValueError, [OUT], [LSE[:1]], r"lses\[0\] is \(1, 3, 4\).*\(2, 3, 4\)"),
    (ValueError, [OUT], [LSE.to("meta")], r"lses\[0\] is on meta.*cpu"),
    (ValueError, [OUT, OUT.to("meta")], [LSE, LSE], r"outs\[1\] is on meta.*cpu"),
]


@pytest.mark.best_backend
@pytest.mark.parametrize("error, outs, lses, says", MERGES, ids=lambda x: x if isinstance(x, str) else "")
def test_merges_that_are_refused(backend: str, error: type[Exception], outs: Any, lses: Any, says: str) -> None:
    with pytest.raises(error, match="(?s)" + says) as raised:
        merge_states(outs, lses)
    assert raised.type is error and "need" in str(raised.value)

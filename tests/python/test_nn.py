"""tests/python/test_nn.py: `nn.WindowAttention`: torch's module where the window is everything, and its own formula elsewhere."""

from __future__ import annotations

import copy
import io
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from window_matmul import RollingCache, Window, window_attention
from window_matmul.nn import WindowAttention

OPERATOR = "attention"
NEAR = {"rtol": 1e-10, "atol": 1e-10}  # float64: some hundred roundings of numbers of about 1


def module(window: Any = (3, 0), **options: Any) -> WindowAttention:
    attention = WindowAttention(24, 6, window, dtype=torch.float64, **options)
    with torch.no_grad():  # biases, sinks and relative biases start from 0, which would hide them
        for parameter in attention.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return attention


def sequence(batch: int = 2, length: int = 11) -> Tensor:
    return torch.randn(batch, length, 24, dtype=torch.float64)


# ---- beside torch's module ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bias", [True, False])
def test_a_checkpoint_of_torch_loads_and_gives_the_same(backend: str, bias: bool) -> None:
    theirs = nn.MultiheadAttention(24, 6, bias=bias, batch_first=True, dtype=torch.float64)
    ours = WindowAttention(24, 6, None, bias=bias, dtype=torch.float64)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    x, padding = sequence(), torch.rand(2, 11) < 0.3
    padding[:, 0] = False
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], **NEAR)
    torch.testing.assert_close(ours(x, key_mask=~padding), theirs(x, x, x, key_padding_mask=padding, need_weights=False)[0], **NEAR)
    causal = WindowAttention(24, 6, (None, 0), bias=bias, dtype=torch.float64)
    causal.load_state_dict(theirs.state_dict())
    mask = torch.ones(11, 11, dtype=torch.bool).triu(1)
    torch.testing.assert_close(causal(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0], **NEAR)


def test_it_starts_as_torchs_does(backend: str) -> None:
    torch.manual_seed(1)
    theirs = nn.MultiheadAttention(24, 6, batch_first=True)
    torch.manual_seed(1)
    ours = WindowAttention(24, 6, 5)
    limit = math.sqrt(6 / (24 + 3 * 24))  # xavier's
    assert isinstance(ours.in_proj_weight, Tensor) and 0.9 * limit < ours.in_proj_weight.abs().max() <= limit
    assert theirs.in_proj_weight.abs().max() <= limit
    for name in ("in_proj_bias", "out_proj.bias"):
        assert not ours.state_dict()[name].any() and not theirs.state_dict()[name].any()


def test_names_with_fewer_key_value_heads() -> None:
    shapes = {name: tuple(x.shape) for name, x in module(num_kv_heads=2).state_dict().items()}
    assert shapes == {
        "q_proj_weight": (24, 24), "k_proj_weight": (8, 24), "v_proj_weight": (8, 24), "in_proj_bias": (40,),
        "out_proj.weight": (24, 24), "out_proj.bias": (24,),
    }  # fmt: skip
    assert set(module(num_kv_heads=2, bias=False).state_dict()) == {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"}
    theirs = nn.MultiheadAttention(24, 6, kdim=8, vdim=8)
    assert {"q_proj_weight", "k_proj_weight", "v_proj_weight"} < set(theirs.state_dict())


# ---- its formula --------------------------------------------------------------------------------------------------------------------
def rotated(x: Tensor, base: float) -> Tensor:
    """The definition, pair by pair: as complex numbers, times e^(i * position * base^(-2 pair / D))."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half], x[..., half:])
    position, pair = (torch.arange(n, dtype=torch.float64) for n in (x.shape[-2], half))
    turned = pairs * torch.polar(torch.ones(1, dtype=torch.float64), position[:, None] * base ** (-pair / half))
    return torch.cat([turned.real, turned.imag], -1)


def by_hand(attention: WindowAttention, x: Tensor, **options: Any) -> Tensor:
    state = attention.state_dict()
    features = [24, attention.num_kv_heads * 4, attention.num_kv_heads * 4]
    packed = state.get("in_proj_weight")
    weights = [state[f"{name}_proj_weight"] for name in "qkv"] if packed is None else packed.split(features)
    biases = state["in_proj_bias"].split(features) if "in_proj_bias" in state else [torch.zeros(n, dtype=torch.float64) for n in features]
    projected = (x @ weight.mT + bias for weight, bias in zip(weights, biases, strict=True))
    q, k, v = (y.reshape(*x.shape[:2], -1, 4).transpose(1, 2) for y in projected)
    if attention.rotary is not None:
        q, k = rotated(q, attention.rotary), rotated(k, attention.rotary)
    out = window_attention(q, k, v, (attention.window.left, attention.window.right), **options)
    assert isinstance(out, Tensor)
    out = out.transpose(1, 2).reshape(x.shape) @ state["out_proj.weight"].mT
    return out + state["out_proj.bias"] if "out_proj.bias" in state else out


@pytest.mark.parametrize(
    "made, options",
    [
        ({}, {}),
        ({"bias": False}, {}),
        ({"num_kv_heads": 2}, {}),
        ({"num_kv_heads": 1, "bias": False}, {}),
        ({"rotary": 10000.0}, {}),
        ({"rotary": 50, "num_kv_heads": 3}, {}),
        ({"dilation": 2}, {"dilation": 2}),
        ({"window": Window(3, 1, 2)}, {"dilation": 2}),
        ({"dilation": (1, 1, 2, 2, 3, 3)}, {"dilation": (1, 1, 2, 2, 3, 3)}),
        ({"dilation": [2] * 6}, {"dilation": 2}),
        ({"global_tokens": 2}, {"global_tokens": 2}),
        ({"window": 2, "global_tokens": 2}, {"global_tokens": 2}),
        ({"scale": 0.7, "softcap": 2.0}, {"scale": 0.7, "softcap": 2.0}),
        ({"window": (None, None)}, {}),
    ],
    ids=str,
)
def test_options_reach_the_operator(backend: str, made: dict[str, Any], options: dict[str, Any]) -> None:
    attention, x = module(**made), sequence()
    torch.testing.assert_close(attention(x), by_hand(attention, x, **options), **NEAR)


def test_learned_options_reach_the_operator(backend: str) -> None:
    attention, x = module((3, 1), relative_bias=True, sinks=True), sequence()
    learned = {"bias": attention.relative_bias, "sinks": attention.sinks}
    torch.testing.assert_close(attention(x), by_hand(attention, x, **learned), **NEAR)
    for shape in ((6, 5), (2, 6, 11, 5)):
        bias = torch.randn(shape, dtype=torch.float64)
        both = bias + (learned["bias"][:, None] if bias.ndim == 4 else learned["bias"])
        torch.testing.assert_close(attention(x, bias=bias), by_hand(attention, x, **learned | {"bias": both}), **NEAR)
    attention(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in attention.parameters())


def test_options_of_a_call(backend: str) -> None:
    attention, x = module(2, global_tokens=1), sequence()
    for options in (
        {"key_mask": torch.rand(2, 11) < 0.7},
        {"global_tokens": 3},
        {"global_tokens": torch.rand(2, 11) < 0.3},
        {"bias": torch.randn(6, 5, dtype=torch.float64)},
    ):
        torch.testing.assert_close(attention(x, **options), by_hand(attention, x, **{"global_tokens": 1} | options), **NEAR)


def test_gradients(backend: str) -> None:
    attention = module((2, 0), num_kv_heads=2, rotary=100.0, sinks=True, relative_bias=True)
    x = sequence(1, 5).requires_grad_()
    names, parameters = zip(*attention.named_parameters(), strict=True)
    names = list(names)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def test_dropout_is_for_training(backend: str) -> None:
    attention, x = module(dropout=0.5), sequence()
    torch.manual_seed(3)
    first = attention(x)
    torch.manual_seed(3)
    assert torch.equal(attention(x), first) and not torch.equal(attention(x), first)
    without = module()
    without.load_state_dict(attention.state_dict())
    assert torch.equal(attention.eval()(x), without(x))


# ---- decoding -----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_kv_heads": 2, "rotary": 10000.0},
        {"global_tokens": 2, "dilation": 2},
        {"sinks": True, "relative_bias": True, "softcap": 3.0},
    ],
    ids=str,
)
def test_pieces_through_a_cache_are_the_whole(backend: str, options: dict[str, Any]) -> None:
    attention, x = module((5, 0), **options).eval(), sequence(length=40)
    with torch.inference_mode():
        cache = attention.new_cache(2, spare=2)
        attention(x[:, 3:5], cache=cache)
        cache.crop(2)
        pieces = [attention(piece, cache=cache) for piece in x.split([19, 1, 1, 4, 1, 14], 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), attention(x), **NEAR)


def test_rows_of_different_lengths_have_their_own_positions(backend: str) -> None:
    attention, x = module((5, 0), rotary=30.0).eval(), sequence(batch=3, length=9)
    with torch.inference_mode():
        cache = attention.new_cache(3)
        attention(x, cache=cache)
        cache.reset([1])
        out = attention(x[:, :4], cache=cache)
        torch.testing.assert_close(out[1:2], attention(x[1:2, :4]), **NEAR)
        for row in (0, 2):
            whole = attention(torch.cat([x[row : row + 1], x[row : row + 1, :4]], 1))
            torch.testing.assert_close(out[row : row + 1], whole[:, 9:], **NEAR)


def test_a_cache_under_autocast(backend: str) -> None:
    attention, x = WindowAttention(24, 6, (5, 0), num_kv_heads=2, rotary=100.0).eval(), torch.randn(1, 12, 24)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        cache = attention.new_cache(1)
        pieces = torch.cat([attention(piece, cache=cache) for piece in x.split([8, 1, 3], 1)], 1)
        torch.testing.assert_close(pieces, attention(x), rtol=2**-5, atol=2**-5)
    assert attention.new_cache(1, dtype=torch.float16)._keys.dtype == torch.float16


# ---- as a module --------------------------------------------------------------------------------------------------------------------
def test_dtypes_devices_and_copies() -> None:
    attention = module(num_kv_heads=2, rotary=10000.0)
    file = io.BytesIO()
    torch.save(attention.state_dict(), file)
    file.seek(0)
    half = WindowAttention(24, 6, (3, 0), num_kv_heads=2, rotary=10000.0).bfloat16()
    half.load_state_dict(torch.load(file))
    x = sequence(length=200)
    with torch.inference_mode():
        torch.testing.assert_close(half(x.bfloat16()).double(), attention(x), rtol=0.1, atol=0.3)
        assert torch.equal(copy.deepcopy(attention)(x), attention(x))
    assert WindowAttention(24, 6, 3, device="meta").out_proj.weight.is_meta
    assert module(num_kv_heads=2, rotary=1e4, dropout=0.1, global_tokens=3, dilation=2).extra_repr() == (
        "24, 6, (3, 0), num_kv_heads=2, dilation=2, global_tokens=3, dropout=0.1, rotary=10000.0"
    )


def test_compiled(backend: str) -> None:
    attention, x = module(num_kv_heads=2, rotary=100.0), sequence()
    torch.testing.assert_close(torch.compile(attention, backend="aot_eager", fullgraph=True)(x), attention(x), **NEAR)


WRONG: list[tuple[type[Exception], dict[str, Any], str]] = [
    (ValueError, {"embed_dim": 25}, "embed_dim is 25.*multiple of num_heads, 6"),
    (ValueError, {"num_heads": 0}, "num_heads is 0"),
    (TypeError, {"embed_dim": 24.0}, "embed_dim is 24.0"),
    (ValueError, {"num_kv_heads": 4}, "num_kv_heads is 4.*divide num_heads, 6"),
    (ValueError, {"window_size": -3}, "window_size is -3"),
    (TypeError, {"window_size": "3"}, "window_size is '3'"),
    (ValueError, {"dilation": (1, 2)}, r"dilation is \(1, 2\).*6 heads"),
    (ValueError, {"dilation": 0}, "dilation is 0"),
    (ValueError, {"window_size": Window(1, 1, 2), "dilation": 3}, "dilation is 3 beside Window"),
    (ValueError, {"global_tokens": -1}, "global_tokens is -1"),
    (ValueError, {"dropout": 1.5}, "dropout is 1.5"),
    (TypeError, {"dropout": "0"}, "dropout is '0'"),
    (ValueError, {"rotary": 0.0}, "rotary is 0.0"),
    (TypeError, {"rotary": True}, "rotary is True"),
    (ValueError, {"rotary": 10.0, "embed_dim": 18}, "rotary is 10.0 with 3 features.*even"),
    (ValueError, {"window_size": None, "relative_bias": True}, "window_size is None with relative_bias.*bounded"),
    (TypeError, {"relative_bias": 1}, "relative_bias is 1"),
    (TypeError, {"sinks": torch.zeros(6)}, "sinks is"),
    (TypeError, {"bias": None}, "bias is None"),
    (ValueError, {"softcap": -1.0}, "softcap is -1"),
    (TypeError, {"scale": "a"}, "scale is 'a'"),
    (ValueError, {"device": "here"}, "device is 'here'.*name"),
    (TypeError, {"dtype": torch.int64}, "dtype is torch.int64.*float32"),
]


@pytest.mark.best_backend
@pytest.mark.parametrize("error, wrong, says", WRONG, ids=lambda x: str(x)[:50])
def test_modules_that_are_refused(error: type[Exception], wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(error, match=says):
        WindowAttention(**({"embed_dim": 24, "num_heads": 6, "window_size": (3, 0)} | wrong))


@pytest.mark.best_backend
def test_calls_that_are_refused(backend: str) -> None:
    attention, x = module(), sequence()
    cache, mask = attention.new_cache(2), torch.ones(2, 11, dtype=torch.bool)
    refused: list[tuple[type[Exception], Any, dict[str, Any], str]] = [
        (TypeError, [1.0], {}, "x is of type list"),
        (ValueError, x[0], {}, r"x is \(11, 24\).*batch, length, 24"),
        (ValueError, x[..., :12], {}, "x is .*12"),
        (TypeError, x, {"key_mask": mask.int()}, "key_mask"),
        (ValueError, x, {"bias": torch.zeros(6, 3, dtype=torch.float64)}, "bias"),
        (ValueError, x, {"cache": cache, "key_mask": mask}, "key_mask is given beside cache"),
        (ValueError, x, {"cache": cache, "global_tokens": 1}, "global_tokens is given beside cache"),
        (ValueError, x, {"cache": RollingCache(2, 6, 4, (2, 0), dtype=torch.float64)}, r"cache has Window\(left=2.*Window\(left=3"),
        (ValueError, x, {"cache": RollingCache(2, 6, 4, (3, 0), num_pinned=1, dtype=torch.float64)}, "1 pinned tokens.* and 0"),
        (ValueError, x, {"cache": cache}, "requires grad"),
        (TypeError, x, {"cache": 3}, "cache is of type int"),
    ]
    for error, value, options, says in refused:
        with pytest.raises(error, match=says):
            attention(value, **options)
    with torch.no_grad(), pytest.raises(ValueError, match=r"dropout is 0.5 in training.*eval"):
        module(dropout=0.5)(x, cache=cache)
    for window in (3, (None, 0)):
        with pytest.raises(ValueError, match="window_size"):
            module(window).new_cache(2)
    with pytest.raises(ValueError, match=re.escape("dilation is (1, 1, 1, 1, 1, 2)")):
        module(dilation=(1, 1, 1, 1, 1, 2)).new_cache(2)

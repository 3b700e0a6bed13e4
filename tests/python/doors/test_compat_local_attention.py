"""tests/python/doors/test_compat_local_attention.py: LocalAttention is the one of local-attention 1.11, option by option and together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from local_attention import LocalAttention as Peer
from torch import Tensor

from window_matmul.compat.local_attention import LocalAttention

pytestmark = pytest.mark.best_backend

BATCH, HEADS, SIZE, DIM = 2, 3, 4, 6
SPANS: list[dict[str, Any]] = [
    {"causal": True},
    {"causal": True, "look_backward": 2},
    {"causal": True, "look_backward": 0},
    {},
    {"look_backward": 2, "look_forward": 0},
    {"look_backward": 0, "look_forward": 2},
]
OPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {  # of the constructor, and of the call
    "plain": ({}, set()),
    "rotary": ({"dim": DIM}, set()),
    "old name of dim": ({"rel_pos_emb_config": (DIM, 8)}, set()),
    "rotary off": ({"dim": DIM, "use_rotary_pos_emb": False, "scale": 0.7}, set()),
    "xpos": ({"dim": DIM, "use_xpos": True}, set()),
    "xpos, a base and a window of the call": ({"dim": DIM, "use_xpos": True, "xpos_scale_base": 7}, {"window_size"}),
    "shared": ({"shared_qk": True}, set()),
    "mask": ({}, {"mask"}),
    "bias": ({"dim": DIM}, {"bias"}),
    "bias of one head": ({}, {"bias of one head", "mask"}),
    "autopad": ({"autopad": True}, {"odd length"}),
    "shared, mask, autopad": ({"shared_qk": True, "autopad": True, "dim": DIM}, {"mask", "odd length"}),
    "shared, mask, bias": ({"shared_qk": True}, {"mask", "bias"}),
    "all": ({"autopad": True, "shared_qk": True, "use_xpos": True, "dim": DIM, "scale": 0.5}, {"mask", "bias", "odd length"}),
}


def call_of(names: set[str], buckets: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """q, k, v and attn_bias, and the rest."""
    length = 22 if "odd length" in names else 24
    tensors = {name: torch.randn(BATCH, HEADS, length, DIM, dtype=torch.float64, requires_grad=True) for name in "qkv"}
    others: dict[str, Any] = {}
    if names & {"bias", "bias of one head"}:
        heads = 1 if "bias of one head" in names else HEADS
        tensors["attn_bias"] = torch.randn(heads, SIZE, buckets * SIZE, dtype=torch.float64, requires_grad=True)
    if "mask" in names:
        others["mask"] = torch.rand(BATCH, length) < 0.6
        others["mask"][0, 3:] = False  # most queries of this entry see nothing
    if "window_size" in names:
        others["window_size"] = 2 * SIZE
    return tensors, others


@pytest.mark.parametrize("exact", [False, True], ids=["buckets", "exact"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("span", SPANS, ids=str)
def test_values_and_gradients(span: dict[str, Any], options: str, exact: bool) -> None:
    constructor, names = OPTIONS[options]
    arguments = {"window_size": SIZE, "exact_windowsize": exact} | span | constructor
    peer, ours = Peer(**arguments).double(), LocalAttention(**arguments).double()
    assert peer.state_dict().keys() == ours.state_dict().keys()
    ours.load_state_dict(peer.state_dict())
    tensors, others = call_of(names, peer.look_backward + 1 + peer.look_forward)
    expected, result = (module(**tensors, **others) for module in (peer, ours))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)
    weight = torch.randn_like(expected)
    gradients = (torch.autograd.grad(x, list(tensors.values()), weight) for x in (expected, result))
    for right, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, right, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(24, DIM), (5, 24, DIM), (2, 2, 3, 24, DIM)])
def test_leading_dims(shape: tuple[int, ...]) -> None:
    q, k, v = torch.randn(3, *shape)
    mask = torch.rand(2, 24) < 0.9 if len(shape) == 5 else None
    arguments = {"window_size": SIZE, "causal": True, "exact_windowsize": True}
    x = q if len(shape) > 2 else q[None]
    theirs = Peer(**arguments)(*(y if len(shape) > 2 else y[None] for y in (q, k, v)), input_mask=mask).view(x.shape)
    result = LocalAttention(**arguments)(q, k, v, input_mask=mask)
    assert result.shape == q.shape
    torch.testing.assert_close(result.view(x.shape), theirs, rtol=1e-5, atol=1e-6)


def test_rotary_of_long_sequences_is_not_rounded_by_their_length() -> None:
    arguments = {"window_size": 16, "dim": 8, "causal": True, "exact_windowsize": True}
    q, k, v = torch.randn(3, 1, 1 << 14, 8)
    right = Peer(**arguments).double()(q.double(), k.double(), v.double())
    theirs, ours = (module(**arguments)(q, k, v).double() for module in (Peer, LocalAttention))
    assert (ours - right).abs().max() <= 2 * (theirs - right).abs().max()


def test_dropout_in_training_alone() -> None:
    q, k = torch.zeros(2, 1, 4096, 8)
    ours = LocalAttention(16, dropout=0.25, exact_windowsize=True)
    v = torch.ones(1, 4096, 8)
    sums = ours(q, k, v)[0, 16:-16, 0]
    assert float(sums.std()) == pytest.approx((0.25 / 0.75 / 33) ** 0.5, rel=0.1)
    torch.testing.assert_close(ours.eval()(q, k, v), v)


@pytest.mark.parametrize("name", ["window_size", "look_backward", "look_forward"])
@pytest.mark.parametrize("size", [2.5, True, "4"])
def test_sizes_that_are_no_ints(name: str, size: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} is {size!r}"):
        LocalAttention(**{"window_size": SIZE} | {name: size})


@pytest.mark.parametrize("name", ["causal", "shared_qk", "autopad", "exact_windowsize", "use_rotary_pos_emb", "use_xpos"])
@pytest.mark.parametrize("flag", [1, None, "no"])
def test_flags_that_are_none(name: str, flag: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} is {flag!r}"):
        LocalAttention(SIZE, **{name: flag})


@pytest.mark.parametrize(
    ("constructor", "call", "message"),
    [
        ({"dropout": "0.1"}, {}, "dropout is '0.1'"),
        ({"dim": 6.0}, {}, "dim is 6.0"),
        ({"rel_pos_emb_config": 6}, {}, "rel_pos_emb_config is 6"),
        ({"xpos_scale_base": "4"}, {}, "xpos_scale_base is '4'"),
        ({"use_xpos": True, "dim": 6}, {"window_size": 4.0}, "window_size is 4.0"),
        ({}, {"mask": torch.ones(2, 24)}, "mask is torch.float32.*bool"),
        ({}, {"input_mask": [True]}, "input_mask is of type list"),
        ({}, {"attn_bias": 1.0}, "attn_bias is of type float"),
    ],
)
def test_arguments_of_a_wrong_type(constructor: dict[str, Any], call: dict[str, Any], message: str) -> None:
    x = torch.zeros(2, 3, 24, 6)
    with pytest.raises(TypeError, match=message):
        LocalAttention(**{"window_size": SIZE} | constructor)(**{"q": x, "k": x, "v": x} | call)


def test_no_places() -> None:
    x = torch.zeros(2, 0, 6)
    assert LocalAttention(SIZE)(x, x, x).shape == (2, 0, 6)
    with pytest.raises(TypeError, match="k is of type ndarray"):
        LocalAttention(SIZE)(x, x.numpy(), x)


@pytest.mark.parametrize(
    ("constructor", "call", "message"),
    [
        ({"causal": True, "look_forward": 1}, {}, "look_forward is 1 with causal=True"),
        ({"window_size": 0}, {}, "window_size is 0"),
        ({"look_backward": -1}, {}, "look_backward is -1"),
        ({}, {"window_size": 8}, "window_size is 8; it needs to be None without use_xpos"),
        ({"window_size": 5}, {}, "q has 24 places"),
        ({"use_xpos": True, "dim": 6}, {"window_size": 0}, "window_size is 0"),
        ({"use_xpos": True, "dim": 6, "window_size": 1}, {}, "xpos_scale_base is None with window_size 1"),
        ({"xpos_scale_base": -1.0}, {}, "xpos_scale_base is -1.0"),
        ({"dropout": 1.5}, {}, "dropout is 1.5"),
        ({"dim": 4}, {}, "head dim of 6.*dim, 4"),
        ({}, {"k": torch.zeros(2, 3, 20, 6)}, r"k is \(2, 3, 20, 6\) beside q"),
        ({}, {"mask": torch.ones(2, 20, dtype=torch.bool)}, r"mask is \(2, 20\)"),
        ({}, {"mask": torch.ones(4, 24, dtype=torch.bool)}, r"mask is \(4, 24\)"),
        ({}, {"attn_bias": torch.zeros(3, 4, 8)}, r"attn_bias is \(3, 4, 8\).*\(h, 4, 12\)"),
    ],
)
def test_errors_name_the_argument(constructor: dict[str, Any], call: dict[str, Any], message: str) -> None:
    x = torch.zeros(2, 3, 24, 6)
    with pytest.raises(ValueError, match=message):
        LocalAttention(**{"window_size": SIZE} | constructor)(**{"q": x, "k": x, "v": x} | call)

"""tests/python/doors/test_longformer.py: patched Longformer and LED models are the stock ones: outputs, attentions, every gradient."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LEDConfig, LEDModel, LongformerConfig, LongformerForMaskedLM, LongformerModel
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from window_matmul.hf import patch_longformer, unpatch

pytestmark = pytest.mark.best_backend

VOCABULARY, LENGTH = 40, 21  # the length is no multiple of any window
Model = nn.Module

# The 1s of attention_mask and global_attention_mask of two entries; None for no mask. Heads have 8 dims: up to 2 global tokens are few.
FULL = [range(LENGTH)] * 2
MASKS: dict[str, tuple[Any, Any]] = {
    "no masks": (None, None),
    "padding right": ([range(15), range(LENGTH)], None),
    "padding inside": ([set(range(LENGTH)) - {3, 4, 11}, set(range(LENGTH)) - {0, 20}], None),
    "one global token each": (None, [{0}, {0}]),
    "global tokens elsewhere": ([range(18), range(LENGTH)], [{0, 9}, {20}]),
    "global tokens in one entry": (None, [{2, 3, 4, 13}, set()]),
    "more than few": ([range(19), set(range(LENGTH)) - {7}], [{0, 1, 2, 12}, {5, 20}]),
    "a padded global token": ([range(15), range(LENGTH)], [{0, 17}, {8}]),
    "an entry of padding": ([range(LENGTH), set()], [{0}, set()]),
}


@pytest.fixture(autouse=True)
def softmax_in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stock layers take the softmax of float64 scores in float32, whose rounding would hide everything below 1e-7."""
    softmax = nn.functional.softmax

    def exact(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return softmax(x, dim, dtype=x.dtype if x.dtype is torch.float64 else dtype)

    monkeypatch.setattr(nn.functional, "softmax", exact)
    yield


def longformer(windows: list[int], **options: Any) -> LongformerModel:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 200}
    no_dropout = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    config = LongformerConfig(attention_window=windows, num_hidden_layers=len(windows), pad_token_id=1, **sizes, **no_dropout | options)
    return LongformerModel(config).double()


def led() -> nn.Module:
    sizes = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "vocab_size": VOCABULARY,
    }
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    lengths = {"max_encoder_position_embeddings": 200, "max_decoder_position_embeddings": 64}
    return LEDModel(LEDConfig(attention_window=[4, 6], **sizes, **heads, **no_dropout, **lengths)).encoder.double()


def as_mask(entries: Any, length: int) -> Tensor | None:
    if entries is None:
        return None
    return torch.tensor([[int(place in entry) for place in range(length)] for entry in entries])


def inputs(masks: str = "global tokens elsewhere", length: int = LENGTH) -> dict[str, Any]:
    attention, glob = (as_mask(entries, length) for entries in MASKS[masks])
    return {"input_ids": torch.randint(2, VOCABULARY, (2, length)), "attention_mask": attention, "global_attention_mask": glob}


def results_of(model: Model, call: dict[str, Any]) -> dict[str, Tensor]:
    """Everything the model returns, and every gradient of a weighted sum of it."""
    model.zero_grad()
    output = model(**call)
    tensors = {
        f"{name}[{n}]": x
        for name, value in output.items()
        for n, x in enumerate(value if isinstance(value, tuple) else (value,))
        if isinstance(x, Tensor)
    }
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, dtype=x.dtype, generator=generator)).sum() for x in tensors.values())
    assert isinstance(loss, Tensor)
    loss.backward()
    gradients = {f"d {name}": p.grad for name, p in model.named_parameters()}
    return {name: x for name, x in (tensors | gradients).items() if x is not None}


def assert_same(stock: Model, patched: Model, call: dict[str, Any]) -> None:
    expected, results = results_of(stock, call), results_of(patched, call)
    assert results.keys() == expected.keys()
    for name, x in results.items():
        scale = max(1.0, float(expected[name].detach().abs().max())) if x.numel() else 1.0
        torch.testing.assert_close(x, expected[name], rtol=0, atol=1e-10 * scale, msg=lambda text, name=name: f"{name}: {text}")


def both(model: Model) -> tuple[Model, Model]:
    return model, patch_longformer(copy.deepcopy(model))


@pytest.mark.parametrize("attentions", [False, True], ids=["fused", "attentions"])
@pytest.mark.parametrize("masks", MASKS)
def test_longformer_is_the_stock_model(masks: str, attentions: bool) -> None:
    stock, patched = both(longformer([4, 8, 6]))
    assert_same(stock, patched, inputs(masks) | {"output_attentions": attentions, "output_hidden_states": True})


@pytest.mark.parametrize("length", [3, 8, 24, 30])
@pytest.mark.parametrize("attentions", [False, True], ids=["fused", "attentions"])
def test_every_length_and_evaluation(length: int, attentions: bool) -> None:
    stock, patched = both(longformer([8, 4]).eval())
    call = {"input_ids": torch.randint(2, VOCABULARY, (2, length)), "output_attentions": attentions}
    assert_same(stock, patched, call | {"global_attention_mask": as_mask([{0}, {length - 1, 1}], length)})


@pytest.mark.parametrize("masks", ["no masks", "padding right", "global tokens elsewhere"])
@pytest.mark.parametrize("attentions", [False, True], ids=["fused", "attentions"])
def test_the_encoder_of_led(masks: str, attentions: bool) -> None:
    stock, patched = both(led())
    assert_same(stock, patched, inputs(masks) | {"output_attentions": attentions})


def test_gradient_checkpointing() -> None:
    stock, patched = both(longformer([4, 4]))
    patched.gradient_checkpointing_enable()
    assert_same(stock, patched, inputs())


class Largest(TorchDispatchMode):
    """The number of elements of the largest result while it is entered."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **kwargs or {})
        stored = (x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(results) if isinstance(x, Tensor))
        self.numel = max(self.numel, *stored, 0)
        return results


def largest_of(model: Model, length: int) -> int:
    call = {"input_ids": torch.randint(2, VOCABULARY, (1, length)), "attention_mask": torch.ones(1, length, dtype=torch.long)}
    with torch.no_grad(), Largest() as largest:
        model(**call)
    return largest.numel


def test_nothing_grows_with_the_square_of_the_length() -> None:
    """The stock models make a mask of L x L besides (Longformer's from transformers 5 on)."""
    length, square = 192, 192**2
    assert largest_of(patch_longformer(longformer([4]).eval()), length) < square // 2
    stock, patched = both(led().eval())
    assert largest_of(stock, length) >= square
    assert largest_of(patched, length) < square // 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_are_as_far_from_float64_as_the_stock_model_is(dtype: torch.dtype) -> None:
    exact = longformer([4, 8]).eval()
    stock, patched = both(copy.deepcopy(exact).to(dtype))
    call = inputs("more than few")
    with torch.no_grad():
        right, theirs, ours = (model(**call).last_hidden_state.double() for model in (exact, stock, patched))
    assert (ours - right).abs().max() <= 2 * (theirs - right).abs().max()
    assert patched(**call).last_hidden_state.dtype is dtype


def test_masks_that_disagree_are_taken_as_the_stock_layer_takes_them() -> None:
    """A token that is global and in the windows counts twice there."""
    layer = longformer([4]).encoder.layer[0].attention.self
    patched = patch_longformer(nn.Sequential(copy.deepcopy(layer)))[0]
    glob = torch.zeros(1, 8, dtype=torch.bool).index_fill(1, torch.tensor([2]), True)
    x, nothing = torch.randn(1, 8, 32, dtype=torch.float64), torch.zeros(1, 8, dtype=torch.float64)
    masks = {"attention_mask": nothing, "is_index_masked": nothing < 0, "is_index_global_attn": glob, "is_global_attn": True}
    torch.testing.assert_close(patched(x, **masks), layer(x, **masks), rtol=0, atol=1e-10)


def test_dropout_drops_weights_and_keeps_their_mean() -> None:
    """Values of 1 make each output the sum of the weights that were kept: 1 in the mean, and 0 or more."""
    p, length = 0.25, 512
    model = patch_longformer(longformer([32], attention_probs_dropout_prob=p))
    layer = model.encoder.layer[0].attention.self
    for value in (layer.value, layer.value_global):
        nn.init.zeros_(value.weight)
        nn.init.ones_(value.bias)
    for query in (layer.query, layer.query_global):
        nn.init.zeros_(query.weight)  # all weights equal
        nn.init.zeros_(query.bias)
    glob = torch.zeros(1, length, dtype=torch.bool).index_fill(1, torch.tensor([0]), True)
    masks = {"attention_mask": glob.double(), "is_index_masked": glob & False, "is_index_global_attn": glob, "is_global_attn": True}
    with torch.no_grad():
        sums = layer.train()(torch.randn(1, length, 32, dtype=torch.float64), **masks)[0].unflatten(-1, (4, 8))
        again = layer(torch.randn(1, length, 32, dtype=torch.float64), **masks)[0].unflatten(-1, (4, 8))
        evaluated = layer.eval()(torch.randn(1, length, 32, dtype=torch.float64), **masks)[0]
    torch.testing.assert_close(sums[..., :1].expand_as(sums), sums)
    local, glob_sums = sums[0, 40:-40, :, 0], sums[0, 0, :, 0]
    deviation = (p / (1 - p) / 34) ** 0.5  # of the mean of 34 weights: 33 of the window and the global one
    assert float(local.std()) == pytest.approx(deviation, rel=0.1)
    assert abs(float(local.mean()) - 1) < 5 * deviation / local.numel() ** 0.5
    assert ((glob_sums - 1).abs() < 5 * (p / (1 - p) / length) ** 0.5).all() and (glob_sums != 1).any()
    assert not torch.equal(again, sums)
    torch.testing.assert_close(evaluated, torch.ones_like(evaluated))


def test_patching_changes_nothing_that_is_saved_and_is_undone() -> None:
    model = LongformerForMaskedLM(longformer([4]).config).double().eval()
    before = copy.deepcopy(model.state_dict())
    stock_class = type(model.longformer.encoder.layer[0].attention.self)
    assert patch_longformer(model) is model and patch_longformer(model) is model
    layer = model.longformer.encoder.layer[0].attention.self
    assert isinstance(layer, LongformerSelfAttention) and type(layer) is not LongformerSelfAttention
    assert type(layer).__name__ == "LongformerSelfAttention"
    assert isinstance(model.longformer, LongformerModel) and type(model.longformer) is not LongformerModel
    assert type(pickle.loads(pickle.dumps(layer))) is type(layer)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert unpatch(model) is model and type(layer) is stock_class and type(model.longformer) is LongformerModel


def test_what_cannot_be_patched_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model is a Linear without a layer to patch.*LongformerSelfAttention or LEDEncoderSelfAttention"):
        patch_longformer(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="model is str"):
        patch_longformer("longformer")  # type: ignore[type-var]

    class Own(LongformerSelfAttention):  # type: ignore[misc]
        pass

    model = longformer([4])
    model.encoder.layer[0].attention.self.__class__ = Own
    with pytest.raises(ValueError, match="a subclass of what can be patched"):
        patch_longformer(model)

"""tests/python/doors/test_bigbird.py: patched BigBird models are the stock ones, with blocks drawn at random and with the plan of zeros."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BigBirdConfig, BigBirdModel, BigBirdPegasusConfig, BigBirdPegasusModel

from window_matmul import compat
from window_matmul.hf import patch_bigbird, unpatch

pytestmark = pytest.mark.best_backend

VOCABULARY, BLOCK = 40, 4


def bigbird(block: int = BLOCK, random_blocks: int = 2, layers: int = 2, max_length: int = 128) -> BigBirdModel:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": VOCABULARY, "num_hidden_layers": layers}
    no_dropout = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    blocks = {"block_size": block, "num_random_blocks": random_blocks, "max_position_embeddings": max_length}
    return BigBirdModel(BigBirdConfig(attention_type="block_sparse", **sizes, **no_dropout, **blocks)).double()


def bigbird_pegasus() -> BigBirdPegasusModel:
    sizes = {"d_model": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 128, "block_size": BLOCK, "num_random_blocks": 2}
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 16), ("attention_heads", 2))}
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    return BigBirdPegasusModel(BigBirdPegasusConfig(attention_type="block_sparse", **sizes, **sides, **no_dropout)).double()


def both(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    return model, patch_bigbird(copy.deepcopy(model))


def inputs(length: int, hidden: tuple[range, range] | None = None) -> dict[str, Any]:
    mask = torch.ones(2, length)
    for row, places in zip(mask, hidden or (), strict=False):
        row[list(places)] = 0
    return {"input_ids": torch.randint(2, VOCABULARY, (2, length)), "attention_mask": mask}


def results_of(model: nn.Module, call: dict[str, Any]) -> dict[str, Tensor]:
    model.zero_grad()
    hidden = model(**call).last_hidden_state
    hidden.mul(torch.randn(hidden.shape, dtype=hidden.dtype, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {"hidden": hidden} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(stock: nn.Module, patched: nn.Module, call: dict[str, Any]) -> None:
    expected, results = results_of(stock, call), results_of(patched, call)
    assert results.keys() == expected.keys()
    for name, x in results.items():
        scale = max(1.0, float(expected[name].detach().abs().max()))
        torch.testing.assert_close(x, expected[name], rtol=0, atol=1e-10 * scale, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("random_blocks", [1, 3])
@pytest.mark.parametrize(
    "hidden", [None, (range(50, 60), range(0, 3)), (range(60), range(20, 31))], ids=["all", "padded", "an empty entry"]
)
def test_bigbird_is_the_stock_model(hidden: Any, random_blocks: int, training: bool) -> None:
    stock, patched = both(bigbird(random_blocks=random_blocks).train(training))
    assert_same(stock, patched, inputs(60, hidden))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_encoder_of_bigbird_pegasus(training: bool) -> None:
    stock, patched = both(bigbird_pegasus().train(training))
    assert_same(stock, patched, inputs(60, (range(50, 60), range(0, 3))) | {"decoder_input_ids": torch.arange(2, 10).expand(2, -1)})


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("length", [37, 46, 49])
def test_lengths_around_what_is_computed_in_full(length: int, training: bool) -> None:
    """Up to 9 blocks the model goes over to full attention, and stays there; lengths are padded to whole blocks."""
    stock, patched = both(bigbird().train(training))
    assert_same(stock, patched, inputs(length))
    assert stock.attention_type == patched.attention_type == ("block_sparse" if length > 36 else "original_full")
    assert_same(stock, patched, inputs(20))
    assert patched.attention_type == "original_full"


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_lengths_with_a_plan_of_their_own(training: bool) -> None:
    stock, patched = both(bigbird(block=64, random_blocks=3, layers=1, max_length=1100).train(training))
    assert_same(stock, patched, inputs(1024))


def test_training_leaves_numpy_where_the_stock_model_leaves_it() -> None:
    states = []
    for model in both(bigbird().train()):
        model(**inputs(60))
        states.append(np.random.get_state()[1:])
    assert all(np.array_equal(a, b) for a, b in zip(*states, strict=True))


def test_attentions_are_those_of_the_stock_layer_and_refused_in_strict_mode() -> None:
    stock, patched = both(bigbird().float().eval())  # in 4.57 the stock layer has attentions in float32 alone
    call = inputs(60) | {"output_attentions": True}
    compat._said.clear()
    with torch.no_grad(), pytest.warns(compat.WindowFallbackWarning, match="attentions are asked for"):
        results = patched(**call)
    with torch.no_grad():
        expected = stock(**call)
    assert len(results.attentions) == len(expected.attentions) == 2
    for x, right in zip(results.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(x, right, rtol=0, atol=1e-5)
    with compat.strict(), torch.no_grad():
        assert patched(**inputs(60)).attentions is None
        with pytest.raises(RuntimeError, match="attentions are asked for"):
            patched(**call)


def test_a_mask_of_fractions_is_taken_as_the_stock_layer_takes_it() -> None:
    stock, patched = both(bigbird().eval())
    call = inputs(60)
    call["attention_mask"] = call["attention_mask"] * 0.9999
    compat._said.clear()
    with pytest.warns(compat.WindowFallbackWarning, match="other than 0 and 1"):
        assert_same(stock, patched, call)


def test_unpatching_and_refusals() -> None:
    stock, patched = both(bigbird())
    assert patched.state_dict().keys() == stock.state_dict().keys()
    layer = patched.encoder.layer[0].attention.self
    assert type(layer) is not type(stock.encoder.layer[0].attention.self)
    assert unpatch(patched) is patched
    assert type(layer) is type(stock.encoder.layer[0].attention.self)
    with pytest.raises(ValueError, match=r"model is a Linear without a layer to patch.*BigBirdBlockSparseAttention"):
        patch_bigbird(nn.Linear(2, 2))

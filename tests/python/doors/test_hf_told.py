"""tests/python/doors/test_hf_told.py: what single models tell their attention function, or do with masks, beyond what all do."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import masking_utils

import window_matmul.hf
from door_models import IS_4, batch, difference, from_sizes, run
from test_hf_function import LAYER, formula, operands, same
from window_matmul import compat
from window_matmul.compat import WindowFallbackWarning, strict
from window_matmul.hf import attention_forward
from window_matmul.hf._patterns import WindowMask

pytestmark = pytest.mark.best_backend
ROWS = 9
DISTANCE = torch.arange(ROWS) - torch.arange(ROWS)[:, None]
WINDOW = (DISTANCE <= 0) & (DISTANCE > -3)
APART = (torch.arange(ROWS) < 4) == (torch.arange(ROWS)[:, None] < 4)
BOUNDS = torch.tensor([0, 4, ROWS])


def densely(match: str, *args: Any, **options: Any) -> Tensor:
    """The dense way: refused where that is asked for, else said."""
    with strict(), pytest.raises(RuntimeError, match=match):
        attention_forward(LAYER, *args, **options)
    compat._said.clear()
    with pytest.warns(WindowFallbackWarning, match=match):
        return attention_forward(LAYER, *args, **options)[0]


# ---- a logit for each query ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["window", "packed", "dense"])
def test_sinks_of_queries(kind: str) -> None:
    """With a gradient of their own; a query far below its sink has no output, and one without keys neither."""
    q, k, v = (x[:1].detach().requires_grad_() for x in operands())
    sinks = torch.randn(1, 4, ROWS, 1, dtype=torch.float64)
    sinks[0, 0, 3] = 900.0
    sinks.requires_grad_()
    seen = {"window": WINDOW, "packed": WINDOW & APART, "dense": (torch.rand(ROWS, ROWS) < 0.5) | torch.eye(ROWS).bool()}[kind]
    scores = (q @ k.repeat_interleave(2, 1).mT * 0.3).masked_fill(~seen, -torch.inf)
    weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :ROWS]
    options: dict[str, Any] = {"scaling": 0.3, "sinks": sinks}
    if kind == "packed":
        options |= {"cu_seq_lens_q": BOUNDS, "cu_seq_lens_k": BOUNDS}
    if kind == "dense":
        ours = densely("no window", q, k, v, seen[None, None], **options)
    else:
        with strict():
            ours = attention_forward(LAYER, q, k, v, None, sliding_window=3, **options)[0]
    same(ours, (weights @ v.repeat_interleave(2, 1)).transpose(1, 2), [q, k, v, sinks])


def test_sinks_of_queries_are_rounded_once() -> None:
    q, k, v = (x.detach().bfloat16() for x in operands())
    sinks = torch.randn(2, 4, ROWS, 1).bfloat16()
    ours = attention_forward(LAYER, q, k, v, None, scaling=0.3, sliding_window=3, sinks=sinks)[0]
    exact = attention_forward(LAYER, q.double(), k.double(), v.double(), None, scaling=0.3, sliding_window=3, sinks=sinks.double())[0]
    half = torch.finfo(torch.bfloat16).eps / 2  # a unit in the last place, half of it, of each number; and the sums' own rounding
    assert ((ours.double() - exact).abs() <= half * exact.abs() * 1.01 + 1e-6).all()


# ---- chosen keys -----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mask", [None, WINDOW[None, None], "numbers"], ids=["causal", "given", "numbers"])
def test_keys_that_the_model_chooses(mask: Any) -> None:
    """Of these a query sees those that the mask lets through; one that is named twice counts once."""
    q, k, v = operands()
    numbers = torch.randint(0, ROWS, (2, ROWS, 3))
    numbers[:, :, 0] = torch.arange(ROWS)
    chosen = torch.zeros(2, 1, ROWS, ROWS).scatter(-1, numbers[:, None], 1.0).bool()
    bias = None
    if mask == "numbers":
        bias = torch.randn(1, 1, ROWS, ROWS, dtype=torch.float64)
        mask = bias.masked_fill(~WINDOW, torch.finfo(torch.float64).min)
    seen = chosen & (DISTANCE <= 0 if mask is None else WINDOW)
    same(densely("chooses keys", q, k, v, mask, scaling=0.3, indices=numbers), formula(q, k, v, seen, bias), [q, k, v])


def test_blocks_that_the_model_chooses() -> None:
    """For each group of heads; -1 is none, and the last block is not whole."""
    q, k, v = operands()
    numbers = torch.randint(-1, 3, (2, 2, ROWS, 2))
    numbers[..., 0] = torch.arange(ROWS) // 4
    layer = SimpleNamespace(**vars(LAYER), indexer=SimpleNamespace(block_size=4))
    chosen = (numbers[..., None] == torch.arange(ROWS) // 4).any(-2).repeat_interleave(2, 1)
    compat._said.clear()
    with pytest.warns(WindowFallbackWarning, match="chooses keys"):
        ours = attention_forward(layer, q, k, v, None, scaling=0.3, block_indices=numbers)[0]
    same(ours, formula(q, k, v, chosen & (DISTANCE <= 0)), [q, k, v])


# ---- wrong use -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes, match",
    [
        ({"sinks": torch.zeros(4)}, r"sinks is \(4,\); it needs to be \(B, H, Lq, 1\), here \(2, 4, 9, 1\)"),
        ({"sinks": torch.zeros(2, 4, 9, 1), "s_aux": torch.zeros(4)}, "sinks is given beside s_aux"),
        ({"indices": torch.zeros(2, 8, 3).long()}, r"indices is \(2, 8, 3\); it needs to be \(B, Lq, n\)"),
        (
            {"block_indices": torch.zeros(2, 3, 9, 2).long()},
            r"block_indices is \(2, 3, 9, 2\); it needs to be \(B, groups of heads, Lq, n\)",
        ),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        attention_forward(LAYER, *operands(), None, **changes)  # type: ignore[misc]


def test_what_only_the_model_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument of its own eager attention is refused where it is used; one that just passes by is not."""
    source = ModuleType("a_model")

    def eager_attention_forward(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, temperature: Any = None) -> None: ...

    source.eager_attention_forward = eager_attention_forward  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_model", source)
    layer = type("Layer", (SimpleNamespace,), {"__module__": "a_model"})(**vars(LAYER))
    q, k, v = operands()
    plain, _ = attention_forward(layer, q, k, v, None, temperature=None, token_type_ids=torch.zeros(2, 9))
    torch.testing.assert_close(plain, attention_forward(LAYER, q, k, v, None)[0])
    with pytest.raises(ValueError, match="temperature is given, which the attention of Layer knows"):
        attention_forward(layer, q, k, v, None, temperature=2.0)


# ---- masks of models without SDPA ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [ROWS, 1])
def test_masks_are_numbers_where_models_know_no_others(rows: int) -> None:
    """Gemma 2 adds masks to scores: what it makes of one is what it makes of eager attention's. Mistral is told of SDPA's."""
    arguments = {"batch_size": 1, "kv_length": ROWS, "mask_function": masking_utils.sliding_window_causal_mask_function(4)}
    queries = {"cache_position": torch.arange(ROWS - rows, ROWS)} if IS_4 else {"q_length": rows, "q_offset": ROWS - rows}
    arguments |= queries | {"dtype": torch.bfloat16}
    eager = masking_utils.eager_mask(**arguments)
    for static in (False, True):
        mask = window_matmul.hf.attention_mask(**arguments, config=transformers.Gemma2Config(), allow_is_causal_skip=not static)
        assert isinstance(mask, WindowMask) and mask.dtype is torch.bfloat16
        compat._said.clear()
        with pytest.warns(WindowFallbackWarning, match="cat of an attention mask"):
            wider = torch.cat([mask, torch.full((1, 1, rows, 1), -2.0).to(mask.dtype)], -1)
        assert torch.equal(wider, torch.cat([eager, torch.full_like(eager[..., :1], -2.0)], -1))
        assert mask.to(torch.bfloat16) is mask
    assert window_matmul.hf.attention_mask(**arguments, config=transformers.MistralConfig()).dtype is torch.bool


def test_a_row_for_all_queries() -> None:
    """(B, 1, 1, Lk), as Switch Transformers hands over: keys that all queries see. A number a key is added to all rows."""
    q, k, v = operands()
    keys = torch.ones(2, 1, 1, ROWS, dtype=torch.bool)
    keys[0, ..., :2] = keys[1, ..., 5:] = False
    seen = keys.expand(2, 1, ROWS, ROWS)
    for mask in (keys, torch.zeros(keys.shape, dtype=torch.float64).masked_fill(~keys, torch.finfo(torch.float64).min)):
        with strict():
            same(attention_forward(LAYER, q, k, v, mask, scaling=0.3)[0], formula(q, k, v, seen), [q, k, v])
    numbers = torch.randn(2, 1, 1, ROWS, dtype=torch.float64)
    for bias in (numbers, numbers.expand(2, 4, 1, ROWS).clone()):
        ours = densely("no window", q, k, v, bias.masked_fill(~keys, -torch.inf), scaling=0.3)
        same(ours, formula(q, k, v, seen, bias), [q, k, v])


# ---- models ------------------------------------------------------------------------------------------------------------------------------
LATENT = {"q_lora_rank": 8, "qk_rope_head_dim": 4}
INDEXER = {"index_topk": 5, "index_n_heads": 2, "index_head_dim": 8}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deepseek v3.2": (
        "DeepseekV32ForCausalLM",
        "DeepseekV32Config",
        LATENT | INDEXER | {"kv_lora_rank": 8, "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4, "num_key_value_heads": 4},
    ),
    "deepseek v4": (
        "DeepseekV4ForCausalLM",
        "DeepseekV4Config",
        LATENT | INDEXER | {"o_lora_rank": 8, "o_groups": 2, "layer_types": ["sliding_attention", "compressed_sparse_attention"]},
    ),
}
EXPERTS = {"n_routed_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    """V3.2 chooses keys; V4 lengthens the mask by numbers."""
    model, config, changes = MODELS[name]
    if not hasattr(transformers, model):
        pytest.skip(f"transformers {transformers.__version__} has no {model}")
    made, inputs = from_sizes(model, config, **EXPERTS | changes)().eval(), batch("decoder")
    compat._said.clear()
    with pytest.warns(WindowFallbackWarning):
        ours = run(made, inputs, "window_matmul", torch.float64)
    assert max(difference(ours, run(made, inputs, "eager", torch.float64))) <= 1e-10

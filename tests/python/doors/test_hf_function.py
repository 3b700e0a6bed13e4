"""tests/python/doors/test_hf_function.py: the attention function by itself: options, errors, versions, and compiled models."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

import child
import window_matmul.hf
from door_models import IS_4, SMALL, batch, choose, run
from window_matmul import compat
from window_matmul.compat import WindowFallbackWarning, strict
from window_matmul.hf import _attention, _versions, attention_forward, attention_mask
from window_matmul.hf._patterns import Pattern, window_mask

pytestmark = pytest.mark.best_backend
LAYER = SimpleNamespace(is_causal=True, config=SimpleNamespace(_attn_implementation="window_matmul"))


def operands(rows: int = 9, columns: int = 9) -> list[Tensor]:
    shapes = ((2, 4, rows, 8), (2, 2, columns, 8), (2, 2, columns, 6))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def formula(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, bias: Tensor | None = None, softcap: float = 0.0, sinks: Tensor | None = None
) -> Tensor:
    scores = q @ k.repeat_interleave(2, 1).mT * 0.3
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = (scores if bias is None else scores + bias).masked_fill(~seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(2, -1, q.shape[2], 1)], -1)
    return (scores.softmax(-1)[..., : k.shape[2]] @ v.repeat_interleave(2, 1)).transpose(1, 2)


def same(ours: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    assert ours.is_contiguous()
    g = torch.randn_like(expected)
    for x, y in zip((ours, *torch.autograd.grad(ours, inputs, g)), (expected, *torch.autograd.grad(expected, inputs, g)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 3])
def test_without_a_mask(causal: bool, window: int | None) -> None:
    """is_causal, of the call before the module's, and the number of keys decide; with all other options."""
    q, k, v = operands(5, 9)
    sinks, bias = torch.randn(4, dtype=torch.float64, requires_grad=True), torch.randn(1, 4, 5, 9, dtype=torch.float64, requires_grad=True)
    distance = torch.arange(9) - torch.arange(5)[:, None] - 4
    seen = (distance <= 0 if causal else distance < (window or 9)) & (distance > -(window or 9))
    options: dict[str, Any] = {"scaling": 0.3, "softcap": 2.0, "s_aux": sinks, "sliding_window": window, "is_causal": causal}
    with strict():
        ours, weights = attention_forward(LAYER, q, k, v, None, **options)
        assert weights is None
        same(ours, formula(q, k, v, seen, None, 2.0, sinks), [q, k, v, sinks])
        if window is not None:
            ours, _ = attention_forward(LAYER, q, k, v, None, position_bias=bias, **options)
            same(ours, formula(q, k, v, seen, bias, 2.0, sinks), [q, k, v, sinks, bias])
    if window is None:
        compat._said.clear()
        with pytest.warns(WindowFallbackWarning, match="position_bias"):
            ours, _ = attention_forward(LAYER, q, k, v, None, position_bias=bias, **options)
            same(ours, formula(q, k, v, seen, bias, 2.0, sinks), [q, k, v, sinks, bias])


@pytest.mark.parametrize("sides", [(2, 0), (None, 0), (1, 2), (None, None)])
@pytest.mark.parametrize("rows", [1, 5])
def test_at_once(rows: int, sides: tuple[int | None, int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain windows go past the options. The numbers are those of the long way, and so are the errors."""
    inputs = operands(rows, 9)
    mask = window_mask((2, 1, rows, 9), torch.device("cpu"), Pattern(*sides, 9 - rows))
    options: dict[str, Any] = {"scaling": 0.3, "softcap": 2.0}
    found = []
    for is_long in (False, True):
        if is_long:
            monkeypatch.setattr(_attention, "_at_once", lambda *_: None)
        else:
            monkeypatch.setattr(_attention, "window_attention", None)  # nobody calls it
        out, _ = attention_forward(LAYER, *inputs, mask, **options)
        assert out.shape == (2, rows, 4, 6) and out.is_contiguous()
        found.append((out, *torch.autograd.grad(out, inputs, torch.ones_like(out))))
        with pytest.raises(TypeError, match="beside q of"):
            attention_forward(LAYER, inputs[0], inputs[1], inputs[2].float(), mask, **options)
        monkeypatch.undo()
    assert all(map(torch.equal, *found))


def test_not_at_once() -> None:
    """Whatever else there is takes the long way."""
    q, k, v = operands()
    keys = torch.arange(9).expand(2, 9) > 3
    plain = window_mask((2, 1, 9, 9), q.device, Pattern(2, 0))
    padded = window_mask((2, 1, 9, 9), q.device, Pattern(2, 0, 0, keys))
    seen = torch.ones(9, 9, dtype=torch.bool).tril().triu(-2)
    for mask, more in ((padded, {}), (seen[None, None] & keys[:, None, None], {}), (plain, {"s_aux": torch.zeros(4, dtype=torch.float64)})):
        assert more or _attention._at_once(q, k, v, mask, 0.3, 0.0) is None
        ours, _ = attention_forward(LAYER, q, k, v, mask, scaling=0.3, **more)
        visible = seen if more else seen & keys[:, None, None]
        expected = formula(q, k, v, visible, None, 0.0, more.get("s_aux"))
        torch.testing.assert_close(ours, expected.nan_to_num(), rtol=1e-10, atol=1e-10)  # a row that sees nothing is 0
    with pytest.raises(ValueError, match="attention_mask is"):
        attention_forward(LAYER, q, k[:, :, 1:], v[:, :, 1:], plain, scaling=0.3)
    with pytest.warns(WindowFallbackWarning, match="output_attentions"):
        compat._said.clear()
        assert attention_forward(LAYER, q, k, v, plain, scaling=0.3, output_attentions=True)[1] is not None


def test_weights_beside_each_kind_of_mask() -> None:
    """Numbers that lie within a window stay numbers where the weights are asked for; packed sequences stay apart."""
    q, k, v = (x[:1] for x in operands())
    distance, bounds = torch.arange(9) - torch.arange(9)[:, None], torch.tensor([0, 4, 9])
    seen = (distance <= 0) & (distance > -3)
    numbers = torch.randn(1, 1, 9, 9, dtype=torch.float64).where(seen, torch.finfo(torch.float64).min)
    apart = (torch.arange(9) < 4) == (torch.arange(9)[:, None] < 4)
    compat._said.clear()
    for mask in (numbers, seen[None, None], None):
        for packed in ({}, {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}):
            visible = (seen if mask is not None else distance <= 0) & (apart if packed else True)
            bias = numbers.masked_fill(~visible, 0.0) if mask is numbers else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", WindowFallbackWarning)
                out, weights = attention_forward(LAYER, q, k, v, mask, scaling=0.3, output_attentions=True, **packed)
            windowed, _ = attention_forward(LAYER, q, k, v, mask, scaling=0.3, **packed)
            expected = formula(q, k, v, visible, bias)
            torch.testing.assert_close(out, expected)
            torch.testing.assert_close(windowed, expected)
            assert weights is not None
            torch.testing.assert_close((weights @ v.repeat_interleave(2, 1)).transpose(1, 2), expected)


def test_dropout_is_unbiased() -> None:
    """The peer's random numbers are another stream; the mean over many draws is what is without."""
    q, k, v = (x.detach() for x in operands())
    expected, _ = attention_forward(LAYER, q, k, v, None)
    draws = torch.stack([attention_forward(LAYER, q, k, v, None, dropout=0.3)[0] for _ in range(600)])
    assert (draws[0] != draws[1]).any()
    assert ((draws.mean(0) - expected).abs() <= 5 * draws.std(0) / 600**0.5 + 1e-12).all()


# ---- wrong use -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("window", [0, -3, 2.5, True])
def test_windows_that_are_none(window: Any) -> None:
    with pytest.raises(ValueError, match=r"sliding_window is .*; it needs to be an int of at least 1"):
        attention_forward(LAYER, *operands(), None, sliding_window=window)  # type: ignore[misc]


def test_a_model_with_a_window_of_zero() -> None:
    model = MistralForCausalLM(MistralConfig(**SMALL))
    choose(model, "window_matmul")
    model.config.sliding_window = 0
    with pytest.raises(ValueError, match="sliding_window lets no query see a key"):
        model(**batch("decoder"), use_cache=False)


@pytest.mark.parametrize(
    "changes, error, match",
    [
        ({"s_aux": torch.zeros(3)}, ValueError, r"s_aux is \(3,\); it needs to be \(H,\), here \(4,\)"),
        ({"attention_mask": torch.ones(2, 9).bool()}, ValueError, r"attention_mask is \(2, 9\)"),
        ({"attention_mask": torch.ones(2, 1, 9, 8).bool()}, ValueError, r"attention_mask is \(2, 1, 9, 8\)"),
        ({"attention_mask": torch.ones(2, 3, 9, 9).bool()}, ValueError, r"attention_mask is \(2, 3, 9, 9\)"),
        ({"attention_mask": torch.ones(2, 1, 9, 9).long()}, TypeError, "attention_mask is torch.int64"),
        ({"attention_mask": torch.ones(2, 1, 9, 9).numpy()}, TypeError, "attention_mask is of type ndarray"),
        ({"position_bias": torch.ones(1, 4, 9, 8)}, ValueError, r"position_bias is \(1, 4, 9, 8\)"),
        ({"cu_seq_lens_q": torch.tensor([0, 9])}, ValueError, "packed sequences need a batch of 1"),
        ({"query": None}, TypeError, "query is of type NoneType"),
        ({"value": torch.zeros(2, 9, 6)}, ValueError, r"value is \(2, 9, 6\)"),
        ({"s_aux": 1.0}, TypeError, "s_aux is of type float"),
        ({"position_bias": [0.0]}, TypeError, "position_bias is of type list"),
        ({"cu_seq_lens_q": 9}, TypeError, "cu_seq_lens_q is of type int"),
        ({"scaling": "1"}, TypeError, "scaling is '1'"),
        ({"scaling": torch.inf}, ValueError, "scaling is inf"),
        ({"softcap": -1.0}, ValueError, "softcap is -1.0"),
        ({"softcap": torch.ones(2)}, TypeError, "softcap is tensor"),
        ({"dropout": 1.5}, ValueError, "dropout is 1.5"),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_wrong_arguments(dense: bool, changes: dict[str, Any], error: type[Exception], match: str) -> None:
    given = dict(zip(("query", "key", "value"), operands(), strict=True)) | {"attention_mask": None, "output_attentions": dense}
    with pytest.raises(error, match=match):
        attention_forward(LAYER, **given | changes)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::window_matmul.compat.WindowFallbackWarning")
def test_a_query_without_keys_is_zero_on_every_way() -> None:
    query, key, value = operands()
    mask = torch.zeros(2, 1, 9, 9)
    mask[:, :, :3] = -torch.inf
    for more in ({}, {"output_attentions": True}):
        out, weights = attention_forward(LAYER, query, key, value, mask, **more)
        assert torch.equal(out[:, :3], torch.zeros_like(out[:, :3])) and not out.isnan().any()
        assert weights is None or torch.equal(weights[:, :, :3], torch.zeros_like(weights[:, :, :3]))


def test_wrong_arguments_of_a_mask() -> None:
    queries = {"cache_position": torch.arange(9)} if IS_4 else {"q_length": 9}
    sizes: dict[str, Any] = {"batch_size": 2, "kv_length": 9, "mask_function": causal_mask_function} | queries
    with pytest.raises(TypeError, match="mask_function is 'causal'"):
        attention_mask(**sizes | {"mask_function": "causal"})
    with pytest.raises(TypeError, match="attention_mask is of type list"):
        attention_mask(**sizes, attention_mask=[1] * 9)


def test_packed_sequences_that_do_not_fit() -> None:
    one, bounds = [x[:1] for x in operands()], torch.tensor([0, 4, 9])
    with pytest.raises(ValueError, match=r"cu_seq_lens_k is .*; it needs to be equal"):
        attention_forward(LAYER, *one, None, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds - 1)  # type: ignore[misc]
    scattered = (torch.rand(1, 1, 9, 9) < 0.5) | torch.eye(9).bool()
    with pytest.raises(ValueError, match="beside an attention mask that is no window"):
        attention_forward(LAYER, *one, scattered, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds)  # type: ignore[misc]


def test_without_a_mask_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, "window_matmul")
    with pytest.raises(RuntimeError, match="no mask function is registered"):
        attention_forward(LAYER, *operands(), None)  # type: ignore[misc]


def test_models_that_do_not_ask() -> None:
    """Longformer computes attention by itself, and ModernBERT in 4.x."""
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "pad_token_id": 0}
    models = [("LongformerModel", transformers.LongformerConfig(attention_window=[2], **sizes))]
    if IS_4:
        models.append(("ModernBertModel", transformers.ModernBertConfig(**sizes)))
    for name, config in models:
        with pytest.raises(ValueError, match=f"{name} of transformers .* would ignore"):
            getattr(transformers, name)(config).set_attn_implementation("window_matmul")
        config._attn_implementation = "window_matmul"
        with pytest.raises(ValueError, match=f"{name} of transformers .* would ignore .* another version of transformers$"):
            getattr(transformers, name)(config)


def test_a_part_that_asks() -> None:
    """GOT-OCR2 computes attention to images by itself; its text model asks, and can be told so."""
    vision = {"hidden_size": 8, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "mlp_dim": 8}
    text = {name: x for name, x in SMALL.items() if name not in ("sliding_window", "head_dim")} | {"model_type": "qwen2"}
    config = transformers.GotOcr2Config(vision_config=vision, text_config=text)
    model = transformers.GotOcr2ForConditionalGeneration(config)
    with pytest.raises(ValueError, match=r'set for one of its parts: .*\{"text_config": "window_matmul"\}'):
        model.set_attn_implementation("window_matmul")
    model.set_attn_implementation({"text_config": "window_matmul"})
    assert {x.config._attn_implementation for x in model.modules() if "Qwen2" in type(x).__name__ and hasattr(x, "config")} == {
        "window_matmul"
    }


# ---- versions ----------------------------------------------------------------------------------------------------------------------------
def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r"transformers >= 4\.57, and 4\.56\.2 is installed"):
        _versions.check_version("4.56.2")
    with pytest.warns(UserWarning, match=r"4\.57 \.\. 5\.\d+, and 99\.0\.0 is installed"):
        _versions.check_version("99.0.0")
    importlib.reload(window_matmul.hf)
    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = importlib.util.spec_from_file_location("window_matmul.hf._again", _versions.__file__)
    assert spec is not None and spec.loader is not None
    with pytest.raises(ImportError, match=r"pip install 'window_matmul\[hf\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_package_itself_does_not_import_transformers() -> None:
    child.run("import sys, window_matmul; assert 'transformers' not in sys.modules")


# ---- compiled ----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_a_compiled_model() -> None:
    """In one graph: packed (as every batch without a mask may be, where values are not known), with gradients; and padded, with a static
    cache, whose masks come from outside the graph."""
    model, inputs = MistralForCausalLM(MistralConfig(**SMALL | {"num_hidden_layers": 1})).eval(), batch("decoder")
    packed = {"input_ids": inputs["input_ids"], "position_ids": torch.cat([torch.arange(n) for n in (20, 9, 16)])[None]}
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "cache_implementation": "static"}
    out, gradient = run(model, packed, "window_matmul", torch.float32)
    tokens, forward = model.generate(**inputs, **options), model.forward
    with strict():
        model.forward = torch.compile(forward, fullgraph=True, dynamic=False, backend="aot_eager")
        ours = run(model, packed, "window_matmul", torch.float32)
        model.forward = torch.compile(forward, fullgraph=True, dynamic=False, backend="eager")
        assert torch.equal(model.generate(**inputs, **options), tokens)
    torch.testing.assert_close(ours[0], out)
    torch.testing.assert_close(ours[1], gradient, rtol=1e-4, atol=1e-6)


def test_a_dense_way_in_a_graph() -> None:
    """It is said, or refused, when the graph is made."""
    q, k, v = (x.detach() for x in operands())
    mask = (torch.rand(2, 1, 9, 9) < 0.5) | torch.eye(9).bool()

    def call(q: Tensor, mask: Tensor) -> Tensor:
        return attention_forward(LAYER, q, k, v, mask, scaling=0.3)[0]

    with strict(), pytest.raises(Exception, match="the attention mask is no window"):
        torch.compile(call, fullgraph=True, backend="eager")(q, mask)
    compat._said.clear()
    with pytest.warns(WindowFallbackWarning, match="the attention mask is no window"):
        out = torch.compile(call, fullgraph=True, backend="eager")(q, mask)
    torch.testing.assert_close(out, formula(q, k, v, mask))

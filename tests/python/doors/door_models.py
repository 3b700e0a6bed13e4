"""tests/python/doors/door_models.py: tiny models of transformers with random weights, for any attention implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from torch.overrides import TorchFunctionMode

IS_4 = transformers.__version__.startswith("4.")
WINDOW, VOCABULARY = 7, 61
LENGTHS = (45, 38, 21)  # more than six windows; a batch of unequal lengths
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "sliding_window": WINDOW,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BOTH = {"layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 2}


class Model(NamedTuple):
    name: str
    make: Callable[[], Any]
    kind: str = "decoder"  # or "encoder": two-sided; "pair": encoder and decoder
    has_sdpa: bool = True
    since: str = "4"


def from_sizes(model: str, config: str, after: Callable[[Any], None] | None = None, **changes: Any) -> Callable[[], Any]:
    def make() -> Any:
        made = getattr(transformers, config)(**SMALL | changes)
        if after is not None:
            after(made)
        return getattr(transformers, model)(made)

    return make


def _t5gemma(**changes: Any) -> Any:
    sizes = SMALL | BOTH | {"attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8} | changes
    config = transformers.T5GemmaConfig(encoder=dict(sizes), decoder=sizes | {"cross_attention_hidden_size": 32}, **_ids())
    return transformers.T5GemmaForConditionalGeneration(config)


def _t5gemma2() -> Any:
    sizes = SMALL | BOTH | {"query_pre_attn_scalar": 8, "sliding_window": 4}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.T5Gemma2Config(encoder={"text_config": dict(sizes), "vision_config": vision}, decoder=dict(sizes), **_ids())
    return transformers.T5Gemma2ForConditionalGeneration(config)


def _ids() -> dict[str, Any]:
    return {name: SMALL[name] for name in ("vocab_size", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id")}


def _two_sided(config: Any) -> None:
    config.use_bidirectional_attention = True


def _modernbert(model: str, config: str) -> Callable[[], Any]:
    def make() -> Any:
        sizes = {name: x for name, x in SMALL.items() if name not in ("sliding_window", "num_key_value_heads", "head_dim")}
        changes = {"local_attention": 2 * WINDOW, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2}
        return getattr(transformers, model)(getattr(transformers, config)(**sizes, **changes))

    return make


MODELS = [
    Model("mistral", from_sizes("MistralForCausalLM", "MistralConfig")),
    Model("qwen2", from_sizes("Qwen2ForCausalLM", "Qwen2Config", use_sliding_window=True, max_window_layers=1)),
    Model("qwen3", from_sizes("Qwen3ForCausalLM", "Qwen3Config", use_sliding_window=True, max_window_layers=1)),
    Model(
        "gemma2",
        from_sizes("Gemma2ForCausalLM", "Gemma2Config", query_pre_attn_scalar=16, attn_logit_softcapping=3.0, **BOTH),
        has_sdpa=False,
    ),
    Model("gemma3", from_sizes("Gemma3ForCausalLM", "Gemma3TextConfig", query_pre_attn_scalar=16, **BOTH)),
    Model(
        "gemma3, two-sided",
        from_sizes("Gemma3TextModel", "Gemma3TextConfig", query_pre_attn_scalar=16, use_bidirectional_attention=True, **BOTH),
        "encoder",
    ),
    Model(
        "gemma3, two-sided later",
        from_sizes("Gemma3TextModel", "Gemma3TextConfig", _two_sided, query_pre_attn_scalar=16, **BOTH),
        "encoder",
    ),
    Model("gpt-oss", from_sizes("GptOssForCausalLM", "GptOssConfig", **EXPERTS, **BOTH), has_sdpa=False),
    Model("olmo3", from_sizes("Olmo3ForCausalLM", "Olmo3Config", **BOTH)),
    Model("cohere2", from_sizes("Cohere2ForCausalLM", "Cohere2Config", **BOTH)),
    Model("phi3", from_sizes("Phi3ForCausalLM", "Phi3Config")),
    Model("modernbert", _modernbert("ModernBertForMaskedLM", "ModernBertConfig"), "encoder", since="5"),
    Model("modernbert decoder", _modernbert("ModernBertDecoderForCausalLM", "ModernBertDecoderConfig")),
    Model("t5gemma", _t5gemma, "pair", has_sdpa=False),
    Model("t5gemma2", _t5gemma2, "pair", since="5"),
    Model(
        "mimo-v2-flash",
        from_sizes(
            "MiMoV2FlashForCausalLM",
            "MiMoV2FlashConfig",
            v_head_dim=4,
            n_routed_experts=2,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            **BOTH,
        ),
        has_sdpa=False,
        since="5",
    ),
]
MODELS = [model for model in MODELS if not (IS_4 and model.since == "5")]


def batch(kind: str) -> dict[str, Tensor]:
    """Random tokens; decoders are padded in front, encoders behind, and the encoder of a pair has holes in its last row."""
    longest = max(LENGTHS)
    ids = torch.randint(3, VOCABULARY, (len(LENGTHS), longest))
    places = torch.arange(longest)
    lengths = torch.tensor(LENGTHS)[:, None]
    mask = places >= longest - lengths if kind == "decoder" else places < lengths
    if kind == "pair":
        mask[2, 5:19:3] = False
        return {"input_ids": ids, "attention_mask": mask.long(), "decoder_input_ids": torch.randint(3, VOCABULARY, (len(LENGTHS), 29))}
    return {"input_ids": ids, "attention_mask": mask.long()}


class _Doubles(TorchFunctionMode):
    """Models round to float32 here and there; with this they do not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double() if args[0].is_floating_point() else func(*args)
        kwargs = {name: torch.float64 if x is torch.float32 else x for name, x in (kwargs or {}).items()}
        return func(*(torch.float64 if x is torch.float32 else x for x in args), **kwargs)


@contextmanager
def all_in_double(dtype: torch.dtype) -> Iterator[None]:
    if dtype is torch.float64:
        with _Doubles():
            yield
    else:
        yield


def choose(model: Any, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    if IS_4:  # where encoder and decoder keep what they were made with
        for config in {id(x): x for x in (getattr(module, "config", None) for module in model.modules()) if x is not None}.values():
            config._attn_implementation_internal = implementation


def run(model: Any, inputs: dict[str, Tensor], implementation: str, dtype: torch.dtype, **options: Any) -> tuple[Tensor, Tensor]:
    """The outputs at real tokens, and the gradients of all parameters as one vector."""
    choose(model, implementation)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped one has no float64
    model.to(dtype).zero_grad()
    if "decoder_input_ids" not in inputs:
        options = {"use_cache": False} | options
    with all_in_double(dtype):
        outputs = model(**inputs, **options)
        out = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
        if "attention_mask" in inputs and inputs["attention_mask"].ndim == 2 and "decoder_input_ids" not in inputs:
            out = out[inputs["attention_mask"].bool()]
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
        (out * weights + out**2 / 2).mean().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return out.detach(), torch.cat(gradients)


def difference(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Of outputs and of gradients, as parts of their size."""
    pairs = zip(a, b, strict=True)
    return tuple(float((x.double() - y.double()).norm() / y.double().norm()) for x, y in pairs)  # type: ignore[return-value]

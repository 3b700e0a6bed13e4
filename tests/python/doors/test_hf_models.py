"""tests/python/doors/test_hf_models.py: models of transformers give the same outputs, gradients and tokens as with eager attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import window_matmul.hf
from door_models import MODELS, Model, batch, choose, difference, run
from window_matmul.compat import strict

pytestmark = pytest.mark.best_backend
OURS = "window_matmul"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_outputs_and_gradients(model: Model, say: Callable[[str], None]) -> None:
    """In float32 within twice what SDPA differs by, or eager attention from itself in float64 where a model takes no SDPA."""
    made, inputs = model.make().eval(), batch(model.kind)
    eager = run(made, inputs, "eager", torch.float32)
    ours = run(made, inputs, OURS, torch.float32)
    other = run(made, inputs, "sdpa", torch.float32) if model.has_sdpa else None
    exact = run(made, inputs, "eager", torch.float64)
    precise = run(made, inputs, OURS, torch.float64)
    single, double = difference(ours, eager), difference(precise, exact)
    bar = difference(eager, exact) if other is None else difference(other, eager)
    by = "eager to float64" if other is None else "SDPA"
    numbers = [f"{x:.1e} {y:.1e}" for x, y in (single, bar, double)]
    say(f"{model.name:24} float32 {numbers[0]} ({by} {numbers[1]})  float64 {numbers[2]}")
    assert single[0] > 0, "two ways that round alike are one"
    assert max(double) <= 1e-10
    assert single[0] <= 2 * bar[0] and single[1] <= 2 * bar[1]


@pytest.mark.parametrize("model", [model for model in MODELS if model.kind == "decoder"], ids=lambda model: model.name)
def test_generated_tokens(model: Model) -> None:
    """Greedy, beams and assisted; with both caches. Nothing takes a dense way."""
    made, helper = model.make().eval(), model.make().eval()
    helper.load_state_dict(made.state_dict())
    with torch.no_grad():
        for p in helper.parameters():
            p += 0.02 * torch.randn_like(p)
    made.generation_config.eos_token_id = helper.generation_config.eos_token_id = None
    inputs = {name: x[:2] for name, x in batch("decoder").items()}
    one = {name: x[:1] for name, x in inputs.items()}

    def tokens(implementation: str, given: dict[str, Any], cache: bool, **options: Any) -> torch.Tensor:
        choose(made, implementation)
        choose(helper, implementation)
        if cache:
            options["past_key_values"] = window_matmul.hf.WindowCache(made.config, spare=24)
        return made.generate(**given, max_new_tokens=17, do_sample=False, pad_token_id=0, **options)  # type: ignore[no-any-return]

    with strict():
        for given, options in ((inputs, {}), (inputs, {"num_beams": 2}), (one, {"assistant_model": helper})):
            expected = tokens("eager", given, False, **options)
            assert expected.unique().numel() > 3, "these tokens say nothing"
            for implementation, cache in ((OURS, False), (OURS, True), ("eager", True)):
                assert torch.equal(tokens(implementation, given, cache, **options), expected), (implementation, cache, options)

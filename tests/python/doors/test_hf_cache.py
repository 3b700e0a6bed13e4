"""tests/python/doors/test_hf_cache.py: WindowCache holds what DynamicCache holds, in place, and goes back as far as it says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Gemma2Config, JambaConfig, Lfm2Config, Lfm2ForCausalLM, MistralConfig, Qwen3NextConfig

from door_models import BOTH, IS_4, SMALL, WINDOW
from window_matmul.hf import WindowCache

pytestmark = pytest.mark.best_backend


def states(batch: int, new: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 2, new, 8), torch.randn(batch, 2, new, 4)


def query(new: int, length: int) -> int | Tensor:
    """What get_mask_sizes is asked for."""
    return torch.arange(new) + length if IS_4 else new


def test_the_same_as_stock() -> None:
    """Any sequence of chunks, single tokens, and moves of rows, after a first text too."""
    config = Gemma2Config(**SMALL | BOTH | {"num_hidden_layers": 2})
    ours, draws = WindowCache(config), random.Random(4)
    for text in range(2):
        stock, batch, length = DynamicCache(config=config), 2 + text, 0
        for step in range(60):
            new = draws.choice((1, 1, 1, 1, 2, 5, WINDOW, 2 * WINDOW + 3))
            assert ours.get_seq_length(0) == stock.get_seq_length(0) == length
            for layer in (0, 1):
                assert ours.get_mask_sizes(query(new, length), layer) == stock.get_mask_sizes(query(new, length), layer)
                k, v = states(batch, new)
                mine, theirs = ours.update(k, v, layer), stock.update(k, v, layer)
                assert all(map(torch.equal, mine, theirs)), (step, layer)
                assert torch.equal(ours.layers[layer].keys, stock.layers[layer].keys)
            length += new
            if step % 7 == 3:
                rows = torch.tensor([draws.randrange(batch) for _ in range(batch)])
                for cache in (ours, stock):
                    cache.reorder_cache(rows)
            if step in (20, 40):
                for cache in (ours, stock):
                    cache.batch_repeat_interleave(2)
                    cache.batch_select_indices(torch.tensor([3, 0] if step == 20 else [1, 2, 0]))
                batch = 2 if step == 20 else 3
        ours.reset()
        assert ours.get_seq_length() == 0


def test_memory_is_twice_the_window_and_stays() -> None:
    cache = WindowCache(MistralConfig(**SMALL))
    places = set()
    for new in (2 * WINDOW + 1, *[1] * 4 * WINDOW):
        cache.update(*states(2, new), 0)
        memory = cache.layers[0]._memory
        places.add(memory[0].data_ptr())
        assert memory[0].shape == (2, 2, 2 * WINDOW, 8) and memory[1].shape == (2, 2, 2 * WINDOW, 4)
    assert len(places) == 1


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no huge pages to ask for")
def test_large_memory_asks_for_huge_pages() -> None:
    """4 MiB of keys, of which at least one whole huge page lies inside."""
    cache = WindowCache(MistralConfig(**SMALL | {"sliding_window": 1 << 15}))
    cache.update(*states(1, 1), 0)
    keys, _ = cache.layers[0]._memory
    assert keys.nbytes == 4 << 20
    middle, flags = keys.data_ptr() + keys.nbytes // 2, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if "-" in name and not name.endswith(":"):
            first, last = (int(x, 16) for x in name.split("-"))
        elif name == "VmFlags:" and first <= middle < last:
            flags = values
    assert "hg" in flags


def test_in_and_out_of_inference_mode() -> None:
    cache, (k, v) = WindowCache(MistralConfig(**SMALL)), states(1, 3)
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            keys, _ = cache.update(k, v, 0)
    assert torch.equal(keys, torch.cat([k, k, k], 2)[:, :, -WINDOW - 2 :])


@pytest.mark.parametrize("window", [1, 2, WINDOW])
def test_the_last_tokens_in_order(window: int) -> None:
    """Also for a window of one token, of which stock keeps all."""
    cache, seen = WindowCache(MistralConfig(**SMALL | {"sliding_window": window})), []
    for new in (3, 1, 1, 4, *[1] * 20):
        k, v = states(1, new)
        past = min(sum(x.shape[2] for x in seen), window - 1)
        seen.append(k)
        keys, _ = cache.update(k, v, 0)
        assert torch.equal(keys, torch.cat(seen, 2)[:, :, -(past + new) :])


@pytest.mark.parametrize("records", [False, True])
def test_crop(records: bool) -> None:
    """As many tokens as are spare, or all since the last crop; beyond that an error which changes nothing."""
    config = MistralConfig(**SMALL)
    cache, texts = WindowCache(config, spare=0 if records else 4), torch.randn(1, 2, 1200, 8)
    if records:
        cache.layers[0].record_past = True
    length, draws = 0, random.Random(5)
    for _ in range(40):
        chunks = [draws.choice((1, 2, 9, 20)) for _ in range(2)]
        for new in chunks:
            part = texts[:, :, length : length + new]
            keys, _ = cache.update(part, part, 0)
            length += new
            assert torch.equal(keys, texts[:, :, max(length - new - WINDOW + 1, 0) : length])
        if not records and length > WINDOW + 4:
            with pytest.raises(ValueError, match="can be removed"):
                cache.crop(-5)
        gone = draws.randrange(min(sum(chunks), 4) + 1)
        if gone or not IS_4:
            cache.crop(-gone)
        length -= gone
        assert cache.get_seq_length() == length
        if IS_4:
            cache.crop(length)
        else:
            with pytest.raises(ValueError, match="needs to be -n"):
                cache.crop(1)
        texts = texts.roll(-1, 1)  # other tokens from here on, the past as it was
        texts[:, :, :length] = texts[:, :, :length].roll(1, 1)


def test_gradients_are_not_lost_silently() -> None:
    cache = WindowCache(MistralConfig(**SMALL))
    k, v = (x.requires_grad_() for x in states(1, 5))
    keys, _ = cache.update(k, v, 0)
    keys.sum().backward()
    assert k.grad is not None and k.grad.eq(1).all()
    with pytest.raises(RuntimeError, match="keeps no gradients"):
        cache.update(k, v, 0)
    with torch.no_grad():
        assert cache.update(k, v, 0)[0].shape[2] == 10


def test_wrong_arguments() -> None:
    config = MistralConfig(**SMALL)
    with pytest.raises(ValueError, match="spare is -1"):
        WindowCache(config, spare=-1)
    with pytest.raises(TypeError, match="config is of type int"):
        WindowCache(7)
    with pytest.raises(TypeError, match=r"spare is 1\.5"):
        WindowCache(config, spare=1.5)  # type: ignore[arg-type]


def test_layers_that_are_not_attention() -> None:
    """4.x has another cache for each kind of them; 5.x has one for all."""
    config = Lfm2Config(**SMALL | {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]})
    if IS_4:
        kinds = ((config, "Lfm2HybridConv"), (JambaConfig(), "HybridMambaAttentionDynamic"), (Qwen3NextConfig(), "Qwen3NextDynamic"))
        for of_kind, own in kinds:
            with pytest.raises(ValueError, match=rf"config is a {type(of_kind).__name__}, .* in a {own}Cache: past_key_values needs"):
                WindowCache(of_kind)
        return
    model, tokens = Lfm2ForCausalLM(config).eval(), torch.randint(3, 60, (2, 7))
    caches = WindowCache(config), None
    ours, stock = (model.generate(tokens, past_key_values=cache, max_new_tokens=6, do_sample=False) for cache in caches)
    assert torch.equal(ours, stock)


def test_tokens_that_do_not_fit_those_before() -> None:
    """What is written in place would be repeated for each row, or rounded, in silence."""
    for wide in (False, True):
        cache = WindowCache(MistralConfig(**SMALL))
        k, v = states(2, 5)
        other = [x.double() for x in states(2, 5)] if wide else states(1, 5)
        cache.update(k, v, 0)
        with pytest.raises(
            ValueError, match=r"key_states is \([12], .* of torch.float\d\d; beside earlier tokens it needs to be \(2, .* of torch.float32"
        ):
            cache.update(*other, 0)
        cache.reset()
        keys, _ = cache.update(*other, 0)
        assert torch.equal(keys, other[0])

"""tests/python/doors/test_hf_masks.py: patterns are found by evaluating mask functions, and travel as masks that stand for all pairs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import MistralConfig, MistralForCausalLM, masking_utils

import window_matmul.hf
from door_models import IS_4, LENGTHS, SMALL, WINDOW, batch, choose, difference, run
from window_matmul.compat import WindowFallbackWarning, strict
from window_matmul.hf._patterns import WindowMask

pytestmark = pytest.mark.best_backend
OURS = "window_matmul"
ROWS = 12
POSITIONS = torch.tensor([[*range(5), *range(4), *range(3)], [*range(1), *range(11)]])
IMAGES = torch.tensor([[-1, -1, 0, 0, 0, -1, -1, 1, 1, -1, -1, -1], [2, 2, -1, -1, -1, -1, -1, -1, 3, 3, 3, 3]])
Function = Callable[[Any, Any, Any, Any], Any]


def same_image(b: Any, _h: Any, q: Any, k: Any) -> Any:
    return (IMAGES[b, q] == IMAGES[b, k]) & (IMAGES[b, q] >= 0)


def packed(function: Function, remaps: bool = not IS_4) -> Function:
    numbers = masking_utils.find_packed_sequence_indices(POSITIONS)
    if remaps and hasattr(masking_utils, "packed_sequence_compatibility_function"):  # up to 5.23
        return masking_utils.packed_sequence_compatibility_function(function, POSITIONS, numbers)  # type: ignore[no-any-return]
    if remaps:
        function = masking_utils.remap_positions_for_packed_sequence(function, POSITIONS)
    return masking_utils.and_masks(function, masking_utils.packed_sequence_mask_function(numbers))  # type: ignore[no-any-return]


CAUSAL = masking_utils.causal_mask_function
SLIDING = masking_utils.sliding_window_causal_mask_function(4)
UNTOLD = torch.rand(2, ROWS, ROWS, generator=torch.Generator().manual_seed(1)) < 0.5
FUNCTIONS: dict[str, tuple[Function, str]] = {
    "causal": (CAUSAL, "window"),
    "all": (lambda b, h, q, k: q >= 0, "window"),
    "sliding": (SLIDING, "window"),
    "two-sided, inclusive": (lambda b, h, q, k: abs(q - k) <= 3, "window"),
    "two-sided, by union": (masking_utils.or_masks(SLIDING, lambda b, h, q, k: abs(k - q) < 4), "window"),
    "unequal sides": (lambda b, h, q, k: ((q - k >= 0) & (q - k < 2)) | ((q - k < 0) & (k - q < 3)), "window"),
    "only earlier": (lambda b, h, q, k: (k < q) & (k >= q - 3), "window"),
    "only later": (lambda b, h, q, k: (k - q >= 2) & (k - q <= 5), "window"),
    "packed": (packed(SLIDING), "packed"),
    "packed, all": (packed(CAUSAL), "packed"),
    "images in a window": (
        masking_utils.and_masks(lambda b, h, q, k: abs(q - k) < 4, masking_utils.or_masks(CAUSAL, same_image)),
        "window",
    ),
    "holes in a window": (masking_utils.and_masks(SLIDING, lambda b, h, q, k: UNTOLD[b, q, k]), "window"),
    "images": (masking_utils.or_masks(CAUSAL, same_image), "dense"),
    "prefix": (masking_utils.or_masks(SLIDING, lambda b, h, q, k: k < 3), "dense"),
    "two windows": (lambda b, h, q, k: (abs(q - k) < 2) | (abs(q - k - 5) < 1), "window"),
    "blocks": (lambda b, h, q, k: q // 4 == k // 4, "dense"),
    "by a branch": (lambda b, h, q, k: (k <= q) & (k > q - (2 if isinstance(k, Tensor) or k else 4)), "dense"),
    "by torch": (lambda b, h, q, k: torch.where(k <= q, k > q - 2, False), "dense"),
}


@contextmanager
def quiet() -> Iterator[None]:
    """A dense way is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WindowFallbackWarning)
        yield


def arguments(rows: int, columns: int, q_offset: int, kv_offset: int) -> dict[str, Any]:
    common = {"batch_size": 2, "kv_length": columns, "kv_offset": kv_offset, "dtype": torch.float32}
    if IS_4:
        return common | {"cache_position": torch.arange(rows) + q_offset}
    return common | {"q_length": rows, "q_offset": q_offset, "device": "cpu"}


def dense(function: Function, sizes: tuple[int, int, int, int], padding: Tensor | None = None) -> Tensor:
    rows, columns, q_offset, kv_offset = sizes
    places = (torch.arange(2), torch.zeros(1, dtype=torch.long), torch.arange(rows) + q_offset, torch.arange(columns) + kv_offset)
    b, h, q, k = (x.view([-1 if m == n else 1 for m in range(4)]) for n, x in enumerate(places))
    seen = torch.as_tensor(function(b, h, q, k)).expand(2, 1, rows, columns)
    return seen if padding is None else seen & padding[:, None, None, kv_offset : kv_offset + columns]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_patterns(name: str) -> None:
    """What the returned mask stands for is what the function says, for prefill, chunks and decoding, with and without padding."""
    function, kind = FUNCTIONS[name]
    padding = torch.ones(2, ROWS, dtype=torch.bool)
    padding[0, :3] = padding[1, 4] = False
    for sizes in ((12, 12, 0, 0), (5, 12, 7, 0), (5, 8, 7, 4), (3, 12, 2, 0), (1, 12, 11, 0), (1, 6, 11, 6)):
        if kind == "packed" and sizes[0] != 12:
            continue
        for mask in (None, padding):
            made = window_matmul.hf.attention_mask(mask_function=function, attention_mask=mask, **arguments(*sizes))
            if sizes == (12, 12, 0, 0):
                assert isinstance(made, WindowMask) == (kind != "dense")
                assert not isinstance(made, WindowMask) or (made.pattern.bounds is not None) == (kind == "packed")
            expected = dense(function, sizes, mask)
            assert made.shape == expected.shape
            with quiet():
                last = made[:, :, -2:]
                assert isinstance(last, WindowMask) == (isinstance(made, WindowMask) and made.pattern.bounds is None)
                assert torch.equal(made & True, expected), (sizes, mask is not None)
                assert torch.equal(last & True, expected[:, :, -2:]), (sizes, mask is not None)


def test_a_mask_travels() -> None:
    """Through copies and devices; other uses take the dense mask."""
    made = window_matmul.hf.attention_mask(mask_function=SLIDING, **arguments(12, 12, 0, 0))
    assert made.untyped_storage().nbytes() == 1
    for moved in (made.contiguous(), made.to("cpu"), made.detach(), made.to(torch.device("cpu"), non_blocking=True)):
        assert isinstance(moved, WindowMask) and moved.pattern == made.pattern
    assert made.to("meta").shape == made.shape
    with quiet():
        expected = dense(SLIDING, (12, 12, 0, 0))
        assert torch.equal(made[:, :, 2:5, :7], expected[:, :, 2:5, :7])
        assert torch.equal(torch.cat([made, made], -1), torch.cat([expected, expected], -1))
        assert torch.equal(made.to(torch.float32), expected.float())


# ---- in a model --------------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def mistral() -> Any:
    return MistralForCausalLM(MistralConfig(**SMALL)).eval()


def equal(model: Any, inputs: dict[str, Tensor], **options: Any) -> None:
    """In float64, outputs and gradients."""
    eager, ours = (run(model, inputs, implementation, torch.float64, **options) for implementation in ("eager", OURS))
    assert max(difference(ours, eager)) < 1e-10


def test_packed_sequences(mistral: Any) -> None:
    """By positions that start again, in each row of a batch; by cu_seq_lens; both."""
    ids = torch.randint(3, 61, (2, 33))
    positions = torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in ((20, 9, 4), (1, 32))])
    with strict():
        equal(mistral, {"input_ids": ids, "position_ids": positions})
        one = {"input_ids": ids[:1], "position_ids": positions[:1]}
        bounds = torch.tensor([0, 20, 29, 33], dtype=torch.int32)
        both = one | {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 20, "max_length_k": 20}
        equal(mistral, both)
        expected = run(mistral, one, "eager", torch.float64)
        padded = both | {"attention_mask": torch.ones(1, 33, dtype=torch.long)}
        assert difference(run(mistral, padded, OURS, torch.float64), expected)[0] < 1e-10
        assert difference(run(mistral, both, OURS, torch.float64, use_cache=True), expected)[0] < 1e-10
        equal(mistral, one, use_cache=True)  # positions alone: with a cache transformers takes them for one sequence
        assert difference(run(mistral, one, OURS, torch.float64, use_cache=True), expected)[0] > 1e-3


def test_padding_of_any_kind(mistral: Any) -> None:
    inputs = batch("decoder")
    with strict():
        for mask in (inputs["attention_mask"], inputs["attention_mask"].flip(1)):
            equal(mistral, inputs | {"attention_mask": mask})
        holes = torch.ones_like(inputs["attention_mask"])
        holes[:, 11:31:4] = 0
        equal(mistral, inputs | {"attention_mask": holes})


@pytest.mark.parametrize("shape", [(9,), (2, 9, 9)])
def test_padding_of_another_number_of_dims(mistral: Any, shape: tuple[int, ...]) -> None:
    choose(mistral, OURS)
    with pytest.raises(ValueError, match=re.escape(f"attention_mask is {shape}; it needs to be (B, keys)")):
        mistral(torch.ones(2, 9, dtype=torch.long), attention_mask=torch.ones(shape))


def test_gradient_checkpointing_and_is_causal(mistral: Any) -> None:
    inputs = batch("decoder")
    expected = run(mistral, inputs, OURS, torch.float32)
    mistral.train()
    getattr(mistral, "activation_checkpointing_enable", mistral.gradient_checkpointing_enable)()
    with strict():
        assert all(map(torch.equal, run(mistral, inputs, OURS, torch.float32), expected))
    mistral.eval()
    if not IS_4:
        mistral.config.is_causal = False  # the same model, two-sided
        equal(mistral, inputs)


@pytest.mark.parametrize("padded", [True, False])
def test_without_values(mistral: Any, padded: bool) -> None:
    """On "meta" and with fake tensors there are shapes; an exported model takes any padding, or numbers of packed sequences."""
    choose(mistral, OURS)
    inputs = batch("decoder") | {"use_cache": False}
    if not padded:
        del inputs["attention_mask"]
    expected = mistral(**inputs).logits
    with strict(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = {name: mode.from_tensor(x) if isinstance(x, Tensor) else x for name, x in inputs.items()}
        assert mistral(**fakes).logits.shape == expected.shape
    program = torch.export.export(mistral, (), inputs, strict=False)
    torch.testing.assert_close(program.module()(**inputs).logits, expected)
    if padded:
        inputs["attention_mask"] = inputs["attention_mask"].flip(0)
        torch.testing.assert_close(program.module()(**inputs).logits, mistral(**inputs).logits)
    if padded and not IS_4:  # else transformers itself looks at values
        far = {name: x.to("meta") if isinstance(x, Tensor) else x for name, x in inputs.items()}
        assert mistral.to("meta")(**far).logits.shape == expected.shape


def test_chunked_prefill_and_static_caches(mistral: Any) -> None:
    from transformers import DynamicCache, StaticCache

    ids = torch.randint(3, 61, (2, 29))
    choose(mistral, "eager")
    with torch.no_grad(), strict():
        expected = mistral(ids).logits
        choose(mistral, OURS)
        for sizes in ((29,), (10, 9, 1, 9), (3, 1, 25)):
            caches = (
                DynamicCache(config=mistral.config),
                StaticCache(config=mistral.config, max_cache_len=40),
                window_matmul.hf.WindowCache(mistral.config),
            )
            for cache in caches:
                out = torch.cat([mistral(part, past_key_values=cache).logits for part in ids.split(sizes, 1)], 1)
                torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        tokens = [
            mistral.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0, **options)
            for options in ({}, {"cache_implementation": "static"})
        ]
    assert torch.equal(*tokens)


def test_a_window_of_one_token() -> None:
    """Stock caches then keep all tokens and say that they keep none: an error instead of other numbers; WindowCache is right."""
    from transformers import DynamicCache

    model = MistralForCausalLM(MistralConfig(**SMALL | {"sliding_window": 1, "attn_implementation": OURS})).eval()
    ids = torch.randint(3, 61, (2, 11))
    with torch.no_grad(), strict():
        expected, cache = model(ids).logits, window_matmul.hf.WindowCache(model.config)
        out = torch.cat([model(part, past_key_values=cache).logits for part in ids.split((5, 1, 4, 1), 1)], 1)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        stock = DynamicCache(config=model.config)
        model(ids[:, :5], past_key_values=stock)
        with pytest.raises(ValueError, match="WindowCache does not"):
            model(ids[:, 5:6], past_key_values=stock)


def test_masks_that_users_make(mistral: Any) -> None:
    """A window with padding, whatever lies within a window, and numbers to be added, are no dense way; other masks are."""
    inputs, longest = batch("decoder"), max(LENGTHS)
    query, key = torch.arange(longest)[:, None], torch.arange(longest)
    window = ((key <= query) & (key > query - WINDOW)).expand(3, 1, -1, -1)
    padded = window & inputs["attention_mask"].bool()[:, None, None]
    holes = window & (torch.rand(window.shape) < 0.7) | (key == query)
    dense_one = (key <= query) & (torch.rand(window.shape) < 0.7) | (key == query)
    lowest = torch.finfo(torch.float64).min
    numbers = torch.randn(window.shape, dtype=torch.float64).where(window, lowest)

    def as_numbers(mask: Tensor) -> Tensor:
        return mask if mask.is_floating_point() else torch.zeros((), dtype=torch.float64).where(mask, lowest)

    def compare(mask: Tensor, given: Tensor) -> None:
        eager = run(mistral, {"input_ids": inputs["input_ids"], "attention_mask": as_numbers(mask)}, "eager", torch.float64)
        ours = run(mistral, {"input_ids": inputs["input_ids"], "attention_mask": given}, OURS, torch.float64)
        assert max(difference(ours, eager)) < 1e-10

    with strict():
        for mask in (window, window[:1], holes, numbers):
            compare(mask, mask)
            compare(mask, as_numbers(mask))
        with pytest.raises(RuntimeError, match="the attention mask is no window"):
            run(mistral, {"input_ids": inputs["input_ids"], "attention_mask": dense_one}, OURS, torch.float64)
    with quiet():
        compare(dense_one, dense_one)
    mistral.to(torch.float32)
    choose(mistral, OURS)
    with torch.no_grad(), strict():
        ours, expected = (mistral(inputs["input_ids"], attention_mask=mask).logits for mask in (padded, inputs["attention_mask"]))
    real_tokens = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours[real_tokens], expected[real_tokens])


def test_output_attentions(mistral: Any) -> None:
    inputs = batch("decoder")
    given = {"use_cache": False, "output_attentions": True}
    choose(mistral, "eager")
    with torch.no_grad():
        expected = mistral(**inputs, **given)
        choose(mistral, OURS)
        with quiet():
            ours = mistral(**inputs, **given)
    real = inputs["attention_mask"].bool()
    assert len(ours.attentions) == 2
    for x, y in zip(ours.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(x.transpose(1, 2)[real], y.transpose(1, 2)[real], rtol=1e-5, atol=1e-6)
    with strict(), pytest.raises(RuntimeError, match="output_attentions"):
        mistral(**inputs, **given)

"""tests/python/test_cache.py: `RollingCache` gives what `window_attention` gives over the whole past, in memory of constant size."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from decoding import Decoder, Shape
from oracle import DTYPES
from window_matmul import RollingCache, Window, window_attention

OPERATOR = "attention"
WINDOWS = [Window(0, 0), Window(1, 0), Window(5, 0), Window(30, 0), Window(3, 0, 2), Window(2, 0, 5), Window(0, 0, 4)]
CHUNKS = [[1] * 20, [20, 1, 1, 1], [3, 0, 5, 1, 17, 1, 16, 2], [40, 1], [1, 40, 3], [7, 7, 7, 7], [0, 1, 0]]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("pinned", [0, 2, 11])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w.left},dilation={w.dilation}")
def test_chunks(backend: str, window: Window, pinned: int, chunks: list[int]) -> None:
    decoder = Decoder(Shape(window, pinned=pinned))
    for n in chunks:
        decoder.feed(n)


def options_of(shape: Shape, n: int, choice: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if choice.random() < 0.3:
        options["scale"] = choice.choice([0.3, 1.0, -0.5])
    if choice.random() < 0.3:
        options["softcap"] = choice.choice([0.5, 3.0])
    if choice.random() < 0.4:
        options["sinks"] = torch.randn(shape.heads, dtype=torch.float64).to(shape.dtype)
    if choice.random() < 0.4:
        sizes = (shape.heads, shape.width) if choice.random() < 0.5 else (shape.batch, shape.heads, n, shape.width)
        bias = torch.randn(sizes, dtype=torch.float64).to(shape.dtype)
        options["bias"] = bias.masked_fill(torch.rand(sizes) < 0.2, -torch.inf)
    return options


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_random_lives(backend: str, seed: int, dtype: torch.dtype) -> None:
    live(random.Random(seed), dtype)


def live(choice: random.Random, dtype: torch.dtype, there: bool = False) -> None:
    """Chunks, ragged ones too, crops, resets of some rows, reorders, states and options, in any order."""
    window = Window(choice.choice([0, 1, 4, 9]), 0, choice.choice([1, 1, 2, 3]))
    sizes = {"batch": choice.choice([1, 2, 3]), "kv_heads": choice.choice([1, 2]), "groups": choice.choice([1, 3])}
    spare = choice.choice([0, 1, 4, 20])
    decoder = Decoder(Shape(window, **sizes, pinned=choice.choice([0, 0, 2, 5]), spare=spare, dtype=dtype, there=there))
    nbytes = decoder.cache.nbytes
    rows = range(decoder.shape.batch)
    for _ in range(20):
        if choice.random() < 0.15:
            decoder.reset(choice.sample(rows, choice.randint(0, len(rows))))
        if choice.random() < 0.15:
            decoder.reorder([choice.choice(rows) for _ in rows])
        if choice.random() < 0.4:
            ahead = [min(spare - c, k.shape[1]) for c, k in zip(decoder.cache.state_dict()["cropped"], decoder.keys, strict=True)]
            decoder.crop([choice.randint(0, most) for most in ahead])
        if choice.random() < 0.15:
            state, decoder.cache = decoder.cache.state_dict(), decoder.shape.cache()
            decoder.cache.load_state_dict(state)
        n = choice.choice([1, 1, 1, 0, 2, 5, 17, 30])
        lengths = [choice.choice([n, n, 0, n // 2]) for _ in rows] if choice.random() < 0.4 else None
        decoder.feed(n, options_of(decoder.shape, n, choice), lengths)
        assert decoder.cache.nbytes == nbytes


def test_rows_of_different_lengths(backend: str) -> None:
    decoder = Decoder(Shape(Window(3, 0), batch=4, pinned=1))
    for row in range(4):
        decoder.feed(row + 1)
        decoder.reset([row])
    for n in (1, 1, 2, 1, 20, 1):
        decoder.feed(n)
    assert decoder.cache.length == [35, 33, 30, 26]


@pytest.mark.parametrize("spare", [1, 3, 16])
@pytest.mark.parametrize("window", [Window(0, 0), Window(5, 0), Window(3, 0, 2)], ids=lambda w: f"{w.left},dilation={w.dilation}")
def test_drafts_that_are_refused(backend: str, window: Window, spare: int) -> None:
    """Drafts of `spare` tokens, some of which are forgotten: before and after the ring is full, and over pinned tokens."""
    decoder = Decoder(Shape(window, batch=3, pinned=2, spare=spare))
    for step in range(12):
        decoder.feed(1 if step % 3 else spare)
        decoder.feed(spare)
        decoder.crop([(step * 5 + row * 3) % (spare + 1) for row in range(3)])
    decoder.feed(1)
    decoder.crop([1, 1, 1])
    decoder.feed(40)


@pytest.mark.parametrize("n", [1, 5, 20])
def test_ragged_chunks(backend: str, n: int) -> None:
    """Tokens behind a row's own are not looked at, and not appended."""
    decoder = Decoder(Shape(Window(4, 0), batch=4, pinned=1))
    for lengths in ([n, 0, n // 2, n], [0, 0, 0, 0], [n, n, n, n], [0, n, n, 1]):
        q, k, v = decoder.shape.tokens(n)
        for row, length in enumerate(lengths):
            for x in (q, k, v):
                x[row, :, length:] = torch.nan
        decoder.attend(q, k, v, {}, lengths)
    decoder.feed(3)
    before = decoder.cache.state_dict()
    one, other = (decoder.cache.attend(*[torch.ones_like(x) for x in decoder.shape.tokens(n)], lengths=x) for x in ([n, 0, 0, 0], None))
    assert torch.equal(one[1:], torch.zeros_like(one[1:])) and other.isfinite().all()
    decoder.cache.load_state_dict(before)
    again = decoder.cache.attend(*[torch.ones_like(x) for x in decoder.shape.tokens(n)], lengths=torch.tensor([n, 0, 0, 0]))
    assert torch.equal(one, again)


# ---- parts that are joined ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_parts_are_rounded_once(backend: str, dtype: torch.dtype, n: int) -> None:
    """The mean of 1, 1 + u, 1 + u in units of the last place is 1 + 2u/3, which is 1 + u: not 1, as of parts that were rounded."""
    unit = torch.finfo(dtype).eps
    zero, bias = torch.zeros(1, 1, 1, 1, dtype=dtype), torch.zeros(1, 3, dtype=dtype)
    cache = RollingCache(1, 1, 1, (2, 0), dtype=dtype)
    cache.attend(zero, zero, zero + 1)
    zeros = zero.expand(1, 1, n, 1)
    out = cache.attend(zero, zero, zero + 1 + unit, bias=bias)
    out = cache.attend(zeros, zeros, zeros + 1 + unit, bias=bias)
    assert out[0, 0, 0, 0] == 1 + unit


@pytest.mark.parametrize("n", [1, 3, 20])
@pytest.mark.parametrize("sink", [torch.inf, -torch.inf, -1e9, 1e9])
def test_sinks_at_the_ends(backend: str, n: int, sink: float) -> None:
    """As `window_attention` has it: all of a row for an infinite one, nothing for one of -inf."""
    for window, options in ((Window(3, 0), {}), (Window(3, 0), {"bias": torch.zeros(4, 4).double()}), (Window(2, 0, 2), {})):
        decoder = Decoder(Shape(window, pinned=1))
        decoder.feed(5)
        decoder.feed(n, options | {"sinks": torch.tensor([sink, 0.0, sink, 1.0]).double()})


@pytest.mark.parametrize("n", [1, 3, 20])
@pytest.mark.parametrize("low", [-1e9, -3e38, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_whole_row_of_a_low_bias(backend: str, dtype: torch.dtype, low: float, n: int) -> None:
    """Beside it the log of a sum is lost: parts are not joined by log-sum-exps. A sink as low is one key more."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for window in (Window(5, 0), Window(4, 0, 2)):
        decoder = Decoder(Shape(window, dtype=dtype))
        for chunk in (7, 4, n):
            q, k, v = decoder.shape.tokens(chunk)
            options = {"bias": torch.full((4, window.width or 0), low, dtype=wide), "sinks": torch.tensor([low, 0.0, low, -1e30]).to(wide)}
            decoder.attend(q * 0, k, v, options)


def test_layouts(backend: str) -> None:
    """(B, n, H, D) tensors seen as (B, H, n, D), and every second token of a longer tensor."""
    decoder = Decoder(Shape(Window(4, 0), pinned=2))
    for n in (6, 1, 3, 1):
        decoder.attend(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in decoder.shape.tokens(n)), {})
        decoder.attend(*(x.repeat_interleave(2, 2)[:, :, ::2] for x in decoder.shape.tokens(n)), {})


@pytest.mark.parametrize("empty", ["batch", "dim", "value_dim"])
def test_sizes_of_zero(backend: str, empty: str) -> None:
    decoder = Decoder(Shape(Window(2, 0), pinned=1, **{empty: 0}))
    for n in (3, 1, 0, 20):
        decoder.feed(n, {"scale": 1.0})


def test_what_has_left_the_window_is_forgotten(backend: str) -> None:
    """A NaN is seen while it is in the window, and neither after it has left nor after a reset."""
    shape = Shape(Window(2, 0), batch=1, pinned=1)
    for n in (1, 3):
        cache = shape.cache()
        bad = [x.fill_(torch.nan) for x in shape.tokens(1)]
        cache.attend(*shape.tokens(1))
        assert cache.attend(*bad).isnan().all()
        outs = torch.cat([cache.attend(*shape.tokens(n)) for _ in range(4)], 2)
        assert outs[:, :, :2].isnan().all() and outs[:, :, 2:].isfinite().all()
        cache.attend(*bad)
        cache.reset()
        assert cache.attend(*shape.tokens(n)).isfinite().all()


def test_masked_tokens_of_shorter_rows_are_not_seen(backend: str) -> None:
    shape = Shape(Window(5, 0), batch=2)
    cache = shape.cache()
    cache.attend(*(x.fill_(torch.nan) for x in shape.tokens(6)))
    cache.reset([1])
    out = cache.attend(*shape.tokens(1))
    assert out[0].isnan().all() and out[1].isfinite().all()


# ---- memory -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.best_backend
@pytest.mark.parametrize("window", WINDOWS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nbytes(backend: str, window: Window, dtype: torch.dtype) -> None:
    for spare in (0, 6):
        cache = Shape(window, batch=3, kv_heads=5, dim=7, value_dim=11, pinned=13, spare=spare, dtype=dtype).cache()
        assert window.left is not None
        assert cache.nbytes == 3 * 5 * (window.left * window.dilation + 1 + spare + 13) * (7 + 11) * dtype.itemsize


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that was newly made."""

    def __init__(self, memories: list[Tensor]) -> None:
        super().__init__()
        self.elements, self.known = 0, {memory.untyped_storage().data_ptr() for memory in memories}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.elements = max(self.elements, x.numel())
        return result


@pytest.mark.best_backend
@pytest.mark.parametrize("n", [1, 2, 16])
def test_few_tokens_do_not_copy_the_cache(backend: str, n: int) -> None:
    shape = Shape(Window(2000, 0), kv_heads=1, groups=1, pinned=100)
    cache = shape.cache()
    for _ in range(2):
        cache.attend(*shape.tokens(1500))
        memories = [cache._keys, cache._values]
        q, k, v = shape.tokens(n)
        with Largest([*memories, q, k, v]) as largest:
            cache.attend(q, k, v)
        assert largest.elements <= 8 * shape.batch * n * shape.dim  # a few outputs, and their sum
        assert [memory.data_ptr() for memory in memories] == [cache._keys.data_ptr(), cache._values.data_ptr()]


# ---- contexts -----------------------------------------------------------------------------------------------------------------------
@pytest.mark.best_backend
def test_gradient_contexts(backend: str) -> None:
    decoder = Decoder(Shape(Window(3, 0), pinned=1))
    with torch.no_grad():
        decoder.attend(*(x.requires_grad_() for x in decoder.shape.tokens(5)), {})
    with torch.inference_mode():
        decoder.feed(2)
        decoder.feed(1)
    decoder.feed(1)
    with torch.inference_mode():
        inside = Decoder(decoder.shape)
        inside.feed(3)
    inside.feed(1)
    assert not inside.cache.attend(*decoder.shape.tokens(1)).requires_grad


@pytest.mark.best_backend
@pytest.mark.parametrize("n", [1, 4, 20])
def test_autocast(backend: str, n: int) -> None:
    """q, k and v are cast as they are for `window_attention`, to a cache of that dtype; float64 is left alone."""
    sides = Window(3, 0)
    q, k, v = Shape(sides, dtype=torch.float32).tokens(n)
    with torch.autocast("cpu", torch.bfloat16):
        out = Shape(sides, dtype=torch.bfloat16).cache().attend(q, k, v)
        torch.testing.assert_close(out, window_attention(q, k, v, sides), rtol=2**-7, atol=2**-7)
        assert out.dtype == torch.bfloat16
        sinks = torch.randn(q.shape[1], dtype=torch.float16)
        out = Shape(sides, dtype=torch.bfloat16).cache().attend(q, k, v, sinks=sinks)
        torch.testing.assert_close(out, window_attention(q, k, v, sides, sinks=sinks), rtol=2**-7, atol=2**-7)
        with pytest.raises(TypeError, match=r"q is torch.bfloat16.*float32.*autocast"):
            Shape(sides, dtype=torch.float32).cache().attend(q, k, v)
        Decoder(Shape(sides)).feed(n)


@pytest.mark.best_backend
def test_default_dtype(backend: str) -> None:
    cache = RollingCache(1, 1, 2, (1, 0))
    assert cache.attend(*(torch.ones(1, 1, 1, 2) for _ in range(3))).dtype == torch.float32

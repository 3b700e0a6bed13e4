"""tests/python/test_cache_there.py: a `RollingCache` that keeps its lengths on the device, as on a GPU: right, and without reading them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from decoding import Decoder, Shape
from oracle import DTYPES
from test_cache import CHUNKS, WINDOWS, live
from window_matmul import RollingCache, Window, window_attention
from window_matmul._cache.arguments import as_device
from window_matmul.nn import WindowAttention

pytestmark = pytest.mark.best_backend


# ---- right ----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("pinned", [0, 2, 11])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w.left},dilation={w.dilation}")
def test_chunks(backend: str, window: Window, pinned: int, chunks: list[int]) -> None:
    decoder = Decoder(Shape(window, pinned=pinned, there=True))
    for n in chunks:
        decoder.feed(n)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_random_lives(backend: str, seed: int, dtype: torch.dtype) -> None:
    live(random.Random(seed), dtype, there=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n", [1, 3, 20])
def test_pinned_tokens_around_the_window(backend: str, n: int, bias: bool) -> None:
    """In front of it, in it with the bias of their slots, and new."""
    shape = Shape(Window(4, 0), batch=3, pinned=6, there=True)
    decoder = Decoder(shape)
    options = {"bias": torch.randn(shape.heads, shape.width, dtype=torch.float64)} if bias else {}
    for lengths in ([1, 0, n], [n, 1, n], [n, n, 0], [n, n, n], [1, n, n], [n, n, n]):
        decoder.feed(n, options, lengths)


@pytest.mark.parametrize("spare", [1, 3, 16])
@pytest.mark.parametrize("window", [Window(0, 0), Window(5, 0), Window(3, 0, 2)], ids=lambda w: f"{w.left},dilation={w.dilation}")
def test_drafts_that_are_refused(backend: str, window: Window, spare: int) -> None:
    decoder = Decoder(Shape(window, batch=3, pinned=2, spare=spare, there=True))
    for step in range(12):
        decoder.feed(1 if step % 3 else spare)
        decoder.feed(spare)
        decoder.crop([(step * 5 + row * 3) % (spare + 1) for row in range(3)])


def test_lengths_beyond_the_new_tokens_are_cut(backend: str) -> None:
    """Numbers that lie there are not read, so they cannot be refused."""
    shape = Shape(Window(3, 0), batch=3, there=True)
    one, other = shape.cache(), shape.cache()
    tokens = shape.tokens(4)
    cut, same = one.attend(*tokens, lengths=torch.tensor([9, -2, 3])), other.attend(*tokens, lengths=[4, 0, 3])
    assert torch.equal(cut, same) and one.length == other.length == [4, 0, 3]


def test_empty_again(backend: str) -> None:
    """A prompt after a reset sees nothing of what came before."""
    shape = Shape(Window(5, 0), pinned=2, there=True)
    cache = shape.cache()
    cache.attend(*(x.fill_(torch.nan) for x in shape.tokens(9)))
    cache.reset()
    assert cache.length == 0
    for n in (3, 1, 20):
        assert cache.attend(*shape.tokens(n)).isfinite().all()


@pytest.mark.parametrize("n", [1, 3])
def test_module(backend: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions come from lengths that are there too; rows of different lengths have their own."""
    module = WindowAttention(16, 2, (5, 0), rotary=100.0, dtype=torch.float64).eval()
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    outs = []
    with torch.no_grad():
        for there in (False, True):
            monkeypatch.setattr("window_matmul.cache._COUNTED_THERE", ("cpu",) if there else ())
            cache = module.new_cache(2)
            module(x[:, :4], cache=cache)
            cache.reset([1])
            outs.append(torch.cat([module(part, cache=cache) for part in x[:, 4:10].split(n, 1)], 1))
    torch.testing.assert_close(outs[1], outs[0], rtol=1e-12, atol=1e-12)


# ---- nothing is read ------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors that hold nothing: reading one raises."""
    monkeypatch.setattr("window_matmul.cache._COUNTED_THERE", ("cpu",))
    with FakeTensorMode():
        yield


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("pinned", [0, 2])
@pytest.mark.parametrize("window", [Window(5, 0), Window(3, 0, 2)], ids=lambda w: f"{w.left},dilation={w.dilation}")
def test_no_step_reads_lengths(backend: str, unread: None, window: Window, pinned: int, spare: int) -> None:
    """And each writes the memory that the first one wrote, as a graph that is replayed needs it."""
    shape = Shape(window, pinned=pinned, spare=spare, there=True)
    cache = shape.cache()
    memory = cache._keys, cache._values, cache._there
    for n in (7, 1, 1, 4, 0, 40, 1):
        bias = torch.zeros(shape.heads, shape.width, dtype=shape.dtype)
        for options in ({}, {"bias": bias}, {"lengths": torch.zeros(shape.batch, dtype=torch.int32)}):
            assert cache.attend(*shape.tokens(n), **options).shape == (shape.batch, shape.heads, n, shape.value_dim)
    cache.reset()
    assert all(a is b for a, b in zip(memory, (cache._keys, cache._values, cache._there), strict=True))
    with pytest.raises(DataDependentOutputException):
        print(cache.length)


def test_no_step_of_a_module_reads_lengths(backend: str, unread: None) -> None:
    module = WindowAttention(16, 2, (5, 0), rotary=100.0, sinks=True).eval()
    with torch.no_grad():
        cache = module.new_cache(2)
        for n in (9, 1, 3):
            assert module(torch.empty(2, n, 16), cache=cache).shape == (2, n, 16)


def test_a_recorded_step_takes_no_cache_for_empty(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replays append tokens that Python does not see: so the past is looked at from then on, after resets too."""
    shape = Shape(Window(3, 0), there=True)
    cache = shape.cache()
    monkeypatch.setattr("window_matmul._cache.there._is_recorded", lambda: True)
    cache.attend(*shape.tokens(4))
    monkeypatch.undo()
    cache.reset()
    cache._there.tokens.add_(2)  # type: ignore[union-attr]  # what a replay would do
    q, k, v = shape.tokens(3)
    before = cache._keys[:, :, :2].clone(), cache._values[:, :, :2].clone()
    exact = window_attention(q, torch.cat([before[0], k], 2), torch.cat([before[1], v], 2), (3, 0))
    torch.testing.assert_close(cache.attend(q, k, v), exact)


def test_devices(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"device is cuda.*CPU: .*CUDA"):
        RollingCache(1, 1, 4, (3, 0), device="cuda")
    monkeypatch.setattr("window_matmul._load.why_no_cuda", "")
    assert as_device("cuda:1") == torch.device("cuda:1")

"""tests/python/sharded.py: what two processes find out about DTensors, for test_sharding.py."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from window_matmul import RollingCache, nn, unwindow_matmul, window_attention, window_attention_varlen, window_matmul, window_softmax

RANKS = 2
Check = Callable[[Any], None]


def expect_equal(
    function: Callable[..., Any],
    tensors: dict[str, Tensor],
    ways: dict[str, Any],
    mesh: Any,
    out: Any,
    seed: int = 0,
    tolerance: float = 0.0,
) -> None:
    """Results, gradients and the placement of the first result; bit for bit those of one process, or within a tolerance."""

    def step(inputs: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        torch.manual_seed(seed)
        results = function(**inputs)
        results = list(results) if isinstance(results, tuple) else [results]
        to = [x for x in inputs.values() if x.requires_grad]
        gradients = torch.autograd.grad([(x.square() * 0.5).sum() if x.is_floating_point() else x for x in results], to)
        return results, list(gradients)

    alone = step({name: x.clone().requires_grad_(x.is_floating_point()) for name, x in tensors.items()})
    together = step({name: shard(x, ways.get(name), mesh).requires_grad_(x.is_floating_point()) for name, x in tensors.items()})
    placements = list(together[0][0].placements)  # type: ignore[attr-defined]
    whole = [y.full_tensor() for y in (*together[0], *together[1])]  # type: ignore[attr-defined]  # before a rank may leave the others
    for x, y in zip([*alone[0], *alone[1]], whole, strict=True):
        assert torch.allclose(x, y, rtol=tolerance, atol=tolerance), f"{tuple(x.shape)}: off by {(x - y).abs().max()}"
    assert placements == [out]


def shard(x: Tensor, way: Any, mesh: Any) -> Tensor:
    """A leaf. None: replicated. Of a partial one the first rank holds everything, so that the sum is exact."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor

    if isinstance(way, Partial):
        return DTensor.from_local(x if mesh.get_rank() == 0 else torch.zeros_like(x), mesh, [way]).detach()
    return distribute_tensor(x, mesh, [way or Replicate()]).detach()


# ---- cases ---------------------------------------------------------------------------------------------------------------------------
def operators() -> Iterator[tuple[str, Check]]:
    from torch.distributed.tensor import Partial, Replicate, Shard

    def matmul(**options: Any) -> Callable[..., Any]:
        return lambda q, k: window_matmul(q, k, (2, 1), **options)

    def unwindow(a: Tensor, v: Tensor) -> Tensor:
        return unwindow_matmul(a, v, (2, 1))

    q, k, a, v = (torch.randn(3, 4, *end, dtype=torch.float64) for end in ((6, 3), (3, 8), (6, 4), (8, 3)))
    qk, av = {"q": q, "k": k}, {"a": a, "v": v}
    whole, batch, heads = Replicate(), Shard(0), Shard(1)
    for name, ways, out in (
        ("replicated", {}, whole),
        ("batch, uneven", {"q": batch, "k": batch, "a": batch, "v": batch}, batch),
        ("heads", {"q": heads, "k": heads, "a": heads, "v": heads}, heads),
        ("one operand", {"q": heads, "a": heads}, heads),
        ("two ways", {"q": heads, "k": batch, "a": heads, "v": batch}, batch),
        ("partial", {"q": Partial(), "k": batch, "a": Partial(), "v": batch}, batch),
        ("head dim", {"q": Shard(3), "k": Shard(2), "v": Shard(3)}, whole),
    ):
        for op, f, inputs in (("window_matmul", matmul(), qk), ("unwindow_matmul", unwindow, av)):
            yield f"{op}: {name}", lambda mesh, f=f, inputs=inputs, ways=ways, out=out: expect_equal(f, inputs, ways, mesh, out)
    softmax = lambda a: window_softmax(a, (2, 1), num_keys=8)  # noqa: E731
    for way, out in ((batch, batch), (heads, heads), (Shard(3), whole)):
        yield f"window_softmax: {way}", lambda mesh, way=way, out=out: expect_equal(softmax, {"a": a}, {"a": way}, mesh, out)
    dilated = matmul(dilation=(1, 2, 1, 3), fill=-1.0)
    for way, out in ((batch, batch), (heads, whole)):
        yield (
            f"a dilation for each head: {way}",
            lambda mesh, way=way, out=out: expect_equal(dilated, qk, {"q": way, "k": way}, mesh, out),
        )


def attention() -> Iterator[tuple[str, Check]]:
    from torch.distributed.tensor import Partial, Replicate, Shard

    whole, batch, heads = Replicate(), Shard(0), Shard(1)

    def inputs(num_heads: int = 4, kv_heads: int = 2, **others: Tensor) -> dict[str, Tensor]:
        shapes = {"q": (3, num_heads, 7, 4), "k": (3, kv_heads, 9, 4), "v": (3, kv_heads, 9, 5)}
        return {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()} | others

    def case(tensors: dict[str, Tensor], ways: dict[str, Any], out: Any, **options: Any) -> Check:
        f = lambda **x: window_attention(**x, window_size=(3, 1), return_lse=True, **options)  # noqa: E731
        return lambda mesh: expect_equal(f, tensors, ways, mesh, out)

    def all_of(way: Any, **others: Any) -> dict[str, Any]:
        return {"q": way, "k": way, "v": way} | others

    slots, pairs, sinks = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 5), (3, 4, 7, 5), (4,)))
    mask, globals_ = torch.rand(3, 9) < 0.7, torch.rand(3, 9) < 0.3
    logits = inputs(bias=slots, sinks=sinks)
    yield "batch, uneven", case(inputs(), all_of(batch), batch)
    yield "heads", case(inputs(), all_of(heads), heads)
    yield "heads, uneven", case(inputs(3, 3), all_of(heads), heads)
    yield "groups that do not divide", case(inputs(6, 3), all_of(heads), whole)
    yield "keys alone", case(inputs(), {"k": heads}, heads)
    yield "head dim", case(inputs(), all_of(Shard(3)), whole)
    yield "partial", case(inputs(), {"q": batch, "k": Partial(), "v": batch}, batch)
    yield "bias (H, W), sinks: batch", case(logits, all_of(batch), batch, softcap=5.0, scale=0.3)
    yield "bias (H, W), sinks: heads", case(logits, all_of(heads, bias=Shard(0)), heads)
    yield (
        "bias (B, H, Lq, W), masks: batch",
        case(inputs(bias=pairs, key_mask=mask, global_tokens=globals_), all_of(batch, bias=batch), batch),
    )
    yield "bias (B, H, Lq, W), masks: heads", case(inputs(bias=pairs, key_mask=mask, global_tokens=globals_), all_of(heads), heads)
    yield "global tokens, an offset: heads", case(inputs(), all_of(heads), heads, global_tokens=2, query_offset=1)
    yield "dropout: batch", case(inputs(), all_of(batch), whole, dropout_p=0.4)
    yield "one dilation: heads", case(inputs(), all_of(heads), heads, dilation=2)
    yield "a dilation for each head: heads", case(inputs(), all_of(heads), whole, dilation=(1, 2, 1, 3))
    yield "a dilation for each head: batch", case(inputs(), all_of(batch), batch, dilation=(1, 2, 1, 3))


def varlen(mesh: Any) -> None:
    from torch.distributed.tensor import Shard

    q, k, v = (torch.randn(9, heads, 4, dtype=torch.float64) for heads in (4, 2, 2))
    ends = torch.tensor([0, 2, 9])
    f = lambda **x: window_attention_varlen(**x, window_size=(3, 1))  # noqa: E731
    tensors = {"q": q, "k": k, "v": v, "cu_seqlens_q": ends, "cu_seqlens_k": ends}
    expect_equal(f, tensors, dict.fromkeys("qkv", Shard(1)), mesh, Shard(1))


def seeds(mesh: Any) -> None:
    """Ranks that would draw different numbers still agree."""
    from torch.distributed.tensor import Shard

    x = shard(torch.ones(2, 2, 8, 4), Shard(1), mesh)
    torch.manual_seed(mesh.get_rank())
    out = window_attention(x, x, x, 3, dropout_p=0.5).full_tensor()  # type: ignore[attr-defined]
    of_first = out.clone()
    torch.distributed.broadcast(of_first, 0)
    assert torch.equal(out, of_first) and out.std() > 0


def second_order(mesh: Any) -> None:
    from torch.distributed.tensor import Shard

    q, k = torch.randn(2, 2, 5, 3, dtype=torch.float64), torch.randn(2, 2, 3, 5, dtype=torch.float64)

    def penalty(q: Tensor, k: Tensor) -> Tensor:
        p = window_softmax(window_matmul(q, k, 1, fill=-torch.inf), 1)
        (d_q,) = torch.autograd.grad(p.square().sum(), q, create_graph=True)
        return d_q

    expect_equal(penalty, {"q": q, "k": k}, {"q": Shard(1), "k": Shard(1)}, mesh, Shard(1))


def gradient_along_the_sequence(mesh: Any) -> None:
    """Whose placement nobody chose: gathered."""
    from torch.distributed.tensor import Shard

    weight = shard(torch.arange(80.0, dtype=torch.float64).view(2, 2, 5, 4), Shard(2), mesh)
    for f in (lambda x: window_attention(x, x, x, 1), lambda x: unwindow_matmul(window_matmul(x, x.mT, 1), x, 1)):
        x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
        alone, sharded = x.clone().requires_grad_(), shard(x, None, mesh).requires_grad_()
        (expected,) = torch.autograd.grad(f(alone), alone, weight.full_tensor())  # type: ignore[attr-defined]
        (got,) = torch.autograd.grad(f(sharded), sharded, weight)
        assert torch.equal(got.full_tensor(), expected)  # type: ignore[attr-defined]


def cut_sequences(mesh: Any) -> None:
    """Sharded along the sequence, some uneven: computed over the ranks, and returned so."""
    from torch.distributed.tensor import Partial, Shard

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    rows = Shard(2)
    q, k, v, slots = normal(2, 4, 7, 3), normal(2, 2, 7, 3), normal(2, 2, 7, 5), normal(2, 4, 7, 4)
    mask, table, sinks = torch.arange(14).view(2, 7) % 3 > 0, normal(4, 4), normal(4)  # some key for each query
    qkv = {"q": q, "k": k, "v": v}

    def attend(**options: Any) -> Callable[..., Any]:
        return lambda **x: window_attention(**x, window_size=(2, 1), return_lse=True, **options)

    for ways, more in (
        ({"q": rows, "k": rows, "v": rows}, {}),
        ({"q": rows}, {}),
        ({"q": rows, "k": Shard(0), "v": Partial()}, {}),
        ({"q": rows, "k": rows, "bias": rows, "key_mask": Shard(1)}, {"bias": slots, "key_mask": mask}),
        ({"q": rows}, {"bias": table, "sinks": sinks, "global_tokens": mask}),
    ):
        expect_equal(attend(), qkv | more, ways, mesh, rows, tolerance=1e-12)
    expect_equal(attend(dropout_p=0.4), qkv, {"q": rows, "k": rows}, mesh, rows, tolerance=1e-12)
    expect_equal(attend(), qkv, {"q": Shard(0), "k": rows}, mesh, Shard(0), tolerance=1e-12)  # queries are whole: keys are gathered
    packed, ends = {name: x[0].transpose(0, 1).contiguous() for name, x in qkv.items()}, torch.tensor([0, 5, 7])
    f = lambda **x: window_attention_varlen(**x, cu_seqlens_q=shard(ends, None, mesh), cu_seqlens_k=shard(ends, None, mesh), window_size=1)  # noqa: E731
    alone = lambda **x: window_attention_varlen(**x, cu_seqlens_q=ends, cu_seqlens_k=ends, window_size=1)  # noqa: E731
    expect_equal(lambda **x: (f if hasattr(x["q"], "placements") else alone)(**x), packed, {"q": Shard(0)}, mesh, Shard(0), tolerance=1e-12)
    trio = {"q": normal(2, 7, 3), "k": normal(2, 3, 7), "v": normal(2, 7, 5)}
    chain = lambda q, k, v: unwindow_matmul(window_softmax(window_matmul(q, k, (2, 1)), (2, 1)), v, (2, 1))  # noqa: E731
    expect_equal(chain, trio, {"q": Shard(1), "k": Shard(2), "v": Shard(0)}, mesh, Shard(1), tolerance=1e-12)


def refused(mesh: Any) -> None:
    """By name, and in time: nothing has been sent."""
    from torch.distributed.tensor import Shard

    x = torch.randn(2, 2, 6, 4)
    sharded = shard(x, Shard(2), mesh)
    try:
        window_attention(sharded, x, x, 1)
    except ValueError as error:
        assert str(error).startswith("k is a plain tensor beside a DTensor of queries"), error
    else:
        raise AssertionError("a plain k was taken")
    cache = RollingCache(2, 2, 4, (2, 0))
    try:
        cache.attend(shard(x, None, mesh), shard(x, None, mesh), shard(x, None, mesh))
    except ValueError as error:
        assert str(error).startswith("q is a DTensor; it needs to be a plain tensor") and cache.length == 0, error
    else:
        raise AssertionError("RollingCache took a DTensor")


def fully_sharded(mesh: Any) -> None:
    """Parameters that are DTensors, as the module sees them between calls."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    whole = nn.WindowAttention(16, 4, (3, 0), num_kv_heads=2).eval()
    torch.manual_seed(3)
    sharded = fully_shard(nn.WindowAttention(16, 4, (3, 0), num_kv_heads=2).eval(), mesh=mesh)
    x = torch.randn(2, 9, 16)
    with torch.no_grad():
        cache = sharded.new_cache(2)
        pieces = torch.cat([sharded(piece, cache=cache) for piece in x.split([4, 5], 1)], 1)
        torch.testing.assert_close(pieces, whole(x))


def compiled(mesh: Any) -> None:
    from torch.distributed.tensor import Shard

    x = torch.randn(2, 2, 8, 4)
    f = torch.compile(lambda q: window_attention(q, q, q, (2, 0)), backend="aot_eager", fullgraph=True)
    assert torch.equal(f(shard(x, Shard(1), mesh)).full_tensor(), window_attention(x, x, x, (2, 0)))


def cases() -> dict[str, Check]:
    torch.manual_seed(0)
    others = (varlen, seeds, second_order, gradient_along_the_sequence, cut_sequences, refused, fully_sharded, compiled)
    return dict([*operators(), *((f"attention: {name}", check) for name, check in attention())]) | {f.__name__: f for f in others}


# ---- processes -----------------------------------------------------------------------------------------------------------------------
def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    mesh = torch.distributed.init_device_mesh("cpu", (RANKS,))
    found = {}
    for name, check in cases().items():
        try:
            torch.manual_seed(0)
            check(mesh)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()[-3000:]
    Path(folder, str(rank)).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()

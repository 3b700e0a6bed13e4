"""tests/python/doors/test_compat_onnx.py: exported models give the numbers of the definition, in ONNX Runtime and in onnx's evaluator.

An export takes a second whatever it holds, so that a model here makes many calls.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_cases import CASES, OPTIONS_TOGETHER, Case
from attention_oracle import Rule, bounds
from oracle import check
from window_matmul import unwindow_matmul, window_attention, window_attention_varlen, window_matmul, window_softmax
from window_matmul._attention.ops import SPLIT_LSE
from window_matmul.testing.definition import Rounded

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
door = pytest.importorskip("window_matmul.compat.onnx", exc_type=ImportError)
Tiles = pytest.importorskip("window_matmul.compat._onnx_tiles", exc_type=ImportError).Tiles
pytestmark = pytest.mark.best_backend

Outputs = dict[str, list[Tensor]]
DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.fixture(autouse=True, scope="module")
def one_library() -> Iterator[None]:
    """The exporter reads what stands for each operator of PyTorch, half a second, for each model; here for the first alone."""
    _registration = importlib.import_module("torch.onnx._internal.exporter._registration")  # which needs onnxscript
    with pytest.MonkeyPatch.context() as patch:
        if apis := getattr(_registration, "onnxscript_apis", None):  # not in every PyTorch
            patch.setattr(apis, "get_torchlib_ops", functools.cache(apis.get_torchlib_ops))
        yield


class Model(torch.nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: Tensor) -> Any:
        return self.call(*tensors)


def exported(call: Callable[..., Any], tensors: Sequence[Tensor], opset: int = 18, dynamic: Any = None, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            Model(call).eval(),
            tuple(tensors),
            dynamo=True,
            opset_version=opset,
            custom_translation_table=door.translation_table(),
            dynamic_shapes=None if dynamic is None else (tuple(dynamic),),
            verbose=False,
            **options,
        )
    assert program is not None
    return program.model_proto


def outputs(proto: Any, tensors: Sequence[Tensor]) -> Outputs:
    feed = {entry.name: x.detach().numpy() for entry, x in zip(proto.graph.input, tensors, strict=True)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about -inf - -inf in rows that are then set to 0
        reference = onnx.reference.ReferenceEvaluator(proto).run(None, feed)
    return {"ONNX Runtime": [*map(torch.from_numpy, session.run(None, feed))], "onnx": [torch.as_tensor(x) for x in reference]}


# ---- fused attention -----------------------------------------------------------------------------------------------------------------
def check_cases(cases: Sequence[tuple[Case, torch.dtype]]) -> None:
    """One model that makes all calls. Halves come in and go out as float32, which NumPy knows."""
    drawn = [case.tensors(dtype) for case, dtype in cases]
    flat = [x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for tensors in drawn for x in tensors.values()]

    def call(*given: Tensor) -> list[Tensor]:
        rest, results = iter(given), []
        for (case, dtype), tensors in zip(cases, drawn, strict=True):
            out, lse = case.ours({name: next(rest).to(x.dtype) for name, x in tensors.items()})
            results += [out if dtype is torch.float64 else out.float(), lse]
        return results

    for found in outputs(exported(call, flat, optimize=False), flat).values():
        for (case, dtype), tensors, out, lse in zip(cases, drawn, found[::2], found[1::2], strict=True):
            dense = case.exact(tensors)
            known = tensors | {"scale_value": case.dim**-0.5 if case.scale is None else case.scale}
            allowed = bounds(dense, torch.zeros_like(dense.out), None, known, case.rule, None, Rounded())
            check(out.to(dtype), dense.out, allowed.out, dtype)
            check(lse, dense.lse, allowed.lse, lse.dtype)


LONG = [  # several tiles
    Case(Rule(3, 2), 150, 190),
    Case(Rule(40, 0), 130, 130, heads=4, kv_heads=2, sinks=True, softcap=2.0),
    Case(Rule(2, 1, (1, 20)), 129, 129, bias="full", hides=True, key_mask=True),
    Case(Rule(5, 3, 2, query_offset=-90), 200, 150, bias="slots"),
    Case(Rule(4, 0, query_offset=170), 65, 180, key_mask=True),
]


def test_every_option() -> None:
    others = (torch.float64, torch.bfloat16, torch.float16)
    check_cases(
        [(case, torch.float32) for case in CASES[::12] + LONG] + [(case, dtype) for dtype in others for case in OPTIONS_TOGETHER[1:3]]
    )


def check_same(call: Callable[..., list[Tensor]], tensors: Sequence[Tensor], proto: Any, atol: Sequence[float] = (2e-6,)) -> None:
    """Of float32 numbers of size 1, sums of up to 200, each rounded on both sides: some 10 units of 2**-23. Or `atol`, in turns."""
    want = call(*tensors)
    for name, found in outputs(proto, tensors).items():
        for at, (x, y) in enumerate(zip(found, want, strict=True)):
            torch.testing.assert_close(
                x, y, atol=atol[at % len(atol)], rtol=1e-5, msg=lambda text, at=at, name=name: f"output {at} of {name}: {text}"
            )


def test_lengths_that_are_known_when_it_runs() -> None:
    def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, a: Tensor) -> list[Tensor]:
        queries = q[:, :, 3:]
        return [
            window_attention(q, k, v, (3, 1), key_mask=mask),
            *window_attention(queries, k, v, (20, 60), return_lse=True),
            window_attention(queries, k, v, (3, 1), dilation=7, query_offset=0),
            window_attention(q, k, v, (None, 0), key_mask=mask),
            window_attention(q, k, v, (2, 2), global_tokens=mask),
            window_attention(queries, k, v, (2, 2), global_tokens=2),
            window_softmax(window_matmul(queries, k.mT, (3, 1)), (3, 1), num_keys=k.shape[2]),
            unwindow_matmul(a[..., 3:, :], v, (3, 1), query_offset=1),
        ]

    def drawn(batch: int, length: int) -> list[Tensor]:
        return [*torch.randn(3, batch, 2, length, 8), torch.rand(batch, length) < 0.5, torch.randn(batch, 2, length, 5)]

    dynamic = [{0: DYNAMIC, 2: DYNAMIC}] * 3 + [{0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC, 2: DYNAMIC}]
    proto = exported(call, drawn(2, 90), dynamic=dynamic, optimize=False)
    for batch, length in ((1, 5), (3, 200)):
        check_same(call, drawn(batch, length), proto)


def test_what_lies_behind_sequences_does_not_count() -> None:
    """Packed sequences, and keys that are hidden from all."""

    def call(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, mask: Tensor, bias: Tensor, known: Tensor, lengths: Tensor
    ) -> list[Tensor]:
        def packed(*window: int | None, **options: Any) -> Any:
            return window_attention_varlen(q, k, v, cu_q, cu_k, window, **options)  # type: ignore[arg-type]

        batch = [x.unflatten(0, (1, -1)).transpose(1, 2) for x in (q[1:], k, v)]
        return [
            *packed(2, 1, return_lse=True),
            packed(2, 1, global_tokens=1, bias=bias),
            packed(2, 1, global_tokens=mask, dilation=2),
            packed(None, 0, global_tokens=mask, key_mask=~mask),
            window_attention(*batch, (3, 3), key_mask=known),
            window_attention(*batch, (3, 3), key_lengths=lengths),
        ]

    q, k, v = torch.randn(12, 4, 8), torch.randn(15, 2, 8), torch.randn(15, 2, 5)
    q[0] = k[14] = v[14] = torch.nan  # rows of no sequence
    cu_q, cu_k = torch.tensor([1, 5, 5, 8, 11]), torch.tensor([0, 4, 7, 10, 14], dtype=torch.int32)
    hidden = [(torch.arange(15) < 14)[None], torch.tensor([14])]
    tensors = [q, k, v, cu_q, cu_k, torch.rand(15) < 0.3, torch.randn(4, 12, 4), *hidden]
    check_same(call, tensors, exported(call, tensors, optimize=False))


def test_plain_calls_are_one_node_in_opset_25() -> None:
    def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> list[Tensor]:
        def attention(*window: int | None, **options: Any) -> Any:
            return window_attention(q.nan_to_num(), k.nan_to_num(), v.nan_to_num(), window, **options)  # type: ignore[arg-type]

        plain = [
            window_attention(q, k, v, (3, 1), key_mask=mask, softcap=2.0, scale=0.3),
            attention(3, 1),
            attention(None, 1, query_offset=0),
            window_attention(*(x.nan_to_num().half() for x in (q, k, v)), None).float(),
        ]
        options = ({"dilation": 2}, {"scale": -0.5}, {"scale": 0.0}, {"query_offset": 1}, {"global_tokens": 1}, {"sinks": q[0, :, 0, 0]})
        others = [attention(1, 1, **each) for each in options]
        return [*plain, *others, attention(1, 1, key_lengths=torch.full((2,), 9)), attention(1, 1, return_lse=True)[1]]

    q, k, v = torch.randn(2, 4, 40, 8), torch.randn(2, 2, 70, 8), torch.randn(2, 2, 70, 5)
    mask = torch.rand(2, 70) < 0.5
    k, v = (x.masked_fill(~mask[:, None, :, None], torch.nan) for x in (k, v))
    proto = exported(call, [q, k, v, mask], 25, optimize=False)
    assert sum(node.op_type == "Attention" for node in proto.graph.node) == 4
    check_same(call, [q, k, v, mask], proto, atol=[2e-6] * 3 + [2e-4] + [2e-6] * 8)  # the fourth is float16, of size 0.2


# ---- bands ---------------------------------------------------------------------------------------------------------------------------
def test_bands() -> None:
    fills, windows = (0.0, -torch.inf, 7.0), ((3, 1), (20, 0), (1, 2, 3))
    shapes = [((5, 8), (7, 8)), ((3, 100, 8), (3, 170, 8)), ((2, 2, 3, 9, 8), (2, 2, 3, 4, 8))]
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

    def call(*tensors: Tensor) -> list[Tensor]:
        results = []
        for n, (queries, keys) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            for at, (left, right, *taps) in enumerate(windows):
                dtype, fill = dtypes[(n + at) % 4], fills[(n + at) % 3]
                more: dict[str, Any] = {"dilation": taps[0]} if taps else {}
                if queries.ndim > 2 and at == 0:
                    more = {"dilation": (1, 2, 20), "query_offset": 2}
                q, k, window = queries.to(dtype), keys.to(dtype), (left, right)
                a = window_matmul(q, k.mT, window, fill=fill, **more)
                weights = window_softmax(a, window, num_keys=k.shape[-2], **more)
                results += [x.float() for x in (a, weights, unwindow_matmul(weights, k, window, **more))]
        return results

    tensors = [torch.randn(shape) for pair in shapes for shape in pair]
    # a unit of each dtype of a score of up to 20, and of what follows from it; 4 of float32, whose sums of 8 have another order
    units = [20 * unit for unit in (2.0**-21, 2.0**-23, 2.0**-8, 2.0**-11)]
    atol = [units[(n + at) % 4] for n in range(len(shapes)) for at in range(len(windows)) for _ in range(3)]
    check_same(call, tensors, exported(call, tensors, optimize=False), atol)


def test_memory_grows_with_the_window() -> None:
    """No value has as many numbers as the scores of all keys have."""
    q = torch.randn(1, 1, 2048, 4)

    def call(q: Tensor) -> list[Tensor]:
        a = window_matmul(q, q.mT, (30, 5))
        return [window_attention(q, q, q, (30, 5), bias=q[0, 0, :1, :1].expand(1, 36)), unwindow_matmul(a, q, (30, 5))]

    proto = onnx.shape_inference.infer_shapes(exported(call, [q]), data_prop=True)
    sizes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in proto.graph.value_info]
    assert len(sizes) > 20 and all(map(all, sizes)), "a size is not known"
    assert max(torch.Size(shape).numel() for shape in sizes) <= 2048 * (2 * 36 + 64)


# ---- refusals ------------------------------------------------------------------------------------------------------------------------
def test_dropout_is_refused_by_name() -> None:
    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        exported(lambda q: window_attention(q, q, q, 1, dropout_p=0.5), [torch.randn(1, 2, 6, 4)])
    texts: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:  # the exporter wraps it twice
        texts.append(str(error))
        error = error.__cause__
    assert "dropout_p is not 0" in texts[-1], texts


def test_what_a_graph_cannot_say_is_refused() -> None:
    table = door.translation_table()
    ops = torch.ops.window_matmul
    for op in (ops.attention_backward, ops.band_in_transposed, ops.window_softmax_backward):
        with pytest.raises(ValueError, match="gradients"):
            table[op.default]()
    with pytest.raises(ValueError, match="0 queries and 9 keys"):
        Tiles(0, 9, 0)
    with pytest.raises(ValueError, match=r"RollingCache\.attend"):
        table[ops.attention.default](*[None] * 12, [3, 0, SPLIT_LSE], 0, 0, [0.0, 0.0])


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "_onnx_attention", "_onnx_tiles", "_onnx_packages"):
        monkeypatch.delitem(sys.modules, f"window_matmul.compat.{name}")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'window_matmul\[onnx\]'"):
        importlib.import_module("window_matmul.compat.onnx")

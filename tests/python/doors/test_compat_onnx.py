"""tests/python/doors/test_compat_onnx.py: exported models give the numbers of the definition, in ONNX Runtime and in onnx's evaluator.

An export takes a second whatever it holds, so that a model here makes many calls.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from attention_cases import CASES, OPTIONS_TOGETHER, Case
from attention_oracle import Rule, bounds
from oracle import check
from window_matmul import RollingCache, nn, unwindow_matmul, window_attention, window_attention_varlen, window_matmul, window_softmax
from window_matmul.compat.onnx import translation_table
from window_matmul.testing.definition import Rounded

pytestmark = pytest.mark.best_backend

Outputs = dict[str, list[Tensor]]
DYNAMIC = torch.export.Dim.DYNAMIC


class Model(torch.nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: Tensor) -> Any:
        return self.call(*tensors)


def exported(call: Callable[..., Any], tensors: Sequence[Tensor], opset: int = 18, dynamic: Any = None, **options: Any) -> Any:
    model = call if isinstance(call, torch.nn.Module) else Model(call)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            model.eval(),
            tuple(tensors),
            dynamo=True,
            opset_version=opset,
            custom_translation_table=translation_table(),
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


def kinds(proto: Any) -> set[str]:
    return {node.op_type for node in proto.graph.node}


# ---- fused attention -----------------------------------------------------------------------------------------------------------------
def check_cases(cases: Sequence[Case], dtype: torch.dtype, **options: Any) -> Any:
    """One model that makes all calls, of tensors that it casts."""
    drawn = [case.tensors(dtype) for case in cases]
    flat = [x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for tensors in drawn for x in tensors.values()]

    def call(*given: Tensor) -> list[Tensor]:
        rest, results = iter(given), []
        for case, tensors in zip(cases, drawn, strict=True):
            out, lse = case.ours({name: next(rest).to(x.dtype) for name, x in tensors.items()})
            results += [out.double() if dtype is torch.float64 else out.float(), lse]
        return results

    proto = exported(call, flat, **options)
    for found in outputs(proto, flat).values():
        for case, tensors, out, lse in zip(cases, drawn, found[::2], found[1::2], strict=True):
            dense = case.exact(tensors)
            known = tensors | {"scale_value": case.dim**-0.5 if case.scale is None else case.scale}
            allowed = bounds(dense, torch.zeros_like(dense.out), None, known, case.rule, None, Rounded())
            check(out, dense.out, allowed.out, dtype)
            check(lse, dense.lse, allowed.lse, lse.dtype)
    return proto


LONG = [  # several tiles
    Case(Rule(3, 2), 150, 190),
    Case(Rule(40, 0), 130, 130, heads=4, kv_heads=2, sinks=True, softcap=2.0),
    Case(Rule(2, 1, (1, 20)), 129, 129, bias="full", hides=True, key_mask=True),
    Case(Rule(5, 3, 2, query_offset=-90), 200, 150, bias="slots"),
    Case(Rule(4, 0, query_offset=170), 65, 180, key_mask=True),
]


@pytest.mark.parametrize("cases", [CASES[n::8] for n in range(8)] + [LONG], ids=[*map(str, range(8)), "long"])
def test_every_option(cases: list[Case]) -> None:
    check_cases(cases, torch.float32, optimize=False)

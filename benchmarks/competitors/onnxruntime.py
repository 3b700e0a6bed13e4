# benchmarks/competitors/onnxruntime.py: ONNX Runtime's GroupQueryAttention with local_window_size, a causal window.
from __future__ import annotations

import importlib
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..cases import Case
from . import Fastest, Function, Unsupported

TITLE = "ONNX Runtime GroupQueryAttention"
OUTSIDE = 0.0
EXACT_OUTSIDE = True


def prepare(case: Case, backward: bool, fastest: Fastest) -> tuple[Function, str]:
    """Its layout is (B, L, H * d): the inputs are brought there by views and a copy, which a model in that layout would not need."""
    if case.op != "fused" or not case.causal or case.dtype != "fp32":
        raise Unsupported("it has causal windows only, and enters fused attention with them")
    if backward:
        raise Unsupported("it has no backward")
    if not (find_spec("onnxruntime") and find_spec("onnx")):
        raise Unsupported("onnxruntime and onnx are not installed: pip install onnxruntime onnx")
    session, run = _session(case), {"seqlens_k": torch.full((case.batch,), case.length - 1, dtype=torch.int32).numpy()}
    run["total_sequence_length"] = torch.tensor(case.length, dtype=torch.int32).numpy()
    shape = (case.batch, case.length, case.heads, case.dim)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = {name: x.transpose(1, 2).flatten(2).numpy() for name, x in (("query", q), ("key", k), ("value", v))}
        return torch.from_numpy(session.run(["output"], rows | run)[0]).view(shape).transpose(1, 2)

    return attention, f"onnxruntime {version('onnxruntime')}"


def _session(case: Case) -> Any:
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    names = ["query", "key", "value", "", "", "seqlens_k", "total_sequence_length"]
    options = {"num_heads": case.heads, "kv_num_heads": case.heads, "local_window_size": case.width}
    outputs = ["output", "present_key", "present_value"]
    node = helper.make_node("GroupQueryAttention", names, outputs, domain="com.microsoft", **options)
    rows, past = [case.batch, case.length, case.heads * case.dim], [case.batch, case.heads, case.length, case.dim]
    given = [helper.make_tensor_value_info(name, kinds.FLOAT, rows) for name in names[:3]]
    given += [helper.make_tensor_value_info("seqlens_k", kinds.INT32, [case.batch])]
    given += [helper.make_tensor_value_info("total_sequence_length", kinds.INT32, [])]
    made = [helper.make_tensor_value_info(name, kinds.FLOAT, rows if name == "output" else past) for name in outputs]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "attention", given, made), opset_imports=opsets, ir_version=9)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = case.threads
    return runtime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

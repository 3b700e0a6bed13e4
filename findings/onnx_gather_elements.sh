#!/usr/bin/env bash
# findings/onnx_gather_elements.sh: onnx 1.23.2: the reference evaluator's GatherElements fails from 64 entries on and with axis=-1, and
# once gives other numbers.
#
# It calls numpy.choose, which takes at most 64 arrays, the indices among them; beyond, tensors of 2 dims go another way, which looks at the first column of the
# indices alone, as if axis were 1. With axis=-1 it compares shapes that still have the last dim. ONNX Runtime gives take_along_axis.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def run(data: np.ndarray, index: np.ndarray, axis: int) -> str:
    inputs = [
        helper.make_tensor_value_info("data", TensorProto.FLOAT, data.shape),
        helper.make_tensor_value_info("index", TensorProto.INT64, index.shape),
    ]
    node = helper.make_node("GatherElements", ["data", "index"], ["out"], axis=axis)
    graph = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info("out", TensorProto.FLOAT, index.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    feed, want = {"data": data, "index": index}, np.take_along_axis(data, index, axis)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, feed)[0], want), "ONNX Runtime"
    try:
        return "right" if np.array_equal(ReferenceEvaluator(model).run(None, feed)[0], want) else "other numbers"
    except (ValueError, IndexError) as error:
        return type(error).__name__


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int64)


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "numpy", np.__version__)
for what, data, index, axis, expected in (
    ("63 entries", numbers(2, 3, 63), zeros(2, 3, 5), 2, "right"),
    ("64 entries", numbers(2, 3, 64), zeros(2, 3, 5), 2, "ValueError"),
    ("axis=-1", numbers(2, 3, 4), zeros(2, 3, 2), -1, "ValueError"),
    ("64 rows", numbers(64, 1), zeros(64, 1), 0, "other numbers"),
):
    got = run(data, index, axis)
    print(f"{what}: data {data.shape}, index {index.shape}, axis {axis}: {got}")
    assert got == expected, "the behaviour has changed"
PYTHON

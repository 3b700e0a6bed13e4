#!/usr/bin/env bash
# findings/onnxruntime_attention_25.sh: onnxruntime 1.32.0: Attention of opset 25, the first with windows, has no kernel and becomes 59 to
# 77 nodes.
#
# Opset 24 runs as one node. Opset 25 adds left_window_size and right_window_size; ONNX Runtime replaces the node by its definition, with
# the full matrix of scores, also where no window is given. And without a cache queries are aligned with the first keys, not the last: 3
# queries on 6 keys with (2, 1) see keys 0-1, 0-2, 0-3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

Q, K = [1, 1, 3, 8], [1, 1, 6, 8]


def run(opset: int, **attributes: int) -> tuple[int, list[int]]:
    """How many nodes the session runs, and how many keys each query sees."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("q", Q), ("k", K), ("v", K))]
    node = helper.make_node("Attention", ["q", "k", "v"], ["o"], **attributes)
    graph = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info("o", TensorProto.FLOAT, Q)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values = np.zeros(K, np.float32)
    values[0, 0, :, :6] = np.eye(6)  # a token's value says where it is
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "run.onnx"))
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = len(onnx.load(options.optimized_model_filepath).graph.node)
    out = session.run(None, {"q": np.zeros(Q, np.float32), "k": np.zeros(K, np.float32), "v": values})[0]
    return nodes, (out[0, 0] > 0).sum(axis=1).tolist()


print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
for opset, attributes, expected in (
    (24, {}, (1, [6, 6, 6])),
    (24, {"is_causal": 1}, (1, [1, 2, 3])),
    (25, {}, (59, [6, 6, 6])),
    (25, {"is_causal": 1}, (71, [1, 2, 3])),
    (25, {"left_window_size": 2, "right_window_size": 1}, (77, [2, 3, 4])),
):
    got = run(opset, **attributes)
    print(f"opset {opset} {attributes}: {got[0]} nodes, keys seen by each query {got[1]}")
    assert got == expected, "the behaviour has changed"
PYTHON

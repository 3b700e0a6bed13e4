#!/usr/bin/env bash
# findings/onnxruntime_unidirectional.sh: onnxruntime 1.32.0: causal MultiHeadAttention with more keys than queries lets the last query see
# all keys.
#
# com.microsoft.MultiHeadAttention(unidirectional=1) on a CPU, 3 queries and 6 keys. Aligned at the start the queries would see 1, 2, 3
# keys, at the end 4, 5, 6. They see 1, 2, 6: all rows but the last are aligned at the start. With as many keys as queries, or fewer, it is
# causal; so is ONNX's own Attention, which sees 1, 2, 3.
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

CONTRIB = {"op_type": "MultiHeadAttention", "domain": "com.microsoft", "num_heads": 1, "unidirectional": 1}
STANDARD = {"op_type": "Attention", "q_num_heads": 1, "kv_num_heads": 1, "is_causal": 1}


def seen(node: dict[str, str | int], queries: int, keys: int) -> list[int]:
    """How many keys each query sees."""
    shapes = {"q": [1, queries, 16], "k": [1, keys, 16], "v": [1, keys, 16]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, shapes["q"])
    graph = helper.make_graph([helper.make_node(inputs=["q", "k", "v"], outputs=["o"], **node)], "one", inputs, [output])
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.eye(keys, 16, dtype=np.float32)[None]  # a token's value says where it is
    out = session.run(None, {"q": np.zeros(shapes["q"], np.float32), "k": np.zeros(shapes["k"], np.float32), "v": values})[0]
    return (out[0] > 0).sum(axis=1).tolist()


print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
for node, queries, keys, expected in (
    (CONTRIB, 3, 6, [1, 2, 6]),
    (CONTRIB, 5, 12, [1, 2, 3, 4, 12]),
    (CONTRIB, 6, 6, [1, 2, 3, 4, 5, 6]),
    (CONTRIB, 6, 3, [1, 2, 3, 3, 3, 3]),
    (STANDARD, 3, 6, [1, 2, 3]),
):
    found = seen(node, queries, keys)
    print(f"{node['op_type']}, {queries} queries, {keys} keys: keys seen by each query {found}")
    assert found == expected, "the behaviour has changed"
PYTHON

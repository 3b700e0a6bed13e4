#!/usr/bin/env bash
# findings/onnxruntime_group_query_window.sh: onnxruntime's local_window_size has counted differently from release to release.
#
# GroupQueryAttention(local_window_size=W) saw W + 1 keys up to 1.23.2 and sees W from 1.24.1 on. W = 0 has meant three things: no window
# (1.20.1), the query's own key (1.23.2), no key at all and an output of zeros (1.24.1 and 1.32.0).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen.py" <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

LENGTH = 8


def seen(window: int) -> list[int]:
    """How many keys each query sees."""
    names = ["q", "k", "v", "", "", "last", "total"]
    node = helper.make_node(
        "GroupQueryAttention", names, ["o", "k2", "v2"], domain="com.microsoft", num_heads=1, kv_num_heads=1, local_window_size=window
    )
    value = helper.make_tensor_value_info
    inputs = [value(name, TensorProto.FLOAT, [1, LENGTH, 16]) for name in "qkv"]
    inputs += [value(name, TensorProto.INT32, [1]) for name in ("last", "total")]
    outputs = [value("o", TensorProto.FLOAT, [1, LENGTH, 16])]
    outputs += [value(name, TensorProto.FLOAT, [1, 1, LENGTH, 16]) for name in ("k2", "v2")]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "one", inputs, outputs), opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    zeros, values = np.zeros((1, LENGTH, 16), np.float32), np.zeros((1, LENGTH, 16), np.float32)
    values[0, :, :LENGTH] = np.eye(LENGTH)  # a token's value says where it is
    sizes = {"last": np.array([LENGTH - 1], np.int32), "total": np.array([LENGTH], np.int32)}
    out = session.run(["o"], {"q": zeros, "k": zeros, "v": values, **sizes})[0]
    return (out[0, :, :LENGTH] > 0).sum(axis=1).tolist()


expected = {int(w): int(n) for w, n in (pair.split(":") for pair in sys.argv[1:])}
print("onnxruntime", onnxruntime.__version__)
for window, most in expected.items():
    print(f"  local_window_size={window}: keys seen by each query {seen(window)}")
    assert max(seen(window)) == most, "the behaviour has changed"
PYTHON
python3 -m venv "$folder/venv"
check() {
  "$folder/venv/bin/pip" install -qq --disable-pip-version-check onnx==1.18.0 numpy==2.2.6 "onnxruntime==$1"
  "$folder/venv/bin/python" "$folder/seen.py" "${@:2}"
}
check 1.20.1 0:8 1:2 3:4
check 1.23.2 0:1 1:2 3:4
check 1.24.1 0:0 1:1 3:3
check 1.32.0 0:0 1:1 3:3

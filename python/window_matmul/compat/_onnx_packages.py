# python/window_matmul/compat/_onnx_packages.py: what the ONNX door imports beside torch, or how to install it.
try:
    import numpy as np
    import onnx_ir as ir
    from onnxscript import evaluator
    from onnxscript import opset18 as op
    from onnxscript.values import Opset
except ImportError as error:
    raise ImportError("window_matmul.compat.onnx needs onnx and onnxscript: pip install 'window_matmul[onnx]'") from error

__all__ = ["Opset", "evaluator", "ir", "np", "op"]

# python/window_matmul/_attention/__init__.py: below fused attention: its arguments, the private operators, their derivative.
import torch  # noqa: F401, first: with it these modules come, in the order that they need (_registration.py)

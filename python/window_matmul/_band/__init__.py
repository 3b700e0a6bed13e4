# python/window_matmul/_band/__init__.py: below the explicit operators: their arguments, the private operators, their derivatives.
import torch  # noqa: F401, first: with it these modules come, in the order that they need (_registration.py)

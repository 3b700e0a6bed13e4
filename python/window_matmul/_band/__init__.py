# python/window_matmul/_band/__init__.py: below the explicit operators: their arguments, the private operators, their derivatives.

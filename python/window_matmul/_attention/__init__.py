# python/window_matmul/_attention/__init__.py: below fused attention: its arguments, the private operators, their derivative.

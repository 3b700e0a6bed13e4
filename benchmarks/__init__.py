# benchmarks/__init__.py: measures the operators against the machine and against others; run by `python -m window_matmul bench`.

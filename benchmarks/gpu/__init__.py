# benchmarks/gpu/__init__.py: the explicit pair on a GPU, against the copy rate and against others.

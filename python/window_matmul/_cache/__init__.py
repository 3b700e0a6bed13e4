# python/window_matmul/_cache/__init__.py: below `RollingCache`: its arguments, where tokens lie, how parts of the keys are joined.

# python/window_matmul/compat/_jax_packages.py: what the door for JAX imports, or how to install it.
try:
    import jax
    import numpy as np
    from jax import ffi
    from jax import numpy as jnp
    from jax.custom_derivatives import SymbolicZero
    from numpy.typing import NDArray
except ModuleNotFoundError as error:
    raise ImportError("window_matmul.compat.jax needs JAX 0.5 or newer: pip install 'jax>=0.5'") from error

__all__ = ["NDArray", "SymbolicZero", "ffi", "jax", "jnp", "np"]

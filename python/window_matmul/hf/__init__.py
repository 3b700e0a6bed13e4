# python/window_matmul/hf/__init__.py: the doors for models of transformers.
"""Models of transformers on these operators, with the numbers that are their own."""

try:
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise ImportError("window_matmul.hf needs transformers; pip install 'transformers>=4.57'") from error

from ._patch import unpatch
from .bigbird import patch_bigbird
from .longformer import patch_longformer

__all__ = ["patch_bigbird", "patch_longformer", "unpatch"]

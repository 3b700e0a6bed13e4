# python/window_matmul/hf/__init__.py: the door for Hugging Face transformers: importing it registers "window_matmul".
"""`import window_matmul.hf`, then `attn_implementation="window_matmul"` or `model.set_attn_implementation("window_matmul")`.

Every layer of a model then computes attention by `window_attention`: windows, full attention, padding, packed sequences, sinks, softcap,
with the model's own numbers. `WindowCache` is a cache for generation that does not copy a window for each token.
"""

from ._attention import attention_forward
from ._cache import WindowCache
from ._masks import attention_mask
from ._versions import register

__all__ = ["WindowCache", "attention_forward", "attention_mask"]

register(attention_forward, attention_mask)

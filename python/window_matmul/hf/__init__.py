# python/window_matmul/hf/__init__.py: the door for Hugging Face transformers: importing it registers "window_matmul".
"""`import window_matmul.hf`, then `attn_implementation="window_matmul"` or `model.set_attn_implementation("window_matmul")`.

Every layer of a model then computes attention by `window_attention`: windows, full attention, padding, packed sequences, sinks, softcap,
with the model's own numbers. `WindowCache` is a cache for generation that does not copy a window for each token. Longformer, LED and
BigBird have attention of their own: `patch_longformer` and `patch_bigbird` replace it in a model that exists.

transformers tells packed sequences apart by `position_ids` where there is neither an attention mask nor a cache, so pass `use_cache=False`
beside them; `cu_seq_lens_q` and `cu_seq_lens_k` tell them apart always.
"""

from ._attention import attention_forward
from ._cache import WindowCache
from ._masks import attention_mask
from ._patch import unpatch
from ._versions import register
from .bigbird import patch_bigbird
from .longformer import patch_longformer

__all__ = ["WindowCache", "attention_forward", "attention_mask", "patch_bigbird", "patch_longformer", "unpatch"]

register(attention_forward, attention_mask)

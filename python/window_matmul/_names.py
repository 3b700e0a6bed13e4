# python/window_matmul/_names.py: the public names, which need torch; window_matmul itself has them when they are asked for.
from . import nn as nn
from .attention import window_attention as window_attention
from .attention import window_attention_varlen as window_attention_varlen
from .cache import RollingCache as RollingCache
from .functional import unwindow_matmul as unwindow_matmul
from .functional import window_matmul as window_matmul
from .functional import window_softmax as window_softmax
from .memory import release_memory as release_memory
from .states import merge_states as merge_states

# python/window_matmul/hf/_versions.py: all that differs between the versions of transformers, and which of them are taken.
from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

NAME = "window_matmul"
OLDEST, NEWEST = (4, 57), (5, 24)  # NEWEST was tried; a newer one is taken with a warning

try:
    import transformers
except ImportError as error:
    raise ImportError("window_matmul.hf needs transformers >= 4.57, which is not installed: pip install 'window_matmul[hf]'") from error


def as_version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def check_version(text: str) -> None:
    version = as_version(text)
    if version < OLDEST:
        raise ImportError(
            f"window_matmul.hf needs transformers >= {OLDEST[0]}.{OLDEST[1]}, and {text} is installed: pip install 'window_matmul[hf]'"
        )
    if version > NEWEST:
        tried = f"{OLDEST[0]}.{OLDEST[1]} .. {NEWEST[0]}.{NEWEST[1]}"
        warnings.warn(f"window_matmul.hf was tried with transformers {tried}, and {text} is installed", UserWarning, stacklevel=3)


check_version(transformers.__version__)
IS_4 = as_version(transformers.__version__)[0] == 4

from transformers import masking_utils  # noqa: E402
from transformers.cache_utils import DynamicLayer  # noqa: E402
from transformers.modeling_utils import AttentionInterface, PreTrainedModel  # noqa: E402


def register(attention: Any, mask: Any) -> None:
    """In both tables: a name that is only in the first gets no masks at all."""
    AttentionInterface.register(NAME, attention)
    masking_utils.AttentionMaskInterface.register(NAME, mask)
    _refuse_models_without_interface()


def has_mask_function(name: str | None) -> bool:
    return name in masking_utils.AttentionMaskInterface._global_mapping


# ---- masks -----------------------------------------------------------------------------------------------------------------------------
def queries(kv_length: int, kv_offset: int, aligned: bool, kwargs: dict[str, Any]) -> tuple[int, int | None, torch.device]:
    """How many queries there are, the position of the first (None: only the running program knows), and the device.

    4.x gives their positions as a tensor, 5.x two numbers, of which a static cache makes the second a tensor.
    `aligned`: the last query and the last key are at the same place, whatever the numbers say.
    """
    tracing = torch.compiler.is_compiling()
    if "cache_position" in kwargs:
        positions: Tensor = kwargs["cache_position"]
        length = positions.shape[0]
        if tracing:
            return length, kv_offset + kv_length - length if aligned else None, positions.device
        return length, int(positions[0]), positions.device
    first = kwargs.get("q_offset", 0)
    if isinstance(first, Tensor):
        first = None if tracing else int(first)
    return kwargs["q_length"], first, torch.device(kwargs.get("device") or "cpu")


def dense_mask(**arguments: Any) -> Tensor:
    """transformers' own (B, 1, Lq, Lk) bool."""
    mask: Tensor = masking_utils.sdpa_mask(**arguments | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    return mask


def takes_bool_masks(config: Any) -> bool:
    """Whether the models of a configuration have been made for the masks of SDPA, or for those of eager attention alone."""
    kind: Any = type(config)
    return _have_sdpa(kind)


takes_bool_masks._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in compat/__init__.py


@functools.cache
def _have_sdpa(config: Any) -> bool:
    try:
        source = importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))
    except ImportError:
        return True
    classes: list[Any] = [x for x in vars(source).values() if isinstance(x, type) and issubclass(x, PreTrainedModel)]
    models = [x for x in classes if x.config_class is config]
    return not models or any(model._supports_sdpa for model in models)


# ---- caches ----------------------------------------------------------------------------------------------------------------------------
def num_queries(query_length: Any) -> int:
    """What `get_mask_sizes` of a layer is given: 5.x a number, 4.x positions."""
    return query_length.shape[0] if isinstance(query_length, Tensor) else query_length


def num_removed(argument: int, length: int) -> int:
    """What `crop(argument)` takes away: both versions take -n for n tokens, 4.x also the length that is to stay."""
    if argument < 0:
        return -argument
    if IS_4:
        return max(length - argument, 0)
    if argument > 0:
        raise ValueError(f"crop is asked to leave {argument} tokens; it needs to be -n, for n tokens to be removed")
    return 0


def forget(layers: list[Any]) -> None:
    """4.x sets full-attention layers to zero, at the length they have; 5.x drops what they hold."""
    for layer in layers:
        if type(layer) is DynamicLayer:
            layer.keys, layer.values, layer.is_initialized = None, None, False


# ---- models that do not ask the tables -------------------------------------------------------------------------------------------------
def _refuse_models_without_interface() -> None:
    """Some models compute attention by themselves (ModernBERT of 4.x; Longformer) and would ignore the name: they raise."""
    for method in ("get_correct_attn_implementation", "set_attn_implementation"):
        stock = getattr(PreTrainedModel, method)
        if not hasattr(stock, "_window_matmul"):
            setattr(PreTrainedModel, method, _checked(stock))


def _checked(stock: Any) -> Any:
    @functools.wraps(stock)
    def checked(self: Any, implementation: Any, *args: Any, **kwargs: Any) -> Any:
        if implementation == NAME and not self._can_set_attn_implementation():
            raise ValueError(
                f"{type(self).__name__} of transformers {transformers.__version__} computes attention by itself and would ignore "
                f'attn_implementation="{NAME}"; it needs to be "eager" or "sdpa", or another version of transformers'
            )
        return stock(self, implementation, *args, **kwargs)

    checked._window_matmul = True  # type: ignore[attr-defined]
    return checked

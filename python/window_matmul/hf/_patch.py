# python/window_matmul/hf/_patch.py: layers of a model exchanged in place, by their class, and back.
"""A patched layer is the same object with the same parameters, of a subclass of its class: hooks, devices, names in the state_dict and
isinstance stay what they were, and copies and pickles of a patched model are patched."""

from collections.abc import Iterable
from typing import Any, TypeVar

from torch.nn import Module

Model = TypeVar("Model", bound=Module)


class Patched:
    """Mixed into the subclass of a stock layer, which is its other base."""


def _stock(layer: type[Any]) -> type[Any]:
    stock: type[Any] = layer.__bases__[-1]
    return stock


def _modules(model: object) -> list[Module]:
    if not isinstance(model, Module):
        raise TypeError(f"model is {type(model).__name__}; it needs to be a torch.nn.Module")
    return list(model.modules())


def patch(model: Model, layers: Iterable[type[Any]], around: Iterable[type[Any]] = ()) -> Model:
    """Makes every layer of a stock class one of `layers`. Refused, and nothing changed, where there is none or a layer is a user's own.

    What stands around the layers is exchanged where it is of a stock class itself.
    """
    exchange = {_stock(layer): layer for layer in layers}
    modules = _modules(model)
    found = [module for module in modules if isinstance(module, tuple(exchange))]
    if not found:
        names = " or ".join(stock.__name__ for stock in exchange)
        raise ValueError(f"model is a {type(model).__name__} without a layer to patch; it needs to have {names}")
    for module in found:
        if type(module) not in exchange and not isinstance(module, Patched):
            raise ValueError(f"model has a layer of {type(module)}, a subclass of what can be patched; its own forward would be lost")
    exchange |= {_stock(module): module for module in around}
    for module in modules:
        module.__class__ = exchange.get(type(module), type(module))
    return model


def unpatch(model: Model) -> Model:
    """Gives the patched layers of a model their stock classes back, in place.

    Args:
        model: a module that `patch_longformer` or `patch_bigbird` has patched; others are left as they are.

    Returns:
        The model.

    Raises:
        TypeError: model is no torch.nn.Module.
    """
    for module in _modules(model):
        if isinstance(module, Patched):
            module.__class__ = _stock(type(module))
    return model

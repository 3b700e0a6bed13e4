# python/window_matmul/_registration.py: the operators are torch's as soon as torch is in the process, whoever imports it.
"""`import window_matmul` does not import torch, which takes a second, and which those who come through compat.numpy may not have. But a
program that has imported both finds the operators registered, in whatever order: torch.export archives need them, and name no module.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def register() -> None:
    """Imports the layers below the public modules: one of these may be what imports torch just now."""
    from . import _load as _load
    from ._attention import autograd as _autograd  # noqa: F401, of _band too


class _Watch:
    """A finder: finds torch as others do, and registers the operators behind its import."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                self._register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

    def _register(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        try:
            register()
        except Exception as error:  # who imports torch may not want the operators; whoever does gets the error itself
            warnings.warn(f"the operators of window_matmul are not registered: {error}", RuntimeWarning, stacklevel=2)


_watch = _Watch()


def watch() -> None:
    if _watch not in sys.meta_path:
        sys.meta_path.insert(0, _watch)

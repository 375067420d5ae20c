"""Import spandrel without torchvision, which takes about two seconds of processor time to import.

spandrel imports all architectures at once. Two of them (LaMa, RestoreFormer) take functions from torchvision, which
imports PyTorch's compiler. No network of these two is ever run here, because one fills holes and the other restores
faces. So while spandrel is imported, a stand-in takes the place of torchvision. What spandrel takes from the stand-in
imports torchvision when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_FUNCTIONAL = "torchvision.transforms.functional"
"""The one module of torchvision that spandrel 0.4 takes functions from."""
_STAND_INS = ("torchvision", "torchvision.transforms", _FUNCTIONAL)


class _Later:
    """A function or class of `_FUNCTIONAL` that is imported when it is first called or read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _real(self) -> Any:
        return getattr(importlib.import_module(_FUNCTIONAL), self._name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._real()(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)


class _Functional(ModuleType):
    """Has every public name, each for later."""

    def __getattr__(self, name: str) -> _Later:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Later(name)


def _import_spandrel() -> ModuleType:
    """Return the package spandrel.

    Another version may need more of torchvision than the stand-in has. Then spandrel is imported in the ordinary way.
    """
    if "spandrel" in sys.modules or "torchvision" in sys.modules:
        return importlib.import_module("spandrel")
    for name in _STAND_INS:
        module = (_Functional if name == _FUNCTIONAL else ModuleType)(name)
        module.__path__ = []
        sys.modules[name] = module
    try:
        return importlib.import_module("spandrel")
    except Exception:
        for name in [name for name in sys.modules if name.partition(".")[0] == "spandrel"]:
            del sys.modules[name]
    finally:
        for name in _STAND_INS:
            del sys.modules[name]
    return importlib.import_module("spandrel")


spandrel: Any = _import_spandrel()
"""The package: its registry of architectures, and its types."""

# After the line above, because each of these lines imports the whole package.
from spandrel.architectures.Compact import Compact  # type: ignore[import-untyped]  # noqa: E402
from spandrel.architectures.ESRGAN import ESRGAN  # type: ignore[import-untyped]  # noqa: E402

__all__ = ["ESRGAN", "Compact", "spandrel"]

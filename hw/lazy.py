"""numpy, imported when something of it is first used: ``from hw.lazy import np``.

A specification and its timing need none, and its import takes longer than mapping a model.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["np"]


class _LazyModule(ModuleType):
    """Stands for a module; takes its place attribute by attribute."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import numpy as np
else:
    np = _LazyModule("numpy")

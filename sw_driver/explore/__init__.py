"""Exploration of spaces of cores and mappings.

::

    from sw_driver.explore import explore, load_space

    report = explore(load_space("sw_driver/spaces/decode_w4.yaml"), Path("build/decode_w4"))
    print(report)

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "explore": "sw_driver.explore.exploration",
    "load_space": "sw_driver.explore.space",
    "read_space": "sw_driver.explore.space",
    "Space": "sw_driver.explore.space",
    "ExploreReport": "sw_driver.explore.results",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

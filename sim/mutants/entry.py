"""The form of a mutant in the lists."""

from __future__ import annotations

from collections.abc import Mapping

SHELL, PASSES, COLUMN = "hw.lib.gemm_shell", "hw.lib.passes", "hw.lib.column"
ACCUMULATOR, HEAP = "hw.lib.accumulator", "hw.lib.heap"
CUTS, BOOTH = "hw.lib.cuts", "hw.lib.booth"

Entry = tuple[str, str, Mapping[str, str], str, str, str]
"""Name, module, specification by core, what is wrong, text before and after."""

Specs = dict[str, dict[str, object]]
"""Specifications (without block and name) by name."""


def shape(m: int, n: int, k: int) -> dict[str, int]:
    """A tile."""
    return {"m": m, "n": n, "k": k}


def gated(statement: str, condition: str) -> str:
    """``x.eq(y)`` as ``x.eq((y) & condition)``."""
    target, value = statement.split(".eq(", 1)
    return f"{target}.eq(({value} & {condition})"

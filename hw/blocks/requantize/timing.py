"""Cycles of requantization."""

from __future__ import annotations

from collections.abc import Sequence

from hw.blocks.requantize.golden import RequantizeWork
from hw.blocks.requantize.spec import RequantizeSpec

FORMULA = "cycles = latency + beats"


def constants(spec: RequantizeSpec) -> dict[str, int]:
    """Values of the names in :data:`FORMULA` that do not depend on the work."""
    return {"latency": latency(spec)}


def latency(spec: RequantizeSpec) -> int:
    """Registers: port, product and shift as far as there are such, rounded."""
    return 2 + spec.multiplies + (spec.integer or spec.normalises)


def cycles(spec: RequantizeSpec, works: Sequence[RequantizeWork]) -> int:
    """One beat a cycle, jobs back to back."""
    return latency(spec) + sum(len(work.x) for work in works)

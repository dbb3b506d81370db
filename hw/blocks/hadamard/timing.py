"""Cycles of the Hadamard rotation."""

from __future__ import annotations

from collections.abc import Sequence

from hw.blocks.hadamard.golden import HadamardWork
from hw.blocks.hadamard.spec import HadamardSpec

FORMULA = "cycles = latency + beats"


def latency(spec: HadamardSpec) -> int:
    """Registers at the ports and between butterflies."""
    return 2 + spec.registers


def constants(spec: HadamardSpec) -> dict[str, int]:
    """Values of the names in :data:`FORMULA` that do not depend on the work."""
    return {"latency": latency(spec)}


def cycles(spec: HadamardSpec, works: Sequence[HadamardWork]) -> int:
    """One beat a cycle; a job travels beside the last beat of the one before."""
    return latency(spec) + sum(len(work.x) for work in works)

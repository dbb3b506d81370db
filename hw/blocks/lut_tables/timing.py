"""Cycles of the table generator."""

from __future__ import annotations

from collections.abc import Sequence

from hw.blocks.lut_tables.golden import TableWork
from hw.blocks.lut_tables.spec import LutTablesSpec

LATENCY = 2
FORMULA = "cycles = latency + beats"


def constants(spec: LutTablesSpec) -> dict[str, int]:
    """Values of the names in :data:`FORMULA` that do not depend on the work."""
    return {"latency": LATENCY}


def cycles(spec: LutTablesSpec, works: Sequence[TableWork]) -> int:
    """One beat a cycle, and a register before and behind the additions."""
    return LATENCY + sum(len(work.a) for work in works)

"""Cycles of the fused table generator."""

from __future__ import annotations

from collections.abc import Sequence

from hw.blocks.fused_tables.golden import FusedWork
from hw.blocks.fused_tables.spec import FusedTablesSpec

LATENCY = 5
"""Ports, gains, multipliers, codes, tables: a register behind each."""
FORMULA = "cycles = latency + beats"


def constants(spec: FusedTablesSpec) -> dict[str, int]:
    """Values of the names in :data:`FORMULA` that do not depend on the work."""
    return {"latency": LATENCY}


def cycles(spec: FusedTablesSpec, works: Sequence[FusedWork]) -> int:
    """One beat a cycle; a job travels beside the last beat of the one before."""
    return LATENCY + sum(len(work.x) for work in works)

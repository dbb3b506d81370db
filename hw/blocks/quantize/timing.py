"""Cycles of the quantizer.

A group's scale is known only when all of it is in, so its first beat leaves ``overhead`` cycles
after its last one came; meanwhile the next groups come in. What is behind the longest group cannot
overtake it, and no other cycle is lost: with ``n_g`` beats a group the last result leaves in cycle

    overhead + max_g (Σ_{j ≤ g} n_j + Σ_{j ≥ g} n_j) = overhead + Σ n_j + max n_j.
"""

from __future__ import annotations

from collections.abc import Sequence

from hw.blocks.quantize.golden import QuantizeWork
from hw.blocks.quantize.spec import QuantizeSpec

FORMULA = "cycles = overhead + beats + beats of the longest group"

SCALE_DIGITS = 7
"""Digits of the quotient that becomes an NV scale: two of them above the point."""


def _digit_stages(spec: QuantizeSpec, digits: int) -> int:
    return -(-digits // spec.pipeline.digits)


def scale_stages(spec: QuantizeSpec) -> int:
    """Registers from a group's largest magnitude to its scale, the first holds the magnitude."""
    if spec.kind == "int":
        return 4
    return 2 if spec.kind == "power" else 6 + _digit_stages(spec, SCALE_DIGITS)


def lane_stages(spec: QuantizeSpec) -> int:
    """Registers from the buffer to a code, the last is the port's."""
    if spec.kind == "int":
        return 2 + _digit_stages(spec, spec.integers.bits)
    return 3 if spec.kind == "power" else 1


def overhead(spec: QuantizeSpec) -> int:
    """The port's register, that of a beat's largest magnitude less the first beat itself, the queue
    of magnitudes, the scale, the lanes."""
    return 1 + (spec.length == "job") + scale_stages(spec) + lane_stages(spec)


def constants(spec: QuantizeSpec) -> dict[str, int]:
    """``latency``: from the first beat to the first result, both counted, of the shortest group."""
    shortest = 1 if spec.length == "job" else spec.beats
    return {"overhead": overhead(spec), "latency": overhead(spec) + shortest + 1}


def cycles(spec: QuantizeSpec, works: Sequence[QuantizeWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling."""
    lengths = [work.x.shape[1] // spec.lanes for work in works]
    beats = sum(len(work.x) * n for work, n in zip(works, lengths, strict=True))
    return overhead(spec) + beats + max(lengths)

"""Cycles of the vector unit.

An operation takes a round of ``SLOTS`` cycles, one for each beat of a chunk; rounds follow one
another without a gap, through all rows and jobs. Of the last chunk only the beats that are there
give results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hw.blocks.vector_unit.coefficients import exp_degree, tail_degree
from hw.blocks.vector_unit.golden import VectorWork
from hw.blocks.vector_unit.spec import SLOTS, Function, VectorUnitSpec

FORMULA = (
    "cycles = overhead + Σ jobs 4·(job + rows·(row + chunk·⌈length / (4·lanes)⌉)) + beats of the "
    "last row's last chunk"
)

OVERHEAD = 2
"""The port's register before the first round; behind the last one three of the arithmetic, two of
the output, less the round's own four; the cycle of the first transfer itself."""

RECIPROCAL = 5
"""A seed and two steps of two operations."""

ROOT = 8
"""Half of the argument, a seed and two steps of three operations."""


@dataclass(frozen=True)
class Rounds:
    """Operations of a function: once a job, once a row, once a chunk."""

    job: int = 0
    row: int = 0
    chunk: int = 0


def rounds(spec: VectorUnitSpec, function: Function) -> Rounds:
    """Operations of a function."""
    slots, lanes = spec.folds
    # A step over slots waits for what all of them have.
    fold = 2 * slots + lanes
    # Integer, its difference, remainder; the polynomial; the power of two.
    exponential = 4 + exp_degree(spec.number)
    found: dict[Function, Rounds] = {
        # Maximum; difference, limit, exponential, sum; product.
        "softmax": Rounds(0, 2 * fold + RECIPROCAL, 4 + exponential + 1),
        # 1/length. Mean, epsilon. Sum; difference, square; twice a product.
        "layer_norm": Rounds(1 + RECIPROCAL, 2 * fold + 2 + ROOT, 5),
        "rms_norm": Rounds(1 + RECIPROCAL, fold + 1 + ROOT, 4),
        "gelu": Rounds(0, 0, 3 + RECIPROCAL + tail_degree(spec.number) + 3 + exponential + 3),
        "gelu_tanh": Rounds(0, 0, 5 + exponential + 1 + RECIPROCAL + 3),
        "silu": Rounds(0, 0, 2 + exponential + 1 + RECIPROCAL + 3),
        "rotary": Rounds(0, 0, 3),
        "add": Rounds(0, 0, 1),
        "reduce": Rounds(0, 0, 1),
    }
    return found[function]


def job_cycles(spec: VectorUnitSpec, function: Function, rows: int, length: int) -> int:
    """Cycles that a job adds to those before it."""
    cost = rounds(spec, function)
    return SLOTS * (cost.job + rows * (cost.row + cost.chunk * spec.chunks(length)))


def constants(spec: VectorUnitSpec) -> dict[str, int]:
    """``latency``: of one row of one element, the first function's; operations by function."""
    found = {
        "latency": OVERHEAD + job_cycles(spec, spec.functions[0], 1, 1) + 1,
        "overhead": OVERHEAD,
    }
    for name in spec.functions:
        cost = rounds(spec, name)
        found |= {f"{name}.{what}": value for what, value in vars(cost).items()}
    return found


def cycles(spec: VectorUnitSpec, works: Sequence[VectorWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling."""
    total = sum(job_cycles(spec, work.function, len(work.x), work.x.shape[1]) for work in works)
    beats = -(-works[-1].x.shape[1] // spec.lanes)
    return OVERHEAD + total + 1 + (beats - 1) % SLOTS

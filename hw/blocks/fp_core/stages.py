"""Where the registers of the columns go: which part of a step is computed in which stage.

Between the port registers and the accumulator a step has five parts, each of which may end in a
register, and bits that cross there for each product (of 16 in FP16):

=========== ============================================================ =====================
part        what it does                                                 bits at its end
=========== ============================================================ =====================
weights     integers to FP16                                             20 a weight
exponents   exponents added, the largest found, distances from it        6, and 12 a weight
products    significands multiplied                                      29
rows        products aligned, and their heap down to two rows            4
sums        the addition of the two rows                                 2
=========== ============================================================ =====================
"""

from __future__ import annotations

from dataclasses import dataclass

from hw.blocks.fp_core.spec import FpCoreSpec


@dataclass(frozen=True)
class Stages:
    """Stages by part: registers that were passed before it.

    Attributes:
        last: stage of the finished sum, as many as there are registers.
    """

    exponents: int
    products: int
    rows: int
    sums: int
    last: int


def stages(spec: FpCoreSpec) -> Stages:
    """The stages of a specification."""
    chosen = preferred(spec)[: spec.pipeline.heap]
    return Stages(*(sum(cut < part for cut in chosen) for part in range(1, 6)))


def preferred(spec: FpCoreSpec) -> tuple[int, ...]:
    """The parts that may end in a register, those that do with few registers first."""
    # Exponents are searched with a window alone, which takes most of a stage.
    middle = (ROWS, SUMS, EXPONENTS) if spec.window == "exact" else (ROWS, EXPONENTS, SUMS)
    return (*((WEIGHTS,) if spec.dequantizes else ()), *middle, PRODUCTS)


WEIGHTS, EXPONENTS, PRODUCTS, ROWS, SUMS = range(5)

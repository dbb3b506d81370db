"""Specification of the Hadamard rotation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.spec import BlockSpec

JOB_BEATS_BITS = 16
"""Width of a job's number of beats less one."""


class HadamardSpec(BlockSpec):
    """Rotation of ``size`` integers a beat by the Hadamard matrix of Sylvester's order."""

    block: Literal["hadamard"] = "hadamard"
    size: Literal[2, 4, 8, 16, 32, 64, 128] = Field(
        16, description="elements that are rotated together: all lanes of a beat"
    )
    bits: int = Field(8, ge=2, le=24, description="width of an element, two's complement")
    signs: Literal["none", "job"] = Field(
        "none", description="elements as they are, or times the signs of their job"
    )
    shift: int = Field(
        0, ge=0, le=24, description="results are divided by 2^shift and rounded, ties to even"
    )
    registers: int = Field(
        1, ge=0, le=6, description="registers between butterflies, besides those at the ports"
    )

    @property
    def stages(self) -> int:
        """Stages of butterflies."""
        return self.size.bit_length() - 1

    @property
    def exact_range(self) -> tuple[int, int]:
        """Least and largest sum.

        The first row of the matrix is all ones; any other has as many −1, and with signs each can
        be any row: a negated lowest element is one more than the highest.
        """
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        if self.signs == "job":
            return self.size * low, -self.size * low
        return self.size * low, self.size // 2 * (high - low)

    @property
    def exact_bits(self) -> int:
        """Width of a sum: ``bits + log2(size)``, one more with signs."""
        return _width(*self.exact_range)

    @property
    def result_bits(self) -> int:
        """Width of a result: as many bits as the rounded ends of the range need."""
        return _width(*(_rounded(end, self.shift) for end in self.exact_range))

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if self.registers >= max(2, self.stages):
            rule = (
                f"must be less than {max(2, self.stages)} for {self.stages} stages of butterflies"
            )
            yield Problem(("registers",), rule, self.registers)
        if self.shift >= self.exact_bits:
            rule = f"must be less than the {self.exact_bits} bits of a sum"
            yield Problem(("shift",), rule, self.shift)


def _rounded(value: int, shift: int) -> int:
    """``value / 2^shift`` to nearest, ties to even."""
    if not shift:
        return value
    odd = value >> shift & 1
    return (value + (1 << (shift - 1)) - 1 + odd) >> shift


def _width(low: int, high: int) -> int:
    """Bits of a two's complement number."""
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length()) + 1

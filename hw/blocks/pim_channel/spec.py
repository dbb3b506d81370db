"""Specification of a PIM channel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pydantic import Field

from hw.blocks.pim_bank.spec import PimBankSpec
from hw.blocks.pim_bank.unit import PimUnit
from hw.dram import DramGeometry, DramTiming
from hw.errors import Problem
from hw.formats import FLOAT_FORMATS, FloatFormat
from hw.spec import BlockSpec, Part


class Elementwise(Part):
    """The unit that multiplies and adds words of the buffer and columns, element by element."""

    format: Literal["none", "int8", "int16", "fp16", "bf16"] = Field(
        "bf16", description="number format of the elements, or none for no unit"
    )
    shift: int = Field(
        0, ge=0, le=15, description="integers: a product is divided by 2 to this power, downwards"
    )

    @property
    def form(self) -> FloatFormat | None:
        """The floating format, None for integers."""
        return FLOAT_FORMATS.get(self.format)

    @property
    def bits(self) -> int:
        """Width of an element."""
        return 8 if self.format == "int8" else 16

    @property
    def latency(self) -> int:
        """Cycles from a column to the result in the buffer."""
        return 2 if self.form is None else 4


class PimChannelSpec(BlockSpec):
    """A DRAM channel with a MAC unit beside every bank: decoder, sequencer, buffer, units."""

    block: Literal["pim_channel"] = "pim_channel"
    clock_mhz: float = Field(
        2000.0, gt=0, le=10_000, description="the DRAM's command clock, 1000 / timing.tck_ns MHz"
    )
    timing: DramTiming = Field(default_factory=DramTiming, description="of the DRAM")
    geometry: DramGeometry = Field(default_factory=DramGeometry, description="of the DRAM")
    unit: PimUnit = Field(default_factory=PimUnit, description="the MAC unit of every bank")
    buffer_words: int = Field(
        64, ge=1, le=65536, description="words of the global buffer, a column's width each"
    )
    elementwise: Elementwise = Field(
        default_factory=Elementwise, description="element by element, buffer and columns"
    )
    refresh_postpone: int = Field(
        1, ge=0, le=8, description="refreshes that a running order may put off"
    )
    read_depth: int = Field(
        8, ge=1, le=256, description="columns that can be under way to o_data, or wait there"
    )
    process_factor: float = Field(
        1.0, gt=0, le=100, description="area in the bank's DRAM process over that of synthesis"
    )

    @cached_property
    def bank(self) -> PimBankSpec:
        """The unit of a bank as a specification of its own."""
        return PimBankSpec(
            name=f"{self.name}_bank",
            clock_mhz=self.clock_mhz,
            unit=self.unit,
            column_bits=self.geometry.column_bits,
            timing=self.timing,
            process_factor=self.process_factor,
        )

    @property
    def arrival(self) -> int:
        """Cycles from a read's step to its column: two registers, and nCL."""
        return self.timing.nCL + 2

    @property
    def lane_bits(self) -> int:
        """Bits of an accumulator as it is read: 32, or 64 where it is wider."""
        return 32 if self.unit.accumulator_bits <= 32 else 64

    @property
    def give_beats(self) -> int:
        """Beats of an accumulator of every bank."""
        return -(-self.geometry.total_banks * self.lane_bits // self.geometry.column_bits)

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        broken = [*self.timing.rules(("timing",)), *self.geometry.rules(("geometry",))]
        yield from broken
        if abs(1000 / self.timing.tck_ns - self.clock_mhz) > 1e-6 * self.clock_mhz:
            rule = (
                f"must be {1000 / self.timing.tck_ns:g}, the DRAM's command clock of "
                f"timing.tck_ns = {self.timing.tck_ns:g} ns"
            )
            yield Problem(("clock_mhz",), rule, self.clock_mhz)
        geometry = self.geometry
        if geometry.columns & (geometry.columns - 1):
            yield Problem(("geometry", "columns"), "must be a power of two", geometry.columns)
        if geometry.total_banks * 16 > geometry.column_bits:
            rule = (
                f"must be at most {geometry.column_bits // 16} with groups = {geometry.groups}: a "
                f"bias of 16 bits for each comes in one column of {geometry.column_bits} bits"
            )
            yield Problem(("geometry", "banks"), rule, geometry.total_banks)
        if broken:
            return
        problems = list(
            self.unit.problems(
                ("unit",),
                name=f"{self.name}_bank",
                clock_mhz=self.clock_mhz,
                column_bits=geometry.column_bits,
            )
        )
        yield from problems
        if problems:
            return
        pieces = self.bank.operand_words
        if pieces & (pieces - 1) or self.buffer_words % pieces:
            rule = (
                f"must be a multiple of the {pieces} words of a step's activations, "
                "which must be a power of two"
            )
            yield Problem(("buffer_words",), rule, self.buffer_words)
        if self.bank.passes and len(self.bank.passes) > 64:
            rule = "must make at most 64 passes over its operands"
            yield Problem(("unit", "arithmetic"), rule, len(self.bank.passes))

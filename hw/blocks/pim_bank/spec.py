"""Specification of a bank's MAC unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

from pydantic import Field

from hw.block import block
from hw.blocks.pim_bank.unit import ENTRY_BITS, PimUnit, is_fp32, passes
from hw.dram import DramTiming
from hw.errors import Problem
from hw.gemm import GemmSpec
from hw.spec import BlockSpec
from hw.streams import Stream


class PimBankSpec(BlockSpec):
    """The MAC unit beside a DRAM bank: a core of this project fed by columns and a broadcast."""

    block: Literal["pim_bank"] = "pim_bank"
    clock_mhz: float = Field(
        1000.0, gt=0, le=10_000, description="clock of the unit, MHz: a column each nCCDS · tck_ns"
    )
    unit: PimUnit = Field(default_factory=PimUnit, description="arithmetic and accumulators")
    column_bits: int = Field(256, description="bits of a column: 64, 128, 256 or 512")
    timing: DramTiming = Field(
        default_factory=DramTiming, description="of the bank; the unit takes a column each nCCDS"
    )
    process_factor: float = Field(
        1.0, gt=0, le=100, description="area in the bank's DRAM process over that of synthesis"
    )

    @cached_property
    def core(self) -> GemmSpec:
        """The core inside."""
        return self.unit.core(self.name, self.clock_mhz, self.column_bits)

    @cached_property
    def fp32(self) -> bool:
        """Whether accumulators are FP32 codes."""
        return is_fp32(self.core)

    @cached_property
    def passes(self) -> tuple[tuple[int, int], ...]:
        """Blocks of A and W that a job's passes take, see ``unit.passes``."""
        return passes(self.core)

    @cached_property
    def core_streams(self) -> Mapping[str, Stream]:
        """Ports of the core by name."""
        return {item.name: item for item in block(self.core.block).golden.streams(self.core)}

    @property
    def operand_bits(self) -> int:
        """Bits of a step's activations."""
        return self.core_streams["i_a"].width

    @cached_property
    def operand_words(self) -> int:
        """Words of a column's width that hold a step's activations."""
        return -(-self.operand_bits // self.column_bits)

    @property
    def entries(self) -> int:
        """Entries of an activation function's table in a column."""
        return self.column_bits // ENTRY_BITS

    @property
    def table_columns(self) -> int:
        """Columns of an activation function's table."""
        return self.unit.activation.segments // self.entries

    @property
    def accumulator_index_bits(self) -> int:
        return max(1, (self.unit.accumulators - 1).bit_length())

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if self.column_bits not in (64, 128, 256, 512):
            yield Problem(("column_bits",), "must be 64, 128, 256 or 512", self.column_bits)
            return
        yield from self.timing.rules(("timing",))
        interval = self.timing.nCCDS * self.timing.tck_ns
        if 1000 / self.clock_mhz > interval * (1 + 1e-9):
            rule = (
                f"must be at least {1000 / interval:g}: a column comes each nCCDS · tck_ns = "
                f"{self.timing.nCCDS} · {self.timing.tck_ns:g} ns, and takes a cycle"
            )
            yield Problem(("clock_mhz",), rule, self.clock_mhz)
        yield from self.unit.problems(
            ("unit",), name=self.name, clock_mhz=self.clock_mhz, column_bits=self.column_bits
        )

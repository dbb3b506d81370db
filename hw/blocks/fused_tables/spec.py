"""Specification of the fused table generator."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pydantic import Field

from hw.blocks.lut_core.spec import LutCoreSpec, Table
from hw.blocks.lut_tables.spec import LutTablesSpec, TableTile
from hw.errors import Problem, SpecError
from hw.formats import FLOAT_FORMATS, FloatFormat
from hw.integers import Activations, Encoding
from hw.spec import BlockSpec

JOB_BEATS_BITS = 16
"""Width of a job's number of beats less one."""


class FusedTablesSpec(BlockSpec):
    """Floating-point rows times a gain and a multiplier, quantized, to a ``lut_core``'s ``i_t``."""

    block: Literal["fused_tables"] = "fused_tables"
    input: Literal["fp32", "fp16", "bf16"] = Field("fp16", description="format of the elements")
    gain: bool = Field(True, description="an FP16 factor for every element of K, streamed along")
    multiplier: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="format of the factor of a row: 1 / rms over the scale of the codes"
    )
    tile: TableTile = Field(default_factory=TableTile, description="shape of one beat")
    activations: Activations = Field(
        default_factory=Activations, description="the codes that tables are made of; signed"
    )
    encoding: Encoding = Field("unsigned", description="encoding of the core's weights")
    table: Table = Field(default_factory=Table, description="the lookup tables")

    @property
    def source(self) -> FloatFormat:
        """Format of the elements."""
        return FLOAT_FORMATS[self.input]

    @property
    def factor(self) -> FloatFormat:
        """Format of the multipliers."""
        return FLOAT_FORMATS[self.multiplier]

    @cached_property
    def core(self) -> LutCoreSpec:
        """A core that takes these tables from its port."""
        return LutTablesSpec(
            name=self.name,
            tile=self.tile,
            activations=self.activations,
            encoding=self.encoding,
            table=self.table,
        ).core

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if not self.activations.signed:
            yield Problem(("activations", "signed"), "must be true: codes are symmetric", False)
        try:
            self.core  # noqa: B018 - the table generator's rules hold here
        except SpecError as error:
            yield from error.problems

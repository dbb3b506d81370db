"""Specification of the table generator."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pydantic import Field

from hw.blocks.lut_core.spec import LutActivations, LutCoreSpec, LutWeights, Table
from hw.errors import Problem, SpecError
from hw.gemm import Tile
from hw.integers import Activations, Encoding
from hw.spec import BlockSpec, Part


class TableTile(Part):
    """Activations that one beat covers."""

    m: int = Field(2, ge=1, le=64, description="rows of A")
    k: int = Field(16, ge=1, le=512, description="elements of K")


class LutTablesSpec(BlockSpec):
    """Table generator: what a ``lut_core`` with ``table.source: port`` takes on ``i_t``."""

    block: Literal["lut_tables"] = "lut_tables"
    tile: TableTile = Field(default_factory=TableTile, description="shape of one beat")
    activations: Activations = Field(default_factory=Activations, description="format of A")
    encoding: Encoding = Field("unsigned", description="encoding of the core's weights")
    table: Table = Field(default_factory=Table, description="the lookup tables")

    @cached_property
    def core(self) -> LutCoreSpec:
        """A core that takes these tables from its port."""
        return LutCoreSpec(
            name=self.name,
            tile=Tile(m=self.tile.m, n=1, k=self.tile.k),
            activations=LutActivations(**self.activations.model_dump()),
            weights=LutWeights(encoding=self.encoding, max_bits=1),
            table=self.table,
            max_k=self.tile.k,
        )

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if self.table.source != "internal":
            yield Problem(("table", "source"), "must be internal here", self.table.source)
        try:
            self.core  # noqa: B018 - the core's rules hold for its tables
        except SpecError as error:
            yield from error.problems

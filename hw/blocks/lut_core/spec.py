"""Specification of the LUT tensor core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.integers import Activations, Encoding, IntegerGemmSpec
from hw.spec import Part


class LutWeights(Part):
    """Weights whose width each job chooses, up to ``max_bits``."""

    encoding: Encoding = Field(
        "unsigned",
        description="unsigned (with a zero point per column), twos_complement, bipolar or ternary",
    )
    max_bits: int = Field(4, ge=1, le=8, description="widest weight; ignored for ternary")
    packing: Literal["planes", "base3"] = Field(
        "planes", description="ternary only: two bits a trit, or five trits a byte"
    )


class Table(Part):
    """The lookup tables."""

    group: int = Field(2, ge=1, le=6, description="activations that share a table")
    form: Literal["full", "symmetric"] = Field(
        "full", description="0/1 planes and all sums, or ±1 planes, half the sums and a sign"
    )
    entries: Literal["exact", "int8"] = Field(
        "exact", description="exact sums, or rounded to INT8 by the activations' entry_shift"
    )
    source: Literal["internal", "port"] = Field(
        "internal", description="a table generator inside, or tables arriving on i_t"
    )


class LutCoreSpec(IntegerGemmSpec):
    """LUT tensor core: sums of activations looked up by weight bits (arXiv 2408.06003)."""

    block: Literal["lut_core"] = "lut_core"
    activations: Activations = Field(default_factory=Activations, description="format of A")
    weights: LutWeights = Field(default_factory=LutWeights, description="format of W")
    table: Table = Field(default_factory=Table, description="the lookup tables")
    planes: Literal["serial", "parallel"] | int = Field(
        "serial", description="weight planes a cycle: one, all of max_bits, or a number"
    )

    @property
    def weight_encoding(self) -> Encoding:
        return self.weights.encoding

    @property
    def max_weight_bits(self) -> int:
        return 2 if self.ternary else self.weights.max_bits

    @property
    def ternary(self) -> bool:
        return self.weights.encoding == "ternary"

    @property
    def symmetric(self) -> bool:
        """Whether looked-up values come with a sign: always so for ternary."""
        return self.table.form == "symmetric" or self.ternary

    @property
    def needs_sum(self) -> bool:
        """Whether columns need the sum of a step's activations (see ``plan``)."""
        encoding = self.weights.encoding
        if self.symmetric:
            return encoding in ("unsigned", "twos_complement")
        return encoding == "bipolar"

    @property
    def planes_per_cycle(self) -> int:
        if self.ternary or self.planes == "parallel":
            return self.max_weight_bits
        return 1 if self.planes == "serial" else int(self.planes)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Lanes of K that share a table; the last group may be smaller."""
        lanes, size = range(self.tile.k), self.table.group
        return tuple(tuple(lanes[i : i + size]) for i in range(0, self.tile.k, size))

    @property
    def quantized(self) -> bool:
        return self.table.entries == "int8"

    @property
    def exact_entry_bits(self) -> int:
        """Width of an exact stored entry: ``group`` activations, all but the top of either sign."""
        low, high = self.activations.low, self.activations.high
        others = min(self.table.group, self.tile.k) - 1
        if self.symmetric:
            least, most = low + others * min(low, -high), high + others * max(high, -low)
        else:
            least, most = low * (others + 1), high * (others + 1)
        return max((-least - 1).bit_length() if least else 0, most.bit_length()) + 1

    @property
    def shift_bits(self) -> int:
        """Width of ``entry_shift``; shifts of 0 to ``exact_entry_bits − 1`` are of use."""
        return (self.exact_entry_bits - 1).bit_length()

    @property
    def step_magnitude(self) -> int:
        if not self.quantized:
            return super().step_magnitude
        if self.ternary:
            return 128 * len(self.groups)
        # A plane adds T[u] less its share of the all-ones entries: at most 2 · 128, and for the
        # doubled 0/1 planes of a bipolar code 3 · 128.
        most = 384 if self.weight_encoding == "bipolar" and not self.symmetric else 256
        return most * len(self.groups) * (2**self.max_weight_bits - 1)

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        group = self.table.group
        if group > self.tile.k:
            yield Problem(("table", "group"), f"must be at most tile.k = {self.tile.k}", group)
        if self.ternary and group > 4:
            yield Problem(
                ("table", "group"), "must be at most 4 for ternary weights (40 entries)", group
            )
        if self.addend and self.weights.encoding == "bipolar" and not self.symmetric:
            yield Problem(
                ("addend",), "bipolar weights with an addend need table.form symmetric", self.addend
            )
        if self.weights.packing == "base3" and not self.ternary:
            yield Problem(
                ("weights", "packing"), "base3 needs the ternary encoding", self.weights.packing
            )
        if isinstance(self.planes, int) and not 1 <= self.planes <= self.max_weight_bits:
            yield Problem(
                ("planes",),
                f"must be serial, parallel or 1 to {self.max_weight_bits}",
                self.planes,
            )

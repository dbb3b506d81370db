"""Specification of the core for block-scaled operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.formats import BLOCK_FORMATS, BlockFormat, FloatFormat, IntegerFormat, bfp
from hw.formats.sums import Accumulator, Sums, Terms
from hw.gemm import Further, GemmSpec, Tile
from hw.spec import Part
from hw.streams import StreamField

FormatName = Literal[
    "mxint8",
    "mxint6",
    "mxint4",
    "mxfp8_e4m3",
    "mxfp8_e5m2",
    "mxfp6_e2m3",
    "mxfp6_e3m2",
    "mxfp4",
    "nvfp4",
    "nvint4",
    "bfp12",
    "bfp16",
    "bfp",
]


class Operand(Part):
    """A block-scaled format by its name, or block floating point of any size."""

    format: FormatName = Field("mxint8", description="one of `hw.formats`, or bfp with the below")
    block: int | None = Field(None, ge=8, le=128, description="of bfp: elements that share a scale")
    mantissa_bits: int | None = Field(
        None, ge=2, le=12, description="of bfp: bits of a mantissa, its sign included"
    )
    exponent_bits: int | None = Field(None, ge=5, le=8, description="of bfp: bits of the scale")

    @property
    def format_of(self) -> BlockFormat:
        """The format; of ``bfp`` with what is not given as in BFP16."""
        if self.format != "bfp":
            return BLOCK_FORMATS[self.format]
        return bfp(
            block=self.block or 32,
            mantissa_bits=self.mantissa_bits or 8,
            exponent_bits=self.exponent_bits or 8,
        )

    def rules(self, at: str) -> Iterator[Problem]:
        """Fields that are out of place."""
        if self.format == "bfp":
            return
        for name in ("block", "mantissa_bits", "exponent_bits"):
            value = getattr(self, name)
            if value is not None:
                yield Problem((at, name), f"is for bfp, {self.format} has its own", value)


@dataclass(frozen=True)
class Elements:
    """Element codes as integers: every value is one of them times ``2^unit``.

    Attributes:
        significand: bits of a float's significand, of an integer's magnitude.
        shift: largest power of two that a float's significand is moved up by; 0 for integers.
    """

    form: FloatFormat | IntegerFormat

    @property
    def integer(self) -> bool:
        return isinstance(self.form, IntegerFormat)

    @property
    def width(self) -> int:
        return self.form.width

    @property
    def unit(self) -> int:
        if isinstance(self.form, IntegerFormat):
            return -self.form.fraction_bits
        return self.form.min_exponent - self.form.mantissa_bits

    @property
    def significand(self) -> int:
        if isinstance(self.form, IntegerFormat):
            return self.form.bits
        return self.form.mantissa_bits + 1

    @property
    def shift(self) -> int:
        if isinstance(self.form, IntegerFormat):
            return 0
        # Infinity and NaN of IEEE formats count as 0; one NaN among numbers as if it were one.
        reserved = self.form.specials == "ieee"
        return (1 << self.form.exponent_bits) - 2 - reserved

    @property
    def least(self) -> int:
        """The smallest integer."""
        if isinstance(self.form, IntegerFormat):
            return -self.form.max_code - 1
        return -self.most

    @property
    def most(self) -> int:
        """The largest integer."""
        if isinstance(self.form, IntegerFormat):
            return self.form.max_code
        return ((1 << self.significand) - 1) << self.shift

    @property
    def nan(self) -> bool:
        return isinstance(self.form, FloatFormat) and self.form.nan_code is not None

    @property
    def inf(self) -> bool:
        return isinstance(self.form, FloatFormat) and self.form.inf_code is not None


class MxCoreSpec(GemmSpec):
    """Dot products of block-scaled operands: a block a step, exact; then floating accumulation."""

    block: Literal["mx_core"] = "mx_core"
    tile: Tile = Field(
        default_factory=lambda: Tile(m=2, n=16, k=32), description="shape of one step"
    )
    activations: Operand = Field(default_factory=Operand, description="format of A")
    weights: Operand = Field(default_factory=Operand, description="format of W")
    accumulator: Accumulator = Field(
        default_factory=Accumulator, description="what is kept between blocks"
    )

    @property
    def a_format(self) -> BlockFormat:
        return self.activations.format_of

    @property
    def w_format(self) -> BlockFormat:
        return self.weights.format_of

    @property
    def a_elements(self) -> Elements:
        return Elements(self.a_format.element)

    @property
    def w_elements(self) -> Elements:
        return Elements(self.w_format.element)

    @property
    def scale(self) -> FloatFormat:
        """The format of both operands' scales."""
        return self.a_format.scale

    @property
    def scale_significand(self) -> int:
        """Bits of a scale's significand: 1 for powers of two."""
        return self.scale.mantissa_bits + 1

    @property
    def sums(self) -> Sums:
        """The accumulator, and what steps add to it."""
        a, w, scale = self.a_elements, self.w_elements, self.scale
        ends = [x * y for x in (a.least, a.most) for y in (w.least, w.most)]
        factor = ((1 << self.scale_significand) - 1) ** 2 if scale.mantissa_bits else 1
        per_scale = (1 << scale.exponent_bits) - (1 if scale.subnormals else 0)
        unit = scale.min_exponent - scale.mantissa_bits
        terms = Terms(
            low=min(ends) * self.tile.k * factor,
            high=max(ends) * self.tile.k * factor,
            codes=2 * per_scale - 1,
            bias=a.unit + w.unit + 2 * unit,
            steps=self.max_k_steps,
            nan=True,
            inf=a.inf or w.inf,
        )
        return Sums(accumulator=self.accumulator, terms=terms)

    @property
    def operand_formats(self) -> tuple[BlockFormat, BlockFormat]:
        return self.a_format, self.w_format

    @property
    def weight_encoding(self) -> str:
        return self.w_format.name

    @property
    def max_weight_bits(self) -> int:
        return self.w_elements.width

    @property
    def activation_width(self) -> int:
        return self.a_elements.width

    @property
    def further(self) -> Mapping[str, Further]:
        return {
            "a_scale": Further(side="m", per=self.tile.k),
            "w_scale": Further(side="n", per=self.tile.k),
        }

    @property
    def result_bits(self) -> int:
        found = self.results[0]
        return found.bits // (self.tile.m * self.tile.n)

    @property
    def results(self) -> tuple[StreamField, ...]:
        return self.sums.results(self.tile.m, self.tile.n)

    @property
    def cuts(self) -> int:
        return self.pipeline.heap + self.sums.ahead

    @property
    def tail(self) -> int:
        return self.sums.tail

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        yield from self.activations.rules("activations")
        yield from self.weights.rules("weights")
        a, w = self.a_format, self.w_format
        if a.block != w.block:
            rule = f"has blocks of {w.block}, activations of {a.block}: they must agree"
            yield Problem(("weights", "format"), rule, w.name)
        if a.scale != w.scale:
            rule = f"has {w.scale.name} scales, activations {a.scale.name}: they must agree"
            yield Problem(("weights", "format"), rule, w.name)
        if self.tile.k != a.block:
            rule = f"must be {a.block}, the block of {a.name}: a step is one block"
            yield Problem(("tile", "k"), rule, self.tile.k)
        if self.addend:
            yield Problem(("addend",), "must be false: rounded sums have no addend", True)
        if a.scale == w.scale and self.max_k >= self.tile.k:
            yield from self.sums.rules(("accumulator",))

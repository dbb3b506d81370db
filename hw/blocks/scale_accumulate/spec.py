"""Specification of scale-and-accumulate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.exact import MOST_BITS
from hw.formats import FLOAT_FORMATS, FP32, FloatFormat
from hw.spec import BlockSpec, Part

ScaleFormat = Literal["fp16", "bf16", "fp32", "e8m0", "ue4m3"]


class ResultTile(Part):
    """Outputs that one beat of partial sums covers."""

    m: int = Field(2, ge=1, le=64, description="rows of A")
    n: int = Field(16, ge=1, le=512, description="columns: rows of W")


class ActivationScale(Part):
    """Scales of the activations, one a row."""

    format: Literal["none", "fp16", "bf16", "fp32", "e8m0", "ue4m3"] = Field(
        "fp32", description="number format, or none where activations have no scale"
    )
    per: Literal["job", "group"] = Field(
        "job", description="job: one a row, applied once at the end; group: one a row and group"
    )


class ScaleAccumulateSpec(BlockSpec):
    """Integer partial sums times their scales, accumulated in FP32 over the groups of a job."""

    block: Literal["scale_accumulate"] = "scale_accumulate"
    tile: ResultTile = Field(default_factory=ResultTile, description="shape of one beat")
    partial_bits: int = Field(
        24, ge=2, le=48, description="width of a partial sum, two's complement: a core's result"
    )
    partial_exponent_bits: int = Field(
        0,
        ge=0,
        le=12,
        description="width of a power of two, two's complement, that comes with every row of "
        "partial sums beside a mark of invalid rows, as of floating activations; 0: integers",
    )
    weight_scale: ScaleFormat = Field(
        "fp16", description="number format of the weights' scales, one a column and group"
    )
    activation_scale: ActivationScale = Field(
        default_factory=ActivationScale, description="scales of the activations"
    )
    tensor_scale: bool = Field(
        False, description="an FP32 factor in every job, for scales of few bits (NVFP4)"
    )
    zero_point_bits: int = Field(
        0, ge=0, le=8, description="unsigned zero points, one a column and group; 0: none"
    )
    row_sum_bits: int = Field(
        16, ge=2, le=32, description="width of a row's sum of activations; only with zero points"
    )
    bias: Literal["none", "fp16", "fp32"] = Field(
        "none", description="number format of a bias a column, added last; or none"
    )
    lanes: int = Field(4, ge=1, description="outputs worked on a cycle, a divisor of m * n")
    max_groups: int = Field(128, ge=1, le=65536, description="most groups of a job")

    @property
    def outputs(self) -> int:
        """Results of a job."""
        return self.tile.m * self.tile.n

    @property
    def turns(self) -> int:
        """Cycles in which every lane works on one output each until all had their turn."""
        return self.outputs // self.lanes

    @property
    def corrected_bits(self) -> int:
        """Width of a partial sum less its zero point's share, two's complement."""
        if not self.zero_point_bits:
            return self.partial_bits
        share = ((1 << self.zero_point_bits) - 1) << (self.row_sum_bits - 1)
        return ((1 << (self.partial_bits - 1)) + share).bit_length() + 1

    @property
    def weight_format(self) -> FloatFormat:
        return FLOAT_FORMATS[self.weight_scale]

    @property
    def activation_format(self) -> FloatFormat | None:
        return FLOAT_FORMATS.get(self.activation_scale.format)

    @property
    def bias_format(self) -> FloatFormat | None:
        return FLOAT_FORMATS.get(self.bias)

    @property
    def scales_groups(self) -> bool:
        """Whether activations have a scale for every group."""
        return self.activation_format is not None and self.activation_scale.per == "group"

    @property
    def scales_jobs(self) -> bool:
        """Whether activations have a scale for a whole job."""
        return self.activation_format is not None and self.activation_scale.per == "job"

    @property
    def prepares(self) -> bool:
        """Whether operands are worked on in a stage of their own before they are multiplied."""
        return bool(self.zero_point_bits) or self.scales_groups

    @property
    def closing(self) -> tuple[str, ...]:
        """What is done with the sum of all groups, one turn of all outputs each."""
        scales = []
        if self.scales_jobs:
            scales.append("activation")
        if self.tensor_scale:
            scales.append("tensor")
        # The bias is added in the turn of the last scale.
        return tuple(scales) if scales or self.bias == "none" else ("bias",)

    @property
    def product_bits(self) -> int:
        """Bits of the widest product that a lane makes."""
        left, right = self.corrected_bits, self.weight_format.mantissa_bits + 1
        if self.activation_format is not None and self.scales_groups:
            right += self.activation_format.mantissa_bits + 1
        if self.tensor_scale or self.scales_jobs:
            left = max(left, FP32.mantissa_bits + 1)
        if self.activation_format is not None and self.scales_jobs:
            right = max(right, self.activation_format.mantissa_bits + 1)
        if self.tensor_scale:
            right = max(right, FP32.mantissa_bits + 1)
        return left + right

    @property
    def wide(self) -> bool:
        """Whether the multiplier takes two stages to its product."""
        return self.product_bits > 50

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if self.outputs % self.lanes:
            rule = f"must divide tile.m * tile.n = {self.outputs}"
            yield Problem(("lanes",), rule, self.lanes)
        if self.partial_exponent_bits and self.zero_point_bits:
            rule = "must be 0 where partial sums have exponents: row sums have none"
            yield Problem(("zero_point_bits",), rule, self.zero_point_bits)
        bits = self.corrected_bits - 1 + self.weight_format.mantissa_bits + 1
        if self.activation_format is not None and self.scales_groups:
            bits += self.activation_format.mantissa_bits + 1
        if bits > MOST_BITS:
            yield Problem(
                ("partial_bits",),
                f"must let a product with its scales have at most {MOST_BITS} bits, which here are "
                f"{bits}",
                self.partial_bits,
            )

"""Specification of requantization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.formats import FLOAT_FORMATS, FloatFormat
from hw.spec import BlockSpec, Part

INTEGER_RANGES = {
    ("int8", "symmetric"): (-127, 127),
    ("int8", "full"): (-128, 127),
    ("uint8", "full"): (0, 255),
}
"""Smallest and largest code by target and clip."""


class RequantizeTile(Part):
    """Elements of one beat."""

    m: int = Field(1, ge=1, le=64, description="rows of one beat, each with its own scale")
    n: int = Field(16, ge=1, le=512, description="elements of a row in one beat")


class Scale(Part):
    """What elements are multiplied by, exactly, before the one rounding."""

    format: Literal["none", "fp32", "e8m0"] = Field(
        "fp32", description="a number, a power of two, or none where nothing is scaled"
    )
    per: Literal["row", "tensor"] = Field(
        "row", description="row: one a row of the beat; tensor: one for all"
    )


class RequantizeSpec(BlockSpec):
    """Results in, codes of the next operator's format out, one beat a cycle."""

    block: Literal["requantize"] = "requantize"
    tile: RequantizeTile = Field(default_factory=RequantizeTile, description="shape of one beat")
    input: Literal["fp32", "fp16", "bf16", "int32"] = Field(
        "fp32", description="format of what comes in"
    )
    target: Literal["int8", "uint8", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2"] = Field(
        "int8", description="format of what goes out"
    )
    scale: Scale = Field(default_factory=Scale, description="multiplier of every element")
    clip: Literal["symmetric", "full"] = Field(
        "symmetric",
        description="integers, after rounding: symmetric to ±127, or full: all of the width",
    )
    zero_point: bool = Field(
        False, description="integers: add a zero point of the target's width after rounding"
    )
    overflow: Literal["saturate", "nonsaturating"] = Field(
        "saturate",
        description="floats: what exceeds the largest number becomes that, or infinity (NaN where "
        "there is none)",
    )
    max_beats: int = Field(
        4096, ge=1, le=1 << 20, description="most beats of a job: those with the same scales"
    )

    @property
    def integer(self) -> bool:
        """Whether integers go out."""
        return self.target in ("int8", "uint8")

    @property
    def signed(self) -> bool:
        """Whether the integers that go out have a sign."""
        return self.target == "int8"

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest integer that goes out."""
        return INTEGER_RANGES[self.target, self.clip]

    @property
    def target_format(self) -> FloatFormat:
        """The float that goes out; KeyError if that is an integer."""
        return FLOAT_FORMATS[self.target]

    @property
    def target_bits(self) -> int:
        return 8 if self.integer else self.target_format.width

    @property
    def input_format(self) -> FloatFormat | None:
        """The float that comes in, None for integers."""
        return FLOAT_FORMATS.get(self.input)

    @property
    def input_bits(self) -> int:
        return 32 if self.input_format is None else self.input_format.width

    @property
    def scale_format(self) -> FloatFormat | None:
        return FLOAT_FORMATS.get(self.scale.format)

    @property
    def scales(self) -> int:
        """Scales and zero points of a job."""
        return self.tile.m if self.scale.per == "row" else 1

    @property
    def has_jobs(self) -> bool:
        """Whether there is something to say about a number of beats."""
        return self.scale_format is not None or self.zero_point

    @property
    def multiplies(self) -> bool:
        """Whether significands are multiplied."""
        return self.scale.format == "fp32"

    @property
    def normalises(self) -> bool:
        """Whether floats that go out need their leading one to be found first."""
        if self.integer:
            return False
        narrower = (
            self.input_format is not None
            and self.target_format.min_exponent >= self.input_format.min_exponent
        )
        return self.scale_format is not None or not narrower

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if self.target == "uint8" and self.clip != "full":
            yield Problem(("clip",), "must be full for uint8", self.clip)
        if self.zero_point and not self.integer:
            yield Problem(("zero_point",), "must be false unless integers go out", True)
        if self.zero_point and self.clip == "symmetric":
            yield Problem(("zero_point",), "must be false with a symmetric clip", True)
        if self.scale_format is None and self.input == self.target:
            rule = "must differ from input where nothing is scaled"
            yield Problem(("target",), rule, self.target)

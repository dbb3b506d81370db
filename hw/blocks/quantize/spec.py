"""Specification of the quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.formats import (
    BLOCK_FORMATS,
    FLOAT_FORMATS,
    BlockFormat,
    FloatFormat,
    IntegerFormat,
    bfp,
)
from hw.spec import BlockSpec, Part

Target = Literal[
    "int",
    "bfp",
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
]
JOB_GROUPS_BITS = 16
"""Width of a job's number of groups less one."""


class Integers(Part):
    """Codes of the targets ``int`` and ``bfp``."""

    bits: int = Field(
        8, ge=2, le=16, description="width with the sign: int 2 to 8 or 16, bfp 2 to 12"
    )
    scale: Literal["fp16", "fp32"] = Field("fp16", description="format of the scale of int")
    exponent_bits: int = Field(8, ge=5, le=8, description="width of the shared exponent of bfp")


class Pipeline(Part):
    """Registers through the arithmetic."""

    digits: int = Field(
        2, ge=1, le=32, description="digits of a quotient a cycle: int, and the scale of nv"
    )


class QuantizeSpec(BlockSpec):
    """Quantizer: rows of floating-point numbers to codes and one scale a group."""

    block: Literal["quantize"] = "quantize"
    input: Literal["fp32", "fp16", "bf16"] = Field("fp16", description="format of the elements")
    target: Target = Field(
        "int",
        description="int (scale absmax / largest code), bfp or mx (powers of two), nv (UE4M3 and"
        " the job's FP32 tensor scale)",
    )
    group: int = Field(
        32, ge=1, le=65_536, description="elements that share a scale; the most, with length job"
    )
    length: Literal["fixed", "job"] = Field(
        "fixed", description="int only: every group has group elements, or what its job says"
    )
    lanes: int = Field(16, ge=1, le=256, description="elements a beat")
    integers: Integers = Field(default_factory=Integers, description="codes of int and bfp")
    rule: Literal["floor", "ceil"] = Field(
        "floor", description="how a power of two is chosen: bfp and mx, see hw.formats"
    )
    pipeline: Pipeline = Field(default_factory=Pipeline, description="registers")

    @property
    def source(self) -> FloatFormat:
        """Format of the elements."""
        return FLOAT_FORMATS[self.input]

    @property
    def kind(self) -> Literal["int", "power", "nv"]:
        """How scales are chosen: by division, as powers of two, or for a tensor scale."""
        if self.target == "int":
            return "int"
        return "nv" if self.target.startswith("nv") else "power"

    @cached_property
    def format(self) -> BlockFormat:
        """What groups become; the scale of int has no sign bit."""
        integers = self.integers
        if self.target == "int":
            element = IntegerFormat(name=f"int{integers.bits}", bits=integers.bits, fraction_bits=0)
            scale = replace(FLOAT_FORMATS[integers.scale], name=f"u{integers.scale}", signed=False)
            return BlockFormat(
                name=f"int{integers.bits}_b{self.group}",
                element=element,
                block=self.group,
                scale=scale,
                rule="absmax",
            )
        if self.target == "bfp":
            return bfp(
                block=self.group,
                mantissa_bits=integers.bits,
                exponent_bits=integers.exponent_bits,
                rule=self.rule,
            )
        named = BLOCK_FORMATS[self.target]
        return named if self.kind == "nv" else replace(named, rule=self.rule)

    @property
    def beats(self) -> int:
        """Beats of a group, of the longest where the job says."""
        return self.group // self.lanes

    @property
    def has_job(self) -> bool:
        """Whether there is a stream of jobs."""
        return self.length == "job" or self.kind == "nv"

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        bits = self.integers.bits
        if self.target == "int" and 8 < bits < 16:
            yield Problem(("integers", "bits"), "must be 2 to 8, or 16, for int", bits)
        if self.target == "bfp":
            if bits > 12:
                yield Problem(("integers", "bits"), "must be at most 12 for bfp", bits)
            if not 8 <= self.group <= 128:
                yield Problem(("group",), "must be 8 to 128 for bfp", self.group)
        elif self.target != "int":
            block = BLOCK_FORMATS[self.target].block
            if self.group != block:
                yield Problem(("group",), f"must be {block} for {self.target}", self.group)
        if self.group % self.lanes:
            yield Problem(("lanes",), f"must divide group = {self.group}", self.lanes)
        elif self.beats > 4096:
            rule = f"must be at least group / 4096 = {-(-self.group // 4096)}"
            yield Problem(("lanes",), rule, self.lanes)
        if self.length == "job" and self.target != "int":
            yield Problem(("length",), f"must be fixed for {self.target}", self.length)

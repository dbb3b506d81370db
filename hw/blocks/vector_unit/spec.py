"""Specification of the vector unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hw.blocks.vector_unit.arithmetic import Internal
from hw.errors import Problem
from hw.formats import FLOAT_FORMATS, FloatFormat, IntegerFormat
from hw.spec import BlockSpec, Part

Function = Literal[
    "softmax",
    "layer_norm",
    "rms_norm",
    "gelu",
    "gelu_tanh",
    "silu",
    "rotary",
    "add",
    "reduce",
]
FUNCTIONS: tuple[Function, ...] = (
    "softmax",
    "layer_norm",
    "rms_norm",
    "gelu",
    "gelu_tanh",
    "silu",
    "rotary",
    "add",
    "reduce",
)
"""Every function; a job names one by its place here."""

SLOTS = 4
"""Beats that are worked on in turn, one for each stage of the arithmetic."""

FUNCTION_BITS = 4
JOB_ROWS_BITS = 16
"""Width of a job's number of rows less one."""

NORMS: tuple[Function, ...] = ("layer_norm", "rms_norm")
WITH_U: tuple[Function, ...] = ("layer_norm", "rms_norm", "rotary", "add")
"""Functions with a second operand."""
WITH_V: tuple[Function, ...] = ("layer_norm", "rotary")
"""Functions with a third operand."""
WITH_BUFFER: tuple[Function, ...] = ("softmax", "layer_norm", "rms_norm", "reduce")
"""Functions that keep a row."""
WITH_EXP: tuple[Function, ...] = ("softmax", "gelu", "gelu_tanh", "silu")


class Fixed(Part):
    """Two's complement numbers of the format ``fixed``."""

    bits: int = Field(16, ge=8, le=16, description="width of an element, fixed only")
    fraction: int = Field(8, ge=0, le=15, description="bits behind the point, fixed only")


class Precision(Part):
    """Numbers between the ports."""

    significand: int = Field(
        16, ge=12, le=24, description="bits of a significand, its leading one counted"
    )


class VectorUnitSpec(BlockSpec):
    """Vector unit: rows of elements in, rows of results out, ``lanes`` elements a beat."""

    block: Literal["vector_unit"] = "vector_unit"
    functions: tuple[Function, ...] = Field(
        FUNCTIONS,
        min_length=1,
        strict=False,
        description="what jobs may ask for; hardware is made for these alone",
    )
    lanes: int = Field(8, ge=1, le=64, description="elements a beat, a power of two")
    format: Literal["bf16", "fp16", "fixed"] = Field(
        "bf16", description="format of operands and results"
    )
    fixed: Fixed = Field(default_factory=Fixed, description="the format fixed")
    internal: Precision = Field(default_factory=Precision, description="numbers between the ports")
    max_length: int = Field(
        512, ge=1, le=65_536, description="elements of the longest row: the buffer holds them"
    )

    @property
    def port(self) -> FloatFormat | IntegerFormat:
        """Format of operands and results."""
        if self.format == "fixed":
            return IntegerFormat(
                name=f"q{self.fixed.bits}.{self.fixed.fraction}",
                bits=self.fixed.bits,
                fraction_bits=self.fixed.fraction,
            )
        return FLOAT_FORMATS[self.format]

    @property
    def number(self) -> Internal:
        """Format between the ports: exponents for squares of what the port can hold."""
        return Internal(
            significand=self.internal.significand,
            exponent_bits=10 if self.format == "bf16" else 8,
            specials=self.format != "fixed",
        )

    @property
    def has_u(self) -> bool:
        """Whether there is a stream of second operands."""
        return self.asks(WITH_U)

    @property
    def has_v(self) -> bool:
        """Whether these come with third ones."""
        return self.asks(WITH_V)

    @property
    def has_buffer(self) -> bool:
        """Whether a row is kept."""
        return self.asks(WITH_BUFFER)

    @property
    def has_epsilon(self) -> bool:
        """Whether jobs have an epsilon."""
        return self.asks(NORMS)

    @property
    def folds(self) -> tuple[int, int]:
        """Steps that make one number of those of all slots, and of all lanes."""
        return SLOTS.bit_length() - 1, self.lanes.bit_length() - 1

    @property
    def beats(self) -> int:
        """Beats of the longest row."""
        return -(-self.max_length // self.lanes)

    def asks(self, functions: tuple[Function, ...]) -> bool:
        """Whether any of some functions is there."""
        return any(name in self.functions for name in functions)

    def chunks(self, length: int) -> int:
        """Groups of :data:`SLOTS` beats of a row."""
        return -(-length // (SLOTS * self.lanes))

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        twice = [name for name in FUNCTIONS if self.functions.count(name) > 1]
        if twice:
            yield Problem(("functions",), "must name each function once", ", ".join(twice))
        if self.lanes & (self.lanes - 1):
            yield Problem(("lanes",), "must be a power of two", self.lanes)
        if "rotary" in self.functions and self.lanes == 1:
            yield Problem(("lanes",), "must be at least 2 for rotary: a beat holds pairs", 1)
        place = ("internal", "significand")
        bits = self.internal.significand
        if self.format == "fixed":
            if self.fixed.fraction >= self.fixed.bits:
                rule = f"must be less than fixed.bits = {self.fixed.bits}"
                yield Problem(("fixed", "fraction"), rule, self.fixed.fraction)
            if bits < self.fixed.bits:
                yield Problem(place, f"must be at least fixed.bits = {self.fixed.bits}", bits)
        if self.asks(NORMS) and self.max_length >= 1 << (bits - 1):
            rule = f"must be less than 2^(internal.significand - 1) = {1 << (bits - 1)} for norms"
            yield Problem(("max_length",), rule, self.max_length)

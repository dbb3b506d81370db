"""Specification of the LUT tensor core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from hw.errors import Problem
from hw.formats import BF16, FP8_E4M3, FP8_E5M2, FP16, FloatFormat
from hw.gemm import Further, Pipeline
from hw.integers import Activations, Encoding, IntegerGemmSpec
from hw.spec import Part
from hw.streams import StreamField

FLOATS: Mapping[str, FloatFormat] = {form.name: form for form in (FP16, BF16, FP8_E4M3, FP8_E5M2)}
"""Floating formats of activations, by name."""


class LutActivations(Activations):
    """Integers, or floats that are aligned to a row's exponent into integers of ``bits`` bits.

    :attr:`low` and :attr:`high` are those of the integers that the tables are made of.
    """

    bits: int = Field(
        8, ge=2, le=16, description="width of an activation, or of what a float is aligned to"
    )
    format: Literal["integer", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2"] = Field(
        "integer", description="integers, or a floating format"
    )
    exponent: Literal["running", "given", "exact"] = Field(
        "running",
        description="floats are aligned to the largest exponent of the row so far, to one that "
        "comes with the activations, or to the format's largest, nothing lost (bits then is what "
        "that takes)",
    )
    guard: int = Field(
        0, ge=0, le=8, description="running exponents: accumulator bits below the point"
    )

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Integers are written without what only floats have."""
        data: dict[str, Any] = handler(self)
        kept = Activations.model_fields if self.format == "integer" else data
        return {name: data[name] for name in data if name in kept}

    @property
    def floating(self) -> bool:
        return self.format != "integer"

    @property
    def form(self) -> FloatFormat:
        """The floating format; ``KeyError`` for integers."""
        return FLOATS[self.format]

    @property
    def running(self) -> bool:
        return self.floating and self.exponent == "running"

    @property
    def given(self) -> bool:
        return self.floating and self.exponent == "given"

    @property
    def top(self) -> int:
        """The largest stored exponent of a finite float."""
        return self.form.max_exponent + self.form.bias

    @property
    def widest(self) -> int:
        if self.floating and self.exponent == "exact":
            # The significand, moved by every exponent from 1 on, and a sign.
            return self.form.mantissa_bits + 1 + self.top - 1 + 1
        return self.bits

    @property
    def low(self) -> int:
        return -self.high if self.floating else super().low

    @property
    def high(self) -> int:
        return (1 << (self.widest - 1)) - 1 if self.floating else super().high

    @property
    def reach(self) -> int:
        """Rises of a running exponent that accumulators are shifted by: 0 to one less than this.

        What would be shifted further came of activations each of which would now be rounded to 0,
        guard bits included: it is dropped.
        """
        return min(self.widest + self.guard, self.top) if self.running else 1

    @property
    def drops(self) -> bool:
        """Whether an exponent can rise so far that sums are dropped."""
        return self.running and self.top > self.reach

    def result_exponent(self, stored: Any) -> Any:
        """The exponent of results, of activations aligned to a stored exponent."""
        return stored - self.form.bias - (self.widest - 2) - self.guard

    @property
    def result_exponents(self) -> tuple[int, int]:
        """Least and largest exponent of results."""
        highest = (1 << self.form.exponent_bits) - 1 if self.given else self.top
        least = self.top if self.exponent == "exact" else 1
        return self.result_exponent(least), self.result_exponent(highest)


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


class LutPipeline(Pipeline):
    """Registers of a LUT core."""

    front: int = Field(
        0,
        ge=0,
        le=2,
        description="registers in the shared front end: 1 behind it; floats only: 2, another "
        "between the largest exponent and the alignment",
    )


class LutCoreSpec(IntegerGemmSpec):
    """LUT tensor core: sums of activations looked up by weight bits (arXiv 2408.06003)."""

    block: Literal["lut_core"] = "lut_core"
    activations: LutActivations = Field(default_factory=LutActivations, description="format of A")
    pipeline: LutPipeline = Field(default_factory=LutPipeline, description="extra registers")
    weights: LutWeights = Field(default_factory=LutWeights, description="format of W")
    table: Table = Field(default_factory=Table, description="the lookup tables")
    planes: Literal["serial", "parallel"] | int = Field(
        "serial", description="weight planes a cycle: one, all of max_bits, or a number"
    )

    @property
    def operand_formats(self) -> tuple[FloatFormat | None, None]:
        return (self.activations.form if self.activations.floating else None), None

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

    @property
    def exact(self) -> bool:
        return not self.activations.floating

    @property
    def summable(self) -> bool:
        # Parts of K have exponents of their own.
        return self.exact

    @property
    def activation_width(self) -> int:
        floating = self.activations.floating
        return self.activations.form.width if floating else super().activation_width

    @property
    def further(self) -> Mapping[str, Further]:
        return {"exponent": Further(side="m")} if self.activations.given else {}

    @property
    def doubled(self) -> bool:
        """Whether accumulators hold twice the result: ±1 planes of affine encodings."""
        return self.table.form == "symmetric" and self.weight_encoding in (
            "unsigned",
            "twos_complement",
        )

    @property
    def result_bits(self) -> int:
        return super().result_bits + self.activations.guard

    @property
    def results(self) -> tuple[StreamField, ...]:
        if not self.activations.floating:
            return super().results
        low, high = self.activations.result_exponents
        width = max(value if value >= 0 else ~value for value in (low, high)).bit_length() + 1
        rows = (self.tile.m,)
        (o,) = super().results
        return (
            replace(o, doc="integers, in units of 2^exponent of their row"),
            StreamField(
                name="exponent",
                width=width,
                signed=True,
                shape=rows,
                doc="power of two of the row's results",
            ),
            StreamField(
                name="invalid",
                width=1,
                shape=rows,
                doc="1: the row had NaN or infinity among its activations, each taken for 0",
            ),
        )

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        yield from self._float_rules()
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

    def _float_rules(self) -> Iterator[Problem]:
        a = self.activations
        if not a.floating:
            if a.exponent != "running":
                yield Problem(("activations", "exponent"), "needs a floating format", a.exponent)
            if a.guard:
                yield Problem(("activations", "guard"), "needs a floating format", a.guard)
            if self.pipeline.front > 1:
                yield Problem(
                    ("pipeline", "front"), "must be at most 1 for integers", self.pipeline.front
                )
            return
        if not a.signed:
            yield Problem(("activations", "signed"), "must be true for floats", a.signed)
        if a.exponent == "exact" and a.form.width > 8:
            yield Problem(
                ("activations", "exponent"), "exact needs fp8_e4m3 or fp8_e5m2", a.exponent
            )
        if a.guard and a.exponent != "running":
            yield Problem(("activations", "guard"), "needs exponent running", a.guard)
        if self.quantized:
            yield Problem(("table", "entries"), "must be exact for floats", self.table.entries)
        if self.table.source == "port":
            yield Problem(("table", "source"), "must be internal for floats", self.table.source)
        if self.addend:
            yield Problem(("addend",), "must be false for floats: it has no exponent", self.addend)
        if a.running and self.weight_encoding == "bipolar" and not self.symmetric:
            yield Problem(
                ("table", "form"),
                "must be symmetric for bipolar weights and a running exponent",
                self.table.form,
            )

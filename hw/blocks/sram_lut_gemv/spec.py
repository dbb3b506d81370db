"""Specification of the table array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.formats import FLOAT_FORMATS, FP16, FloatFormat
from hw.gemm import Further, Job, Tile, activation_bits
from hw.integers import ActivationFormat, Encoding, IntegerGemmSpec, weight_range
from hw.spec import Part
from hw.streams import StreamField

MOST_GROUP = 8
"""Largest group of weights: its table has 2^8 words."""


class ArrayTile(Tile):
    """Elements of one step: ``k`` weights of a column make a table."""

    m: int = Field(8, ge=1, le=64, description="rows of A, the batch that a table serves")
    n: int = Field(32, ge=1, le=512, description="rows of W, columns of O and of the array")
    k: int = Field(4, ge=1, le=512, description="weights of a group; its table has 2^k words")


class BatchActivations(ActivationFormat):
    """Activations whose width each job chooses, up to ``max_bits``."""

    encoding: Literal["unsigned", "twos_complement"] = Field(
        "twos_complement", description="unsigned or twos_complement"
    )
    max_bits: int = Field(8, ge=1, le=16, description="widest activation")

    @property
    def widest(self) -> int:
        return self.max_bits

    @property
    def code(self) -> Encoding:
        return self.encoding


class ArrayWeights(Part):
    """Weights whose width each job chooses, up to ``max_bits``."""

    encoding: Literal["unsigned", "twos_complement"] = Field(
        "twos_complement", description="unsigned (with a zero point per column) or twos_complement"
    )
    max_bits: int = Field(8, ge=1, le=16, description="widest weight")


class Array(Part):
    """Where the table is kept."""

    style: Literal["registers", "memory"] = Field(
        "registers",
        description="registers: flip-flops, all in the area; memory: one RAM of 2^k words with one "
        "synchronous port, whose area is not known here",
    )


class Reuse(Part):
    """Pattern reuse table."""

    capacity: int = Field(
        8,
        ge=1,
        le=64,
        description="rows of the batch whose patterns it holds at once, each with an adder a "
        "column; divides tile.m; 1 reuses nothing",
    )


class Result(Part):
    """What becomes of the exact sums."""

    format: Literal["exact", "integer", "fp16", "fp32"] = Field(
        "exact",
        description="exact: the sums; integer: shifted right by the job's shift, rounded, clipped; "
        "fp16, fp32: times an FP16 scale a column, rounded once",
    )
    bits: int = Field(8, ge=2, le=32, description="width of an integer result")
    lanes: int = Field(
        1, ge=1, le=512, description="converters, each for as many columns; divides tile.n"
    )


class SramLutGemvSpec(IntegerGemmSpec):
    """Table array: sums of every subset of a group of weights, looked up by activation planes."""

    block: Literal["sram_lut_gemv"] = "sram_lut_gemv"
    tile: ArrayTile = Field(default_factory=ArrayTile, description="shape of one step")
    activations: BatchActivations = Field(
        default_factory=BatchActivations, description="format of A"
    )
    weights: ArrayWeights = Field(default_factory=ArrayWeights, description="format of W")
    array: Array = Field(default_factory=Array, description="where the table is kept")
    reuse: Reuse = Field(default_factory=Reuse, description="pattern reuse table")
    result: Result = Field(default_factory=Result, description="conversion of results")

    @property
    def weight_encoding(self) -> Encoding:
        return self.weights.encoding

    @property
    def max_weight_bits(self) -> int:
        return self.weights.max_bits

    @property
    def activation_bits(self) -> range:
        return range(1, self.activations.max_bits + 1)

    @property
    def exact(self) -> bool:
        return self.result.format == "exact"

    @property
    def signed(self) -> bool:
        """Whether activations have a sign plane."""
        return self.activations.encoding == "twos_complement"

    @property
    def reuses(self) -> bool:
        """Whether there is a pattern reuse table."""
        return self.reuse.capacity > 1

    @property
    def own_control(self) -> bool:
        return True

    @property
    def timed_by_operands(self) -> bool:
        return self.reuses

    @property
    def words(self) -> int:
        """Words of a table that are ever written: all but the empty subset's."""
        return (1 << self.tile.k) - 1

    @property
    def rounds(self) -> int:
        """Loads of the reuse table that a plane of the batch takes."""
        return self.tile.m // self.reuse.capacity

    @property
    def entry_bits(self) -> int:
        """Two's complement that holds the sum of any subset of a group."""
        k, bits = self.tile.k, self.max_weight_bits
        if self.zero_point:
            return (k * ((1 << bits) - 1)).bit_length() + 1
        low, high = weight_range(self.weight_encoding, bits)
        return max((-k * low - 1).bit_length(), (k * high).bit_length()) + 1

    @property
    def sum_bits(self) -> int:
        """Width of an accumulator."""
        return super().result_bits

    @property
    def result_form(self) -> FloatFormat | None:
        """The float that goes out, None for integers."""
        return FLOAT_FORMATS.get(self.result.format)

    @property
    def result_bits(self) -> int:
        if self.exact:
            return self.sum_bits
        return self.result.bits if self.result_form is None else self.result_form.width

    @property
    def results(self) -> tuple[StreamField, ...]:
        form = self.result_form
        doc = f"{form.name} codes" if form is not None else "integers"
        return (
            StreamField(
                name="o",
                width=self.result_bits,
                signed=form is None,
                shape=(self.tile.m, self.tile.n),
                doc="exact integers" if self.exact else doc,
            ),
        )

    @property
    def summable(self) -> bool:
        return self.exact

    @property
    def further(self) -> Mapping[str, Further]:
        if self.exact:
            return {}
        if self.result_form is None:
            return {"shift": Further()}
        return {"scale": Further(side="n", filler=0)}

    @property
    def job_operands(self) -> tuple[StreamField, ...]:
        if self.exact:
            return ()
        if self.result_form is None:
            return (
                StreamField(
                    name="shift",
                    width=(self.sum_bits - 1).bit_length(),
                    doc="places that results are shifted right",
                ),
            )
        return (
            StreamField(
                name="scale", width=FP16.width, shape=(self.tile.n,), doc="FP16, one a column"
            ),
        )

    @property
    def drain(self) -> int:
        """Cycles in which a job's sums go to the converters."""
        return 0 if self.exact else self.tile.m * self.tile.n // self.result.lanes

    def step_cycles(self, job: Job) -> int:
        """The table, and every lookup: those of a job that reuses nothing."""
        return self.words + self.tile.m * activation_bits(self, job)

    def operand_reads(self, weight_bits: int, activation_bits: int) -> tuple[int, int]:
        return 1, 1

    def job_fields(self) -> tuple[StreamField, ...]:
        fields = []
        if self.activations.max_bits > 1:
            fields.append(
                StreamField(
                    name="activation_bits_m1",
                    width=(self.activations.max_bits - 1).bit_length(),
                    doc="activation width of the job in bits, less one",
                )
            )
        if self.reuses:
            fields.append(
                StreamField(
                    name="reuse", width=1, doc="1: rows with the same pattern share a lookup"
                )
            )
        return tuple(fields)

    def job_values(self, job: Job) -> dict[str, int]:
        values = {}
        if self.activations.max_bits > 1:
            values["activation_bits_m1"] = activation_bits(self, job) - 1
        if self.reuses:
            values["reuse"] = int(job.reuse)
        return values

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        tile = self.tile
        if tile.k > MOST_GROUP:
            rule = f"must be at most {MOST_GROUP}, a table has 2^k words"
            yield Problem(("tile", "k"), rule, tile.k)
        if tile.m % self.reuse.capacity:
            yield Problem(
                ("reuse", "capacity"), f"must divide tile.m = {tile.m}", self.reuse.capacity
            )
        if tile.n % self.result.lanes:
            yield Problem(("result", "lanes"), f"must divide tile.n = {tile.n}", self.result.lanes)
        if self.sum_bits > 48 and not self.exact:
            yield Problem(
                ("max_k",), f"needs a {self.sum_bits} bit accumulator, at most 48", self.max_k
            )
        if self.result.format == "integer" and self.result.bits >= self.sum_bits:
            rule = f"must be below the {self.sum_bits} bits of the exact sums"
            yield Problem(("result", "bits"), rule, self.result.bits)
        if self.pipeline.heap:
            yield Problem(("pipeline", "heap"), "must be 0, there is no heap", self.pipeline.heap)
        if self.addend:
            yield Problem(("addend",), "must be false, the array has none", self.addend)

"""Specification of the bit-serial core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.gemm import Job, activation_bits
from hw.integers import ActivationFormat, Encoding, IntegerGemmSpec
from hw.spec import Part
from hw.streams import StreamField

PlaneEncoding = Literal["unsigned", "twos_complement", "bipolar"]


class PlaneActivations(ActivationFormat):
    """Activations whose width each job chooses, up to ``max_bits``."""

    encoding: PlaneEncoding = Field(
        "twos_complement", description="unsigned, twos_complement or bipolar (odd integers)"
    )
    max_bits: int = Field(8, ge=1, le=8, description="widest activation")

    @property
    def widest(self) -> int:
        return self.max_bits

    @property
    def code(self) -> Encoding:
        return self.encoding


class PlaneWeights(Part):
    """Weights whose width each job chooses, up to ``max_bits``."""

    encoding: PlaneEncoding = Field(
        "twos_complement",
        description="unsigned (with a zero point per column), twos_complement or bipolar",
    )
    max_bits: int = Field(8, ge=1, le=8, description="widest weight")


class BitserialCoreSpec(IntegerGemmSpec):
    """Bit-serial core: one pair of planes a pass, AND or XNOR and a population count."""

    block: Literal["bitserial_core"] = "bitserial_core"
    activations: PlaneActivations = Field(
        default_factory=PlaneActivations, description="format of A"
    )
    weights: PlaneWeights = Field(default_factory=PlaneWeights, description="format of W")

    @property
    def weight_encoding(self) -> Encoding:
        return self.weights.encoding

    @property
    def max_weight_bits(self) -> int:
        return self.weights.max_bits

    @property
    def planes_per_cycle(self) -> int:
        return 1

    @property
    def activation_bits(self) -> range:
        return range(1, self.activations.max_bits + 1)

    @property
    def max_passes(self) -> int:
        return self.activations.max_bits * self.weights.max_bits

    @property
    def skips_planes(self) -> bool:
        """Planes of bipolar numbers hold −1 and +1, and so are never zero."""
        return self.activations.encoding != "bipolar"

    @property
    def mixed(self) -> bool:
        """Whether 0/1 planes of A meet ±1 planes of W, which takes a count of A's."""
        return self.weights.encoding == "bipolar" and self.activations.encoding != "bipolar"

    @property
    def signs(self) -> bool:
        """Whether a pass can count negative, in a column or in all."""
        return self.weights.encoding != "bipolar" or self.activations.encoding == "twos_complement"

    def job_planes(self, job: Job) -> tuple[int, int]:
        """Masks of the planes of A and of W that a job takes."""
        a, w = (1 << activation_bits(self, job)) - 1, (1 << job.weight_bits) - 1
        return (
            a if job.a_planes is None else job.a_planes,
            w if job.w_planes is None else job.w_planes,
        )

    def job_passes(self, job: Job) -> int:
        a, w = self.job_planes(job)
        return a.bit_count() * w.bit_count()

    def operand_reads(self, weight_bits: int, activation_bits: int) -> tuple[int, int]:
        return weight_bits, activation_bits

    def job_fields(self) -> tuple[StreamField, ...]:
        fields = [
            StreamField(
                name="a_planes", width=self.activations.max_bits, doc="planes of A that come"
            ),
            StreamField(name="w_planes", width=self.weights.max_bits, doc="planes of W that come"),
        ]
        if self.activations.encoding == "twos_complement":
            fields.append(
                StreamField(
                    name="a_sign",
                    width=self.activations.max_bits,
                    doc="the sign plane of A, one bit set",
                )
            )
        if self.weights.encoding == "twos_complement":
            fields.append(
                StreamField(
                    name="w_sign",
                    width=self.weights.max_bits,
                    doc="the sign plane of W, one bit set",
                )
            )
        return tuple(fields)

    def job_values(self, job: Job) -> dict[str, int]:
        a, w = self.job_planes(job)
        values = {"a_planes": a, "w_planes": w}
        if self.activations.encoding == "twos_complement":
            values["a_sign"] = 1 << (activation_bits(self, job) - 1)
        if self.weights.encoding == "twos_complement":
            values["w_sign"] = 1 << (job.weight_bits - 1)
        return values

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if self.activations.encoding == "bipolar" and self.weights.encoding != "bipolar":
            yield Problem(
                ("activations", "encoding"),
                "bipolar activations need bipolar weights",
                self.activations.encoding,
            )

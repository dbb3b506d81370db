"""Specification of the multiplier array."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.integers import Activations, Encoding, IntegerGemmSpec
from hw.spec import Part


class MacWeights(Part):
    """Weights of one width; narrower ones are extended when they are packed."""

    encoding: Literal["unsigned", "twos_complement", "bipolar", "ternary"] = Field(
        "twos_complement",
        description="unsigned (with a zero point per column), twos_complement, bipolar or ternary",
    )
    bits: int = Field(8, ge=1, le=16, description="1 to 8, or 16; ignored for ternary")


class MacCoreSpec(IntegerGemmSpec):
    """Multiplier array: Booth partial products, one carry-save heap and one adder an output."""

    block: Literal["mac_core"] = "mac_core"
    activations: Activations = Field(default_factory=Activations, description="format of A")
    weights: MacWeights = Field(default_factory=MacWeights, description="format of W")

    @property
    def weight_encoding(self) -> Encoding:
        return self.weights.encoding

    @property
    def max_weight_bits(self) -> int:
        return 2 if self.weights.encoding == "ternary" else self.weights.bits

    @property
    def planes_per_cycle(self) -> int:
        return self.max_weight_bits

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        if 8 < self.weights.bits < 16:
            yield Problem(("weights", "bits"), "must be 1 to 8, or 16", self.weights.bits)

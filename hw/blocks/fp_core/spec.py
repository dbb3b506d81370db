"""Specification of the floating-point core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from hw.blocks.fp_core.product import Product
from hw.errors import Problem
from hw.formats import FLOAT_FORMATS, FP16, FloatFormat
from hw.formats.sums import Accumulator, Sums, Terms
from hw.gemm import Further, GemmSpec
from hw.spec import Part
from hw.streams import StreamField

FloatName = Literal["fp16", "bf16", "fp8_e4m3", "fp8_e5m2"]

WIDEST = 96
"""Most bits of a window."""


class FpActivations(Part):
    """Floating-point activations."""

    format: FloatName = Field("fp16", description="fp16, bf16, fp8_e4m3 or fp8_e5m2")


class FpWeights(Part):
    """Floating-point weights, or integers that are dequantized to FP16 in the core."""

    format: Literal["fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "int"] = Field(
        "fp16", description="fp16, bf16, fp8_e4m3, fp8_e5m2, or int: dequantized to FP16"
    )
    bits: int | None = Field(None, ge=1, le=8, description="int: width of a weight")
    encoding: Literal["twos_complement", "unsigned"] | None = Field(
        None, description="int: twos_complement, or unsigned with a zero point a group"
    )
    scale: Literal["fp16"] | None = Field(None, description="int: format of the scales")
    group: int | None = Field(
        None, ge=1, le=1 << 20, description="int: weights along K that share a scale"
    )


class FpCoreSpec(GemmSpec):
    """Floating-point dot products: exact products, aligned, in one carry-save heap."""

    block: Literal["fp_core"] = "fp_core"
    activations: FpActivations = Field(default_factory=FpActivations, description="format of A")
    weights: FpWeights = Field(default_factory=FpWeights, description="format of W")
    window: Annotated[int, Field(ge=4, le=WIDEST)] | Literal["exact"] = Field(
        28,
        description="bits of products that are kept, counted down from the top bit of a step's "
        "largest one; lower bits of each magnitude are cut off; or exact: nothing is",
    )

    accumulator: Accumulator = Field(
        default_factory=lambda: Accumulator(kind="fp32"), description="what is kept between steps"
    )

    @property
    def product(self) -> Product:
        """The products of A and W."""
        a, w = self.activations.format, self.weights.format
        return Product(FLOAT_FORMATS[a], FP16 if w == "int" else FLOAT_FORMATS[w])

    @property
    def window_bits(self) -> int:
        """Bits of an aligned product's magnitude."""
        return self.product.exact_window if self.window == "exact" else self.window

    @property
    def sum_bits(self) -> int:
        """Two's complement that holds a step's sum of aligned products."""
        return (self.tile.k * ((1 << self.window_bits) - 1)).bit_length() + 1

    @property
    def sums(self) -> Sums:
        """The accumulator of an output: a step's sum is ``D · 2^(code + bias)``."""
        product, most = self.product, self.tile.k * ((1 << self.window_bits) - 1)
        exact = self.window == "exact"
        terms = Terms(
            low=-most,
            high=most,
            codes=1 if exact else product.high + 1,
            bias=(product.high if exact else 0) + product.bits - self.window_bits - product.unit,
            steps=self.max_k_steps,
            nan=True,
            inf="ieee" in (product.a.specials, product.w.specials),
        )
        return Sums(accumulator=self.accumulator, terms=terms)

    @property
    def dequantizes(self) -> bool:
        """Whether the weights are integers."""
        return self.weights.format == "int"

    @property
    def zeros(self) -> bool:
        """Whether the weights have zero points, one a group."""
        return self.dequantizes and self.weights.encoding == "unsigned"

    @property
    def group(self) -> int:
        """Weights that share a scale."""
        return self.weights.group or 1

    @property
    def groups(self) -> int:
        """Scales of a column in a step."""
        return max(1, self.tile.k // self.group)

    @property
    def operand_formats(self) -> tuple[FloatFormat, FloatFormat | None]:
        return self.product.a, None if self.dequantizes else self.product.w

    @property
    def weight_encoding(self) -> str:
        return (self.weights.encoding or "") if self.dequantizes else self.weights.format

    @property
    def max_weight_bits(self) -> int:
        return (self.weights.bits or 1) if self.dequantizes else self.product.w.width

    @property
    def activation_width(self) -> int:
        return self.product.a.width

    @property
    def results(self) -> tuple[StreamField, ...]:
        return self.sums.results(self.tile.m, self.tile.n)

    @property
    def result_bits(self) -> int:
        return sum(item.bits for item in self.sums.results(1, 1))

    @property
    def cuts(self) -> int:
        return self.pipeline.heap + self.sums.ahead

    @property
    def tail(self) -> int:
        return self.sums.tail

    @property
    def further(self) -> Mapping[str, Further]:
        if not self.dequantizes:
            return {}
        found = {"w_scale": Further(side="n", per=self.group)}
        if self.zeros:
            found["w_zero"] = Further(side="n", per=self.group)
        return found

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        yield from self._weight_rules()
        exact = self.product.exact_window
        if self.window == "exact" and exact > WIDEST:
            yield Problem(("window",), f"exact needs {exact} bits, at most {WIDEST}", self.window)
        elif self.window != "exact" and self.window > exact:
            yield Problem(("window",), f"exact is {exact} bits, more are of no use", self.window)
        most = 5 if self.dequantizes else 4
        if self.pipeline.heap > most:
            rule = f"must be at most {most}, the parts of a step that can end in a register"
            yield Problem(("pipeline", "heap"), rule, self.pipeline.heap)
        yield from self.sums.rules(("accumulator",))
        if self.addend:
            yield Problem(("addend",), "floating-point cores have none", self.addend)

    def _weight_rules(self) -> Iterator[Problem]:
        given: dict[str, Any] = {
            name: getattr(self.weights, name) for name in ("bits", "encoding", "scale", "group")
        }
        for name, value in given.items():
            if self.dequantizes and value is None:
                yield Problem(("weights", name), "is required for int")
            if not self.dequantizes and value is not None:
                rule = f"must be left out for {self.weights.format}"
                yield Problem(("weights", name), rule, value)
        k, group = self.tile.k, self.weights.group
        if self.dequantizes and group is not None and k % group and group % k:
            yield Problem(
                ("weights", "group"), f"must divide tile.k = {k} or be a multiple of it", group
            )

"""Integer weights to FP16: ``(q − z) · s``, rounded once. A part, instantiated for every weight.

A factor of at least 1 makes no number smaller: what is not below 2^11 in units of the scale's
lowest bit is moved down by as many places as its leading one stands above bit 10, and rounded to
nearest, ties to even; everything else is exact, subnormal or not, and keeps the scale's exponent.
No number is ever moved up, and none becomes subnormal that was not, so that neither a normaliser
nor a denormaliser is needed.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.fp_core.spec import FpCoreSpec
from hw.formats import FP16
from hw.lib import align
from hw.lib.cuts import Cuts
from hw.lib.floats import unpack
from hw.lib.heap import Heap

PART = FP16.mantissa_bits + 1
TOP = FP16.max_code >> FP16.mantissa_bits  # the largest exponent of a number


class Dequantizer(wiring.Component):
    """One weight.

    Members:
        q, z: the weight's code and its zero point (unsigned weights).
        scale: an FP16 code.
        sign, exponent, significand, zero, nan, inf: the weight as ``hw.lib.floats.Unpacked``.
    """

    def __init__(self, spec: FpCoreSpec):
        self.spec = spec
        bits = spec.max_weight_bits
        members = {"q": In(bits), "scale": In(16)}
        members |= {"z": In(bits)} if spec.zeros else {}
        widths = {"sign": 1, "exponent": 5, "significand": PART, "zero": 1, "nan": 1, "inf": 1}
        super().__init__({**members, **{name: Out(width) for name, width in widths.items()}})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        factor, negative = self._factor(m)
        scale = unpack(m, "scale", FP16, self.scale)
        count = len(factor)
        heap = Heap(m, "heap", PART + count, Cuts(m))
        for i in range(count):
            term = Signal(PART, name=f"term_{i}")
            m.d.comb += term.eq(scale.significand & factor[i].replicate(PART))
            heap.add(term, lsb=i, time=1.0)
        product = Signal(PART + count)
        m.d.comb += product.eq(align.total(m, "product", heap.compress()))

        # One-hot: by how much the leading one stands above bit 10.
        above = product[PART:]
        move = [Signal(name=f"move_{i}") for i in range(count + 1)]
        for i in range(count + 1):
            higher = above[i:].any() if i < count else Const(0, 1)
            m.d.comb += move[i].eq((above[i - 1] if i else Const(1, 1)) & ~higher)
        kept = Signal(PART)
        picked: Value = Const(0, PART)
        guard: Value = Const(0, 1)
        sticky: Value = Const(0, 1)
        for i, line in enumerate(move):
            picked = picked | (line.replicate(PART) & product[i : i + PART])
            if i:
                guard = guard | (line & product[i - 1])
            if i > 1:
                sticky = sticky | (line & product[: i - 1].any())
        up = Signal()
        m.d.comb += [kept.eq(picked), up.eq(guard & (sticky | kept[0]))]
        # A significand that rounds up to 2^11 carries into the exponent, its bits are all zero.
        rounded = Signal(PART)
        carry = Signal()
        m.d.comb += Cat(rounded, carry).eq(kept + up)
        distance = Signal(range(count + 1))
        m.d.comb += distance.eq(
            Cat(
                *(
                    Cat(*(line for i, line in enumerate(move) if i >> bit & 1)).any()
                    for bit in range(len(distance))
                )
            )
        )
        exponent = Signal(6)
        m.d.comb += exponent.eq(scale.exponent + distance + carry)
        over = Signal()
        none = Signal()
        m.d.comb += [
            none.eq(~factor.any()),
            over.eq((exponent > TOP) | scale.inf),
            self.sign.eq(scale.sign ^ negative),
            self.exponent.eq(exponent),
            self.significand.eq(Cat(rounded[:-1], rounded[-1] | carry)),
            self.nan.eq(scale.nan | (scale.inf & none)),
            self.inf.eq(over & ~scale.nan & ~none),
            self.zero.eq((none | scale.zero) & ~self.nan),
        ]
        return m

    def _factor(self, m: Module) -> tuple[Value, Value]:
        """``|q − z|`` and whether it is negative."""
        spec, bits = self.spec, self.spec.max_weight_bits
        if spec.zeros:
            difference = align.add(m, "difference", self.q, ~self.z, 1)
            negative, low = ~difference[-1], difference[:-1]
        else:
            negative, low = self.q[-1], self.q
        magnitude = Signal(bits, name="factor")
        m.d.comb += magnitude.eq((low ^ negative.replicate(bits)) + negative)
        return magnitude, negative

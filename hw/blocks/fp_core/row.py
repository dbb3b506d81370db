"""One output's part of a step: exponents, alignment, heap. A part, instantiated for every output.

Products come from outside (:class:`hw.blocks.fp_core.multiply.Multiplier`), so that one multiplier
is mapped once for all of them.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.fp_core import multiply
from hw.blocks.fp_core.spec import FpCoreSpec
from hw.blocks.fp_core.stages import stages
from hw.lib import align
from hw.lib.cuts import Cuts
from hw.lib.heap import Heap


def operand_lines(spec: FpCoreSpec) -> tuple[dict[str, int], dict[str, int]]:
    """Width of what a row needs to know of an activation, and of a weight, by name.

    - ``exponent``: as stored, 1 of subnormals; with an exact window its complement. ``sign``.
    - ``live``: a finite number other than 0; with a window.
    - ``inf``, ``some``: an infinity; anything but 0 or NaN. Where there are infinities.
    - ``late_sign`` and the significand come in the stage of the products: ``part`` and ``triple``
      of A, ``choices`` of W, see :mod:`hw.blocks.fp_core.multiply`.
    """
    product = spec.product
    shared = {"sign": 1} if spec.sums.terms.inf else {}
    shared |= {} if spec.window == "exact" else {"live": 1}
    shared |= {"some": 1} if spec.sums.terms.inf else {}
    found = []
    for form, late in (
        (product.a, {"part": product.a_bits, "triple": product.a_bits + 1}),
        (product.w, {"choices": multiply.choice_bits(product.w_bits)}),
    ):
        own = {"exponent": form.exponent_bits, **shared}
        own |= {"inf": 1} if form.specials == "ieee" else {}
        found.append({**own, "late_sign": 1, **late})
    return found[0], found[1]


class Row(wiring.Component):
    """The sum of a step.

    Members:
        a_…, w_…: ``K`` of each of :func:`operand_lines`.
        a_nan, w_nan: whether any of the operands is NaN.
        cut_en: enables of the registers.
        value, code: two's complement of ``sum_bits`` bits, and its exponent.
        nan, pinf, ninf: the sum is none.
    """

    def __init__(self, spec: FpCoreSpec):
        self.spec = spec
        k = spec.tile.k
        terms = spec.sums.terms
        members: dict[str, wiring.Member] = {}
        for side, lines in zip("aw", operand_lines(spec), strict=True):
            members |= {f"{side}_{name}": In(k * width) for name, width in lines.items()}
            members[f"{side}_nan"] = In(1)
        if spec.pipeline.heap:
            members["cut_en"] = In(spec.pipeline.heap)
        members |= {"value": Out(terms.bits), "code": Out(terms.code_bits), "nan": Out(1)}
        if terms.inf:
            members |= {"pinf": Out(1), "ninf": Out(1)}
        super().__init__(members)

    def lane(self, name: str, k: int) -> Value:
        """An operand's line of product ``k``."""
        port = getattr(self, name)
        return port.word_select(k, len(port) // self.spec.tile.k)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, product, lanes = self.spec, self.spec.product, range(self.spec.tile.k)
        at = stages(spec)
        cuts = Cuts(m)
        if spec.pipeline.heap:
            cuts = Cuts(m, tuple(range(spec.pipeline.heap)), self.cut_en)

        code, distances = self._distances(m)
        products, signs = [], []
        for k in lanes:
            made = Signal(product.bits, name=f"product_{k}")
            sign = Signal(name=f"sign_{k}")
            m.submodules[f"multiplier_{k}"] = Instance(
                f"{spec.name}_multiplier",
                i_a=self.lane("a_part", k),
                i_triple=self.lane("a_triple", k),
                i_choices=self.lane("w_choices", k),
                o_o=made,
            )
            m.d.comb += sign.eq(self.lane("a_late_sign", k) ^ self.lane("w_late_sign", k))
            products.append(cuts.to(made, at.products, at.rows))
            signs.append(cuts.to(sign, at.products, at.rows))

        window = spec.window_bits
        low = window - product.bits
        if spec.window == "exact":
            # Complements of the stored exponents add up to more than the distance from the top.
            top = sum((1 << form.exponent_bits) - 1 for form in (product.a, product.w))
            low += top - product.high
        heap = Heap(m, "heap", spec.sum_bits, Cuts(m))
        for k in lanes:
            distance = cuts.to(distances[k], at.exponents, at.rows)
            aligned = align.shift_down(m, f"aligned_{k}", products[k], distance, window, low=low)
            term = Signal(window + 1, name=f"term_{k}")
            m.d.comb += term.eq(Cat(aligned, Const(0, 1)) ^ signs[k].replicate(window + 1))
            heap.add(term, signed=True, time=multiply.SELECT)
            heap.add_bit(signs[k], 0)
        done, a, b = (cuts.to(value, at.rows, at.sums) for value in align.rows(heap.compress()))
        value = cuts.to(align.add_rows(m, "value", done, a, b), at.sums, at.last)
        m.d.comb += self.code.eq(cuts.to(code, at.exponents, at.last))
        flags = {}
        for name, flag in self._flags(m).items():
            flags[name] = cuts.to(flag, at.exponents, at.last)
            m.d.comb += getattr(self, name).eq(flags[name])
        if not spec.sums.fp32:
            # Sums that are seen as they are hold nothing of what is no number.
            special = Signal()
            m.d.comb += special.eq(Cat(*flags.values()).any())
            value = value & (~special).replicate(len(value))
        m.d.comb += self.value.eq(value)
        return m

    def _distances(self, m: Module) -> tuple[Value, list[Value]]:
        """The code of the sum, and how far each product is moved down."""
        spec, lanes = self.spec, range(self.spec.tile.k)
        sums = [
            align.add(m, f"exponent_{k}", self.lane("a_exponent", k), self.lane("w_exponent", k))
            for k in lanes
        ]
        if spec.window == "exact":
            return Const(0, 1), sums
        live = []
        for k in lanes:
            both = Signal(name=f"live_{k}")
            m.d.comb += both.eq(self.lane("a_live", k) & self.lane("w_live", k))
            live.append(both)
        largest = align.largest(m, "exponent", sums, live, digit=DIGIT)
        width = len(largest)
        distances = [align.add(m, f"distance_{k}", largest, ~sums[k], 1)[:width] for k in lanes]
        return largest[: spec.sums.terms.code_bits], distances

    def _flags(self, m: Module) -> dict[str, Value]:
        """What IEEE 754 says of NaN and infinities among the operands."""
        spec = self.spec
        nans: list[Value] = [self.a_nan, self.w_nan]
        if not spec.sums.terms.inf:
            return {"nan": Cat(*nans).any()}
        plus, minus = [], []
        a_lines, w_lines = operand_lines(spec)
        for k in range(spec.tile.k):
            infinite: list[Value] = []
            for side, other, lines in (("a", "w", a_lines), ("w", "a", w_lines)):
                if "inf" in lines:
                    one = self.lane(f"{side}_inf", k)
                    infinite.append(one)
                    nans.append(one & ~self.lane(f"{other}_some", k))
            some = Signal(name=f"infinite_{k}")
            negative = Signal(name=f"negative_{k}")
            m.d.comb += [
                some.eq(Cat(*infinite).any()),
                negative.eq(self.lane("a_sign", k) ^ self.lane("w_sign", k)),
            ]
            plus.append(some & ~negative)
            minus.append(some & negative)
        return {"nan": Cat(*nans).any(), "pinf": Cat(*plus).any(), "ninf": Cat(*minus).any()}


DIGIT = 1
"""Bits of the largest exponent that are found at a time."""

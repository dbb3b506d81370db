"""Significands multiplied: a part that is elaborated once and instantiated for every product.

Two bits of W choose among 0, A, 2A and 3A, one-hot, an AND-OR gate a bit; 3A is made in the front
end, where all columns share it, and the lines of the choice by the rows of a column. Half the rows
of a table of ANDs, and no signs as with Booth's digits: signs are kept apart.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.fp_core.product import Product
from hw.lib import align
from hw.lib.cuts import Cuts
from hw.lib.heap import Heap

SELECT = 2.0
"""Estimated delay of a choice, in full adders."""


def digit_count(bits: int) -> int:
    """Digits of a significand; the last may be a single bit."""
    return (bits + 1) // 2


def choices(significand: Value) -> Value:
    """One-hot lines "is 1", "is 2", "is 3" of every digit; of a single bit the bit."""
    lines: list[Value] = []
    for low in range(0, len(significand) - 1, 2):
        one, two = significand[low], significand[low + 1]
        lines += [one & ~two, two & ~one, one & two]
    if len(significand) % 2:
        lines.append(significand[-1])
    return Cat(*lines)


def choice_bits(bits: int) -> int:
    """Lines of :func:`choices`."""
    return 3 * (bits // 2) + bits % 2


class Multiplier(wiring.Component):
    """``o = a · w``.

    Members:
        a, triple: A, and 3A without its lowest bit, which is A's.
        choices: of W, see :func:`choices`.
    """

    def __init__(self, product: Product):
        self.product = product
        super().__init__(
            {
                "a": In(product.a_bits),
                "triple": In(product.a_bits + 1),
                "choices": In(choice_bits(product.w_bits)),
                "o": Out(product.bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product, width = self.product, self.product.a_bits + 2
        multiples = (
            Cat(self.a, Const(0, 2)),
            Cat(Const(0, 1), self.a, Const(0, 1)),
            Cat(self.a[0], self.triple),
        )
        heap = Heap(m, "heap", product.bits, Cuts(m))
        for digit in range(product.w_bits // 2):
            term = Signal(width, name=f"term_{digit}")
            picked: Value = Const(0, width)
            for index, multiple in enumerate(multiples):
                picked = picked | (self.choices[3 * digit + index].replicate(width) & multiple)
            m.d.comb += term.eq(picked)
            heap.add(term, lsb=2 * digit, time=SELECT)
        if product.w_bits % 2:
            term = Signal(product.a_bits, name="term_top")
            m.d.comb += term.eq(self.a & self.choices[-1].replicate(product.a_bits))
            heap.add(term, lsb=product.w_bits - 1, time=SELECT)
        m.d.comb += self.o.eq(align.total(m, "o", heap.compress()))
        return m

"""Accumulators of a column: one carry-propagate addition an output and step.

The register holds ``s = −1 − y``, the complement of the running result ``y``. Then subtracting a sum
of looked-up terms is adding their complements, which is what AND-OR-INVERT gates and the inverting
full adders of a cell library give for nothing, clearing is all ones, and the result is ``~s``.
"""

from __future__ import annotations

import itertools

from amaranth.hdl import Cat, Const, Module, Signal, Value

from hw.lib.heap import Heap

# Estimated delays in full adders: selecting a term, and the last addition with its accumulator.
SELECT_DELAY = 3.0
FINAL_DELAY = 6.0


def place_cuts(levels: int, cuts: int) -> tuple[int, ...]:
    """Levels of a heap after which to register, the longest stretch as short as possible.

    Place 0 is before the first level, ``levels`` after the last.
    """
    places = range(levels, -1, -1)

    def longest(chosen: tuple[int, ...]) -> float:
        edges = [-SELECT_DELAY, *chosen, levels + FINAL_DELAY]
        return max(after - before for before, after in itertools.pairwise(edges))

    options = itertools.combinations(sorted(places), min(cuts, levels + 1))
    return min(options, key=lambda chosen: (longest(chosen), [-place for place in chosen]))


class Accumulator:
    """One output's accumulator and what is added to it.

    Args:
        m: the column's module.
        name: prefix of generated names.
        width: bits of the accumulator.
        cuts: registers through the heap.
        cut_en: enable of each cut.
    """

    def __init__(self, m: Module, name: str, width: int, *, cuts: int, cut_en: Value | None):
        self.m = m
        self.name = name
        self.width = width
        self.cuts = cuts
        self.cut_en = cut_en
        self.heap = Heap(m, f"{name}_heap", width)
        self.state = Signal(width, name=f"{name}_state", reset_less=True)

    def _register(self, signal: Signal, index: int) -> Signal:
        assert self.cut_en is not None
        register = Signal(
            len(signal), name=f"{signal.name.removesuffix('_d')}_q", reset_less=True
        )
        with self.m.If(self.cut_en[index]):
            self.m.d.sync += register.eq(signal)
        return register

    def close(
        self,
        *,
        enable: Value,
        hold: Value,
        shift: Value,
        planes: int,
        multi_pass: bool,
        addend: Value | None,
        take: Value | None,
    ) -> Value:
        """Reduce the heap into the accumulator; returns ``y``.

        Args:
            enable: a step is accumulated.
            hold: keep ``y``; else start at 0, or with ``shift`` at ``y · 2**planes``.
            addend: ``c`` in units of ``y``, subtracted from ``s`` in the step where ``take`` is set.
        """
        m, width, state = self.m, self.width, self.state
        heap = self.heap
        # ~(hold & ~s | …): one AND-OR-INVERT gate a bit; no leg chosen gives all ones, y = 0.
        legs = hold.replicate(width) & ~state
        if multi_pass:
            doubled = Cat(Const(0, planes), (~state)[: width - planes])
            legs = legs | (shift.replicate(width) & doubled)
        if addend is not None and not multi_pass:
            # The first step is the only one that takes an addend, and it holds nothing.
            legs = legs | (take.replicate(width) & addend)
        row = Signal(width, name=f"{self.name}_row")
        m.d.comb += row.eq(~legs)
        if self.cuts:
            pending = heap.const
            heap.const = 0
            rows = heap.reduce(
                2, cut=self._register, cuts=place_cuts(heap.levels(2), self.cuts)
            )
            heap = Heap(m, f"{self.name}_last", width)
            heap.const = pending
            for item in rows:
                for column, bit in enumerate(item):
                    if not (isinstance(bit, Const) and bit.value == 0):
                        heap.add_row(bit, lsb=column)
        heap.add_row(row)
        if addend is not None and multi_pass:
            taken = Signal(width, name=f"{self.name}_taken")
            m.d.comb += taken.eq(~(take.replicate(width) & addend))
            heap.add_row(taken)
            heap.const += 1
        heap.add_constant()
        left, right = heap.reduce(2)
        total = Signal(width, name=f"{self.name}_next")
        m.d.comb += total.eq(Cat(*left) + Cat(*right))
        with m.If(enable):
            m.d.sync += state.eq(total)
        result = Signal(width, name=f"{self.name}_result")
        m.d.comb += result.eq(~state)
        return result


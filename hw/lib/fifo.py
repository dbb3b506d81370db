"""First in, first out, in flip-flops: the buffer between two elastic parts of a block."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.lib.select import equals


class Fifo(wiring.Component):
    """``depth`` words of ``width`` bits; what is pushed in one cycle is the head in the next.

    Members:
        push, data: put a word in; only while ``room``.
        room: fewer than ``depth`` words are in; a pop in the same cycle makes no room yet.
        pop: take the head away; only while ``some``.
        head, some: the oldest word, if there is one.

    Latency 1 cycle, interval 1 cycle.
    """

    def __init__(self, width: int, depth: int):
        if depth < 1:
            raise ValueError(f"depth: must be at least 1, got {depth}")
        self.width, self.depth = width, depth
        super().__init__(
            {
                "push": In(1),
                "data": In(width),
                "room": Out(1),
                "pop": In(1),
                "head": Out(width),
                "some": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.depth
        slots = [Signal(self.width, name=f"slot_{i}", reset_less=True) for i in range(depth)]
        count = Signal(range(depth + 1))
        put, get = (Signal(range(max(2, depth)), name=name) for name in ("put", "get"))
        with m.If(self.push & ~self.pop):
            m.d.sync += count.eq(count + 1)
        with m.Elif(self.pop & ~self.push):
            m.d.sync += count.eq(count - 1)
        with m.If(self.push):
            m.d.sync += put.eq(put + 1)
            with m.If(put == depth - 1):
                m.d.sync += put.eq(0)
        with m.If(self.pop):
            m.d.sync += get.eq(get + 1)
            with m.If(get == depth - 1):
                m.d.sync += get.eq(0)
        for i, slot in enumerate(slots):
            with m.If(self.push & equals(put, i)):
                m.d.sync += slot.eq(self.data)
        m.d.comb += [
            self.room.eq(count != depth),
            self.some.eq(count != 0),
        ]
        with m.Switch(get):
            for i, slot in enumerate(slots[:-1]):
                with m.Case(i):
                    m.d.comb += self.head.eq(slot)
            with m.Default():
                m.d.comb += self.head.eq(slots[-1])
        return m

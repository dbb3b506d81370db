"""RTL of the table generator."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring

from hw.block import Design
from hw.blocks.lut_core import golden as core
from hw.blocks.lut_core.front import TableGenerator, lanes
from hw.blocks.lut_tables import golden
from hw.blocks.lut_tables.spec import LutTablesSpec
from hw.lib.gemm_shell import component_streams


class LutTables(wiring.Component):
    """Activations in, tables out, one beat a cycle.

    Streams: ``i_a`` and ``o``, see ``golden``. Latency 2 cycles: a register at each port.
    """

    def __init__(self, spec: LutTablesSpec):
        self.spec = spec
        super().__init__(component_streams(golden.streams(spec)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec.core
        held = Signal(len(self.i_a.payload), reset_less=True)
        made = Signal(len(self.o.payload), reset_less=True)
        full = Signal()
        move = Signal()
        m.d.comb += [
            move.eq(full & (~self.o.valid | self.o.ready)),
            self.i_a.ready.eq(~full | move),
        ]
        m.d.sync += [
            full.eq((self.i_a.valid & self.i_a.ready) | (full & ~move)),
            self.o.valid.eq(move | (self.o.valid & ~self.o.ready)),
        ]
        with m.If(self.i_a.valid & self.i_a.ready):
            m.d.sync += held.eq(self.i_a.payload)
        entries: list[Value] = []
        totals: list[Value] = []
        for row in range(spec.tile.m):
            stream = core.activation_stream(spec)
            generator = TableGenerator(m, spec, row, *lanes(spec, stream, held, row))
            found = generator.entries()
            entries += found
            if spec.needs_sum:
                totals.append(generator.total(found))
        with m.If(move):
            m.d.sync += made.eq(Cat(*entries, *totals))
        m.d.comb += self.o.payload.eq(made)
        return m


def build(spec: LutTablesSpec) -> Design:
    """The design of a specification."""
    return Design(top=LutTables(spec))

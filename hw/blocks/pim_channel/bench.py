"""What stands around a channel in simulation: an array of DRAM cells, and a view of its port.

Nothing of this is in a build. The array does what it is told when it is told: it keeps no times and
refuses nothing, so that a command that comes too early is seen by whoever checks the port, not
hidden. Commands and written columns pass ``nCL − 1`` registers in their order, then cells are read
or written; a closed bank gives ones. Of banks of more than :data:`WHOLE` rows eight are kept, each
for all rows of the same two lowest bits and the same highest bit; which row is opened is seen on
the port.
"""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.blocks.pim_channel import golden
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.dram import ALL_BANKS, READS, WRITES, Command
from hw.lib.gemm_shell import component_streams

WHOLE = 64
"""Rows of a bank up to which all of them are kept."""


class CellArray(wiring.Component):
    """The cells of every bank.

    Members: the DRAM's port, see ``golden.wires``, seen from the other side.
    """

    def __init__(self, spec: PimChannelSpec):
        self.spec = spec
        super().__init__(
            {
                wire.name: (Out if wire.direction == "in" else In)(wire.width)
                for wire in golden.wires(spec)
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        geometry = spec.geometry
        names = ("command", "bank", "row", "column", "write")
        late: dict[str, Value] = {name: getattr(self, f"dram_{name}") for name in names}
        for number in range(1, spec.timing.nCL):
            following: dict[str, Value] = {}
            for name, value in late.items():
                following[name] = Signal(len(value), name=f"{name}_{number}")
                m.d.sync += following[name].eq(value)
            late = following
        command = late["command"]

        def one_of(commands: tuple[Command, ...]) -> Value:
            return Cat(*(command == int(each) for each in commands)).any()

        to_all = one_of(ALL_BANKS)
        columns = (geometry.columns - 1).bit_length()
        for bank in range(geometry.total_banks):
            mine = Signal(name=f"mine_{bank}")
            is_open = Signal(name=f"open_{bank}")
            row = Signal(len(late["row"]), name=f"row_{bank}")
            m.d.comb += mine.eq(to_all | (late["bank"] == bank))
            with m.If(mine & one_of((Command.ACT, Command.ACTA))):
                m.d.sync += [is_open.eq(1), row.eq(late["row"])]
            with m.If(mine & one_of((Command.PRE, Command.PREA))):
                m.d.sync += is_open.eq(0)
            kept: Value = row if geometry.rows <= WHOLE else Cat(row[:2], row[-1])
            memory = Memory(shape=geometry.column_bits, depth=1 << (len(kept) + columns), init=[])
            m.submodules[f"cells_{bank}"] = memory
            write, read = memory.write_port(), memory.read_port()
            place = Cat(late["column"][:columns], kept)
            read_open = Signal(name=f"read_open_{bank}")
            m.d.sync += read_open.eq(mine & is_open & one_of(READS))
            bits = geometry.column_bits
            m.d.comb += [
                write.en.eq(mine & is_open & one_of(WRITES)),
                write.addr.eq(place),
                write.data.eq(late["write"]),
                read.addr.eq(place),
                self.dram_read.word_select(bank, bits).eq(
                    Mux(read_open, read.data, Const((1 << bits) - 1, bits))
                ),
            ]
        return m


class Around(wiring.Component):
    """A channel with its array; ``o_trace`` shows every command in the cycle of the port."""

    def __init__(self, spec: PimChannelSpec):
        self.spec = spec
        self.streams = (*golden.streams(spec), *golden.observed(spec))
        super().__init__(component_streams(self.streams))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        wires = {wire.name: Signal(wire.width, name=wire.name) for wire in golden.wires(spec)}
        sides = {
            wire.name: ("i", "o") if wire.direction == "in" else ("o", "i")
            for wire in golden.wires(spec)
        }
        clocking = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        host = {}
        for item in golden.streams(spec):
            port = getattr(self, item.name)
            ahead, back = ("i", "o") if item.direction == "in" else ("o", "i")
            host[f"{ahead}_{item.name}__payload"] = port.payload
            host[f"{ahead}_{item.name}__valid"] = port.valid
            host[f"{back}_{item.name}__ready"] = port.ready
        m.submodules.channel = Instance(
            spec.name,
            **clocking,
            **host,
            **{f"{sides[name][0]}_{name}": wire for name, wire in wires.items()},
        )
        m.submodules.cells = Instance(
            f"{spec.name}_cells",
            **clocking,
            **{f"{sides[name][1]}_{name}": wire for name, wire in wires.items()},
        )
        m.d.comb += [
            self.o_trace.valid.eq(wires["dram_command"] != Command.NOP),
            self.o_trace.payload.eq(
                Cat(*(wires[f"dram_{item.name}"] for item in self.streams[-1].fields))
            ),
        ]
        return m


def build(spec: PimChannelSpec) -> Design:
    """The design of the bench, without the channel's own modules."""
    return Design(top=Around(spec), parts={f"{spec.name}_cells": CellArray(spec)})

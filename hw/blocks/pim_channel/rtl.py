"""RTL of a PIM channel: order decoder, sequencer, refresh, global buffer, units of the banks.

What the sequencer waits for is made from data: :func:`hw.dram.constraints` and
:func:`hw.blocks.pim_channel.orders.interlocks`. Each row's earlier commands have a counter of the
cycles since the last of them, on each bank, group or the channel; a command is let out where every
counter that a row names has come far enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from amaranth.hdl import (
    Cat,
    ClockSignal,
    Const,
    Instance,
    Module,
    Mux,
    ResetSignal,
    Signal,
    Value,
    signed,
)
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.blocks.pim_bank import golden as unit_golden
from hw.blocks.pim_bank import rtl as unit_rtl
from hw.blocks.pim_channel import golden, orders
from hw.blocks.pim_channel.orders import Op, Status, Step
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.dram import ALL_BANKS, Command, Scope, constraints
from hw.lib.fifo import Fifo
from hw.lib.float_ops import add, factor, multiply, registers
from hw.lib.floats import unpack
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY

NOTHING, READ, MAC, MAC_ALL, FUNCTION, COPY, MULTIPLY, SUM = range(8)
"""What a column is for when it comes."""


class Ages:
    """Cycles since the last of some commands or steps, counted no further than anybody asks.

    Args:
        asked: cycles that are asked for.
        event: high in a cycle with such a command.
    """

    def __init__(self, m: Module, name: str, asked: Iterable[int], event: Value):
        self.most = max(asked)
        self.count = Signal(range(self.most + 1), name=name, init=self.most)
        self.m, self.name = m, name
        self._made: dict[int, Signal] = {}
        with m.If(event):
            m.d.sync += self.count.eq(1)
        with m.Elif(self.count != self.most):
            m.d.sync += self.count.eq(self.count + 1)

    def at_least(self, cycles: int) -> Signal:
        """Whether the last one is so many cycles ago, or never was."""
        if cycles not in self._made:
            enough = Signal(name=f"{self.name}_{cycles}")
            self.m.d.comb += enough.eq(self.count >= cycles)
            self._made[cycles] = enough
        return self._made[cycles]


class Sequencer(wiring.Component):
    """Which command goes out: the state of every bank, every counter, refresh.

    Members:
        want, step, bank, row: the order at hand has such a step next; its place.
        fit: the step has all else that it needs (data, places, its first one's interlocks).
        fresh: nothing of the order has been done, or it waits for the host.
        go: the step is done in this cycle.
        command, command_bank, command_row: what goes to the port in this cycle, NOP if nothing.
    """

    def __init__(self, spec: PimChannelSpec):
        self.spec = spec
        geometry = spec.geometry
        self.bank_bits = max(1, (geometry.total_banks - 1).bit_length())
        self.row_bits = max(1, (geometry.rows - 1).bit_length())
        super().__init__(
            {
                "want": In(1),
                "step": In(4),
                "bank": In(self.bank_bits),
                "row": In(self.row_bits),
                "fit": In(1),
                "fresh": In(1),
                "go": Out(1),
                "command": Out(4),
                "command_bank": Out(self.bank_bits),
                "command_row": Out(self.row_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        geometry, timing = spec.geometry, spec.timing
        banks = range(geometry.total_banks)

        issued: dict[Command, Signal] = {
            command: Signal(name=f"is_{command.name.lower()}")
            for command in Command
            if command is not Command.NOP
        }
        m.d.comb += [flag.eq(self.command == command) for command, flag in issued.items()]
        here = [Signal(name=f"at_bank_{bank}") for bank in banks]
        m.d.comb += [flag.eq(self.command_bank == bank) for bank, flag in enumerate(here)]

        # Counters, and for each command whether those of its rows have come far enough.
        allowed = self._allowed(m, issued, here)

        # Open rows.
        is_open = Signal(len(banks), name="open")
        rows = [Signal(self.row_bits, name=f"row_{bank}", reset_less=True) for bank in banks]
        match = Signal(len(banks))
        for bank in banks:
            opens = Signal(name=f"opens_{bank}")
            closes = Signal(name=f"closes_{bank}")
            m.d.comb += [
                opens.eq(issued[Command.ACTA] | (issued[Command.ACT] & here[bank])),
                closes.eq(issued[Command.PREA] | (issued[Command.PRE] & here[bank])),
                match[bank].eq(is_open[bank] & (rows[bank] == self.row)),
            ]
            with m.If(opens):
                m.d.sync += [is_open[bank].eq(1), rows[bank].eq(self.command_row)]
            with m.If(closes):
                m.d.sync += is_open[bank].eq(0)

        # Refreshes that are due.
        most = spec.refresh_postpone + 2
        since = Signal(range(timing.nREFI))
        owed = Signal(range(most + 1))
        tick, paid = Signal(), issued[Command.REF]
        m.d.comb += tick.eq(since == timing.nREFI - 1)
        m.d.sync += since.eq(since + 1)
        with m.If(tick):
            m.d.sync += since.eq(0)
        m.d.sync += owed.eq(owed + tick - paid)
        under_way, refresh = Signal(), Signal()
        m.d.comb += refresh.eq(
            under_way | (owed > spec.refresh_postpone) | (owed.any() & (self.fresh | ~self.want))
        )
        m.d.sync += under_way.eq(refresh & ~paid)

        # The step's own command, to the bank at hand or to all.
        every = Signal()
        m.d.comb += every.eq(_is(self.step, (Step.WRA, Step.MACA, Step.AF)))
        inside = Signal()
        m.d.comb += inside.eq(~_is(self.step, orders.COMMANDS))
        hit, some = Signal(), Signal()
        mine = Signal(len(banks))
        m.d.comb += [
            mine.eq(Mux(every, (1 << len(banks)) - 1, 1 << self.bank)),
            hit.eq(~(mine & ~match).any()),
            some.eq((mine & is_open).any()),
        ]
        everyone = Const((1 << len(banks)) - 1, len(banks))
        free: dict[Command, Signal] = {
            command: allowed(command, everyone if command in _TO_ALL else mine)
            for command in Command
            if command is not Command.NOP
        }
        column = Signal(4)
        column_free = Signal()
        with m.Switch(self.step):
            for step, command in orders.COMMANDS.items():
                with m.Case(int(step)):
                    m.d.comb += [column.eq(command), column_free.eq(free[command])]
        m.d.comb += [self.command_bank.eq(self.bank), self.command_row.eq(self.row)]
        with m.If(refresh):
            with m.If(is_open.any()), m.If(free[Command.PREA]):
                m.d.comb += self.command.eq(Command.PREA)
            with m.Elif(free[Command.REF]):
                m.d.comb += self.command.eq(Command.REF)
        with m.Elif(self.want):
            with m.If(inside):
                m.d.comb += self.go.eq(self.fit)
            with m.Elif(hit), m.If(self.fit & column_free):
                m.d.comb += [self.go.eq(1), self.command.eq(column)]
            with m.Elif(some):
                with m.If(every), m.If(free[Command.PREA]):
                    m.d.comb += self.command.eq(Command.PREA)
                with m.Elif(free[Command.PRE]):
                    m.d.comb += self.command.eq(Command.PRE)
            with m.Elif(every), m.If(free[Command.ACTA]):
                m.d.comb += self.command.eq(Command.ACTA)
            with m.Elif(free[Command.ACT]):
                m.d.comb += self.command.eq(Command.ACT)
        return m

    def _allowed(
        self, m: Module, issued: Mapping[Command, Signal], here: Sequence[Signal]
    ) -> _Allowed:
        """Counters for every row of the table."""
        geometry = self.spec.geometry
        table = constraints(self.spec.timing)
        asked: dict[tuple[Scope, tuple[Command, ...]], list[int]] = {}
        for row in table:
            asked.setdefault((row.scope, row.before), []).append(row.cycles)
        places = {
            Scope.BANK: [[bank] for bank in range(geometry.total_banks)],
            Scope.GROUP: [
                [bank for bank in range(geometry.total_banks) if geometry.group(bank) == group]
                for group in range(geometry.groups)
            ],
            Scope.CHANNEL: [list(range(geometry.total_banks))],
        }
        counters: dict[tuple[Scope, tuple[Command, ...]], list[Ages]] = {}
        for number, (key, cycles) in enumerate(asked.items()):
            scope, before = key
            counters[key] = []
            for index, banks in enumerate(places[scope]):
                to_all = [issued[command] for command in before if command in ALL_BANKS]
                to_one = [issued[command] for command in before if command not in ALL_BANKS]
                event = Signal(name=f"event_{number}_{index}")
                at = Cat(*(here[bank] for bank in banks)).any()
                if scope is Scope.CHANNEL:
                    at = Const(1, 1)
                one = Cat(*to_one).any() if to_one else Const(0, 1)
                every = Cat(*to_all).any() if to_all else Const(0, 1)
                m.d.comb += event.eq(every | (one & at))
                counters[key].append(
                    Ages(m, f"since_{number}_{scope.value}_{index}", cycles, event)
                )
        return _Allowed(m, self.spec, counters)


_TO_ALL = (Command.PREA, Command.REF, Command.ACTA)
"""Commands that are only ever asked for on every bank; columns go by their own mask."""


class _Allowed:
    """Whether a command may go to the banks of a mask, by the counters."""

    def __init__(
        self,
        m: Module,
        spec: PimChannelSpec,
        counters: Mapping[tuple[Scope, tuple[Command, ...]], list[Ages]],
    ):
        self.m, self.spec, self.counters = m, spec, counters

    def __call__(self, command: Command, mask: Value) -> Signal:
        free = Signal(name=f"free_{command.name.lower()}")
        self.m.d.comb += free.eq(Cat(*self._terms(command, mask)).all())
        return free

    def _terms(self, command: Command, mask: Value) -> list[Value]:
        geometry = self.spec.geometry
        terms: list[Value] = [Const(1, 1)]
        for row in constraints(self.spec.timing):
            if command not in row.after:
                continue
            ages = self.counters[(row.scope, row.before)]
            if row.scope is Scope.CHANNEL:
                terms.append(ages[0].at_least(row.cycles))
                continue
            for index, age in enumerate(ages):
                if row.scope is Scope.BANK:
                    touched: Value = mask[index]
                else:
                    banks = [b for b in range(len(mask)) if geometry.group(b) == index]
                    touched = Cat(*(mask[bank] for bank in banks)).any()
                terms.append(~touched | age.at_least(row.cycles))
        return terms


def _is(value: Value, members: Iterable[int]) -> Value:
    """Whether a value is one of some constants."""
    return Cat(*(value == int(member) for member in members)).any()


class Buffer(wiring.Component):
    """The global buffer: a memory with a read port and a write port, a word a cycle each.

    A row holds the words of a step's activations. What is read is there in the next cycle, as it
    was before a write of the same cycle.

    Members:
        write, write_word, data: a word is written.
        read_word, row: the row that holds a word, in the next cycle.
    """

    def __init__(self, spec: PimChannelSpec):
        self.bits = spec.geometry.column_bits
        self.pieces = spec.bank.operand_words
        self.rows = spec.buffer_words // self.pieces
        self.word_bits = max(1, (spec.buffer_words - 1).bit_length())
        super().__init__(
            {
                "write": In(1),
                "write_word": In(self.word_bits),
                "data": In(self.bits),
                "read_word": In(self.word_bits),
                "row": Out(self.bits * self.pieces),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low = (self.pieces - 1).bit_length()
        for piece in range(self.pieces):
            memory = Memory(shape=self.bits, depth=self.rows, init=[])
            m.submodules[f"memory_{piece}"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.write & (self.write_word[:low] == piece if low else 1)),
                write.addr.eq(self.write_word[low:]),
                write.data.eq(self.data),
                read.addr.eq(self.read_word[low:]),
                self.row.word_select(piece, self.bits).eq(read.data),
            ]
        return m


class Element(wiring.Component):
    """Product or sum of two elements, ``Elementwise.latency`` less one cycles later.

    Members:
        a, b: elements.
        multiply: their product, else their sum.
        o: in the number format, rounded to nearest even; integers are saturated.
    """

    def __init__(self, spec: PimChannelSpec):
        self.spec = spec
        bits = spec.elementwise.bits
        super().__init__({"a": In(bits), "b": In(bits), "multiply": In(1), "o": Out(bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kind = self.spec.elementwise
        bits, form = kind.bits, kind.form
        if form is None:
            a, b = self.a.as_signed(), self.b.as_signed()
            product = Signal(signed(2 * bits), name="product")
            value = Signal(signed(2 * bits), name="value", reset_less=True)
            m.d.comb += product.eq(a * b)
            m.d.sync += value.eq(Mux(self.multiply, product >> kind.shift, a + b))
            above = value.as_unsigned()[bits - 1 :]
            fits = Signal()
            m.d.comb += [
                fits.eq(~above.any() | above.all()),
                self.o.eq(
                    Mux(
                        fits,
                        value.as_unsigned()[:bits],
                        Cat((~value[-1]).replicate(bits - 1), value[-1]),
                    )
                ),
            ]
            return m
        cut = registers(m, "multiply", ("product", "moved", "rounded"))
        product = multiply(
            m,
            "multiply",
            form,
            factor(form, unpack(m, "a", form, self.a)),
            factor(form, unpack(m, "b", form, self.b)),
            cut=cut,
        )
        product = cut("rounded", "code", product)
        cut = registers(m, "add", ("aligned", "counted", "rounded"))
        total = cut("rounded", "code", add(m, "add", form, self.a, self.b, cut=cut))
        chosen: Value = self.multiply
        for number in range(kind.latency - 1):
            register = Signal(name=f"multiply_{number}", reset_less=True)
            m.d.sync += register.eq(chosen)
            chosen = register
        m.d.comb += self.o.eq(Mux(chosen, product, total))
        return m


class PimChannel(wiring.Component):
    """Orders one after another; columns, operands and results in flight behind them.

    Streams and the DRAM's port are those of ``golden``. An order stands in a register, is checked
    on its way into the next, and is worked on there, step by step. Commands pass two registers to
    the port; a line of registers keeps what each column is for until it comes.

    Parts by name: ``<name>_sequencer``, ``<name>_buffer`` (to be replaced by a memory macro),
    ``<name>_element`` and ``<name>_bank``.
    """

    def __init__(self, spec: PimChannelSpec):
        self.spec = spec
        self.streams = {item.name: item for item in golden.streams(spec)}
        self.sequencer, self.buffer = Sequencer(spec), Buffer(spec)
        wires = {
            wire.name: (In if wire.direction == "in" else Out)(wire.width)
            for wire in golden.wires(spec)
        }
        super().__init__({**component_streams(tuple(self.streams.values())), **wires})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        item = self.streams["i_cmd"]

        # An order at the port, then the order at hand.
        waiting, active = Signal(), Signal()
        held = Signal(item.width, reset_less=True)
        load, done = Signal(), Signal()
        m.d.comb += [
            load.eq(waiting & (~active | done)),
            self.i_cmd.ready.eq(~waiting | load),
        ]
        m.d.sync += [
            waiting.eq(self.i_cmd.valid | (waiting & ~load)),
            active.eq(load | (active & ~done)),
        ]
        with m.If(self.i_cmd.valid & self.i_cmd.ready):
            m.d.sync += held.eq(self.i_cmd.payload)
        given = {entry.name: field_slice(item, held, entry.name) for entry in item.fields}
        code = self._check(m, given)
        at = self._order(m, given, code, load)

        # What comes from the host, and what goes there.
        data_full, data_take = Signal(), Signal()
        data = Signal(spec.geometry.column_bits, reset_less=True)
        m.d.comb += self.i_data.ready.eq(~data_full | data_take)
        m.d.sync += data_full.eq(self.i_data.valid | (data_full & ~data_take))
        with m.If(self.i_data.valid & self.i_data.ready):
            m.d.sync += data.eq(self.i_data.payload)
        statuses, columns = Fifo(3, 2), Fifo(spec.geometry.column_bits, spec.read_depth)
        m.submodules.statuses, m.submodules.columns = statuses, columns
        places = Signal(range(spec.read_depth + 1), init=spec.read_depth)
        for fifo, port in ((statuses, self.o_status), (columns, self.o_data)):
            m.d.comb += fifo.pop.eq(fifo.some & (~port.valid | port.ready))
            m.d.sync += port.valid.eq(fifo.pop | (port.valid & ~port.ready))
            with m.If(fifo.pop):
                m.d.sync += port.payload.eq(fifo.head)

        # The step at hand.
        step, begun = at["step"], at["begun"]
        go, last = Signal(), Signal()
        takes, gives = Signal(), Signal()
        lacks, interlocked = Signal(), Signal()
        m.d.comb += [
            takes.eq(_is(step, orders.TAKES_DATA)),
            gives.eq(_is(step, orders.GIVES_DATA)),
            last.eq(~at["left"][1:].any() & self._last_pass(at) & (step != Step.FETCH)),
            lacks.eq((takes & ~data_full) | (gives & ~places.any()) | (last & ~statuses.room)),
            interlocked.eq(self._interlocked(m, step, begun, go)),
        ]
        sequencer = self.sequencer
        command = Signal(4)
        command_bank = Signal(sequencer.bank_bits)
        command_row = Signal(sequencer.row_bits)
        m.submodules.sequencer = Instance(
            f"{spec.name}_sequencer",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_want=active,
            i_step=step,
            i_bank=at["bank"],
            i_row=at["place"][self.column_bits :],
            i_fit=~lacks & ~interlocked,
            i_fresh=~begun | lacks,
            o_go=go,
            o_command=command,
            o_command_bank=command_bank,
            o_command_row=command_row,
        )
        m.d.comb += [
            done.eq(go & last),
            data_take.eq(go & takes),
            statuses.push.eq(done),
            statuses.data.eq(at["code"]),
        ]
        m.d.sync += places.eq(places + columns.pop - (go & gives))
        self._advance(m, at, given, code, go=go, load=load)

        row = Signal(self.buffer.bits * self.buffer.pieces, name="buffer_row")
        flight = self._flight(m, at, go)
        self._port(m, at, (command, command_bank, command_row), data, row)
        self._arrive(m, at, flight, row, go=go, last=last, data=data, columns=columns)
        return m

    @property
    def column_bits(self) -> int:
        """Bits of a place that are the column."""
        return (self.spec.geometry.columns - 1).bit_length()

    def _check(self, m: Module, given: Mapping[str, Value]) -> Signal:
        """The status of an order, see :meth:`orders.Decoder.status`."""
        know = orders.Decoder(self.spec)
        op, length = given["op"], given["length"]
        dot = _is(op, orders.DOT)
        activate = op == Op.ACTIVATE
        table: Value = Const(0, 1)
        if know.table_columns:
            table = activate & (given["function"] == orders.TABLE)
        simple = _is(given["function"], (orders.IDENTITY, orders.RELU))
        reach = Signal(32, name="reach")
        words = Signal(32, name="words")
        m.d.comb += [
            reach.eq(
                Mux(
                    activate,
                    know.table_columns,
                    Mux(dot, length * know.weight_blocks, length),
                )
            ),
            words.eq(Mux(dot, length * (know.activation_blocks * know.operand_words), length)),
        ]
        place = Signal(32, name="place_asked")
        m.d.comb += place.eq(given["row"] * know.columns + given["column"])
        low = (know.operand_words - 1).bit_length()
        aligned = ~given["word"][:low].any() if low else Const(1, 1)
        wrong: list[tuple[Status, Value]] = [
            (Status.OPCODE, ~_is(op, know.known) | (activate & ~simple & ~table)),
            (
                Status.LENGTH,
                _is(op, orders.COUNTED) & (~length.any() | (dot & (length > know.most_steps))),
            ),
            (Status.BANK, _is(op, orders.ONE_BANK) & (given["bank"] >= know.banks)),
            (
                Status.PLACE,
                (_is(op, orders.PLACED) | table)
                & (
                    (given["row"] >= know.rows)
                    | (given["column"] >= know.columns)
                    | (place + reach > know.rows * know.columns)
                ),
            ),
            (
                Status.BUFFER,
                _is(op, orders.BUFFERED)
                & ((dot & ~aligned) | (given["word"] + words > know.buffer_words)),
            ),
            (
                Status.ACCUMULATOR,
                _is(op, orders.ACCUMULATED) & (given["accumulator"] >= know.accumulators),
            ),
        ]
        code = Signal(3, name="code")
        for status, condition in reversed(wrong):
            with m.If(condition):
                m.d.comb += code.eq(status)
        return code

    def _order(
        self, m: Module, given: Mapping[str, Value], code: Signal, load: Signal
    ) -> dict[str, Signal]:
        """The order at hand: what it is, and where it stands."""
        spec = self.spec
        place_bits = self.sequencer.row_bits + self.column_bits
        widths = {
            "step": 4,
            "code": 3,
            "begun": 1,
            "bank": self.sequencer.bank_bits,
            "place": place_bits,
            "base_place": place_bits,
            "word": self.buffer.word_bits,
            "base_word": self.buffer.word_bits,
            "length": orders.WIDTHS.length,
            "left": orders.WIDTHS.length,
            "pass": max(1, (len(spec.bank.passes) - 1).bit_length()),
            "accumulator": spec.bank.accumulator_index_bits,
            "keep": 1,
            "function": 1,
            "multiply": 1,
        }
        at = {name: Signal(width, name=f"at_{name}") for name, width in widths.items()}
        step = Signal(4, name="first_step")
        with m.Switch(given["op"]):
            for op, first in orders.STEPS.items():
                with m.Case(int(op)):
                    m.d.comb += step.eq(first)
            with m.Default():
                table = given["function"] == orders.TABLE
                m.d.comb += step.eq(Mux(table, Step.AF, Step.FUNCTION))
        left = Signal(orders.WIDTHS.length, name="first_left")
        m.d.comb += left.eq(given["length"])
        single = _is(step, (Step.BIAS, Step.FUNCTION, Step.FETCH))
        with m.If(code.any() | single):
            m.d.comb += left.eq(1)
        with m.Elif(step == Step.AF):
            m.d.comb += left.eq(spec.bank.table_columns)
        dot = _is(step, (Step.MAC, Step.MACA))
        place = Signal(place_bits, name="asked")
        m.d.comb += place.eq(Cat(given["column"][: self.column_bits], given["row"]))
        activations, weights = spec.bank.passes[0]
        pieces = self.buffer.pieces
        with m.If(load):
            m.d.sync += [
                at["step"].eq(Mux(code.any(), Step.REFUSE, step)),
                at["code"].eq(code),
                at["begun"].eq(0),
                at["bank"].eq(given["bank"]),
                at["place"].eq(place + Mux(dot, given["length"] * weights, 0)),
                at["base_place"].eq(place),
                at["word"].eq(
                    given["word"] + Mux(dot, given["length"] * (activations * pieces), 0)
                ),
                at["base_word"].eq(given["word"]),
                at["length"].eq(given["length"]),
                at["left"].eq(left),
                at["pass"].eq(Mux(dot & ~code.any(), 0, len(spec.bank.passes) - 1)),
                at["accumulator"].eq(given["accumulator"]),
                at["keep"].eq(given["keep"]),
                at["function"].eq(given["function"] == orders.RELU),
                at["multiply"].eq(given["op"] == Op.MULTIPLY),
            ]
        return at

    def _last_pass(self, at: Mapping[str, Signal]) -> Value:
        return at["pass"] == len(self.spec.bank.passes) - 1

    def _advance(
        self,
        m: Module,
        at: Mapping[str, Signal],
        given: Mapping[str, Value],
        code: Signal,
        *,
        go: Signal,
        load: Signal,
    ) -> None:
        """On to the next step; a new order wins."""
        spec, passes = self.spec, self.spec.bank.passes
        pieces = self.buffer.pieces
        dot = _is(at["step"], (Step.MAC, Step.MACA))
        with m.If(go & ~load):
            m.d.sync += [
                at["begun"].eq(1),
                at["left"].eq(at["left"] - 1),
                at["place"].eq(at["place"] + 1),
                at["word"].eq(at["word"] + Mux(dot, pieces, 1)),
            ]
            with m.If(at["step"] == Step.FETCH):
                m.d.sync += [at["step"].eq(Step.GIVE), at["left"].eq(spec.give_beats)]
            if len(passes) > 1:
                # On to the next pass: its blocks begin at multiples of the K steps.
                following = {}
                for side, name in enumerate(("next_activations", "next_weights")):
                    most = max(pair[side] for pair in passes)
                    following[name] = Signal(range(max(2, most + 1)), name=name)
                with m.Switch(at["pass"]):
                    for number, (activations, weights) in enumerate(passes[1:]):
                        with m.Case(number):
                            m.d.comb += [
                                following["next_activations"].eq(activations),
                                following["next_weights"].eq(weights),
                            ]
                with m.If(~at["left"][1:].any() & ~self._last_pass(at)):
                    m.d.sync += [
                        at["pass"].eq(at["pass"] + 1),
                        at["left"].eq(at["length"]),
                        at["place"].eq(at["base_place"] + at["length"] * following["next_weights"]),
                        at["word"].eq(
                            at["base_word"] + at["length"] * following["next_activations"] * pieces
                        ),
                    ]

    def _interlocked(self, m: Module, step: Signal, begun: Signal, go: Signal) -> Value:
        """Whether the step has to wait for what orders before it have under way."""
        rows = orders.interlocks(self.spec)
        asked: dict[tuple[Step, ...], list[int]] = {}
        for row in rows:
            asked.setdefault(row.before, []).append(row.cycles)
        ages = {}
        for number, (before, cycles) in enumerate(asked.items()):
            event = Signal(name=f"step_event_{number}")
            m.d.comb += event.eq(go & _is(step, before))
            ages[before] = Ages(m, f"since_step_{number}", cycles, event)
        waits = []
        for row in rows:
            wait = _is(step, row.after) & ~ages[row.before].at_least(row.cycles)
            waits.append(wait & ~begun if row.first else wait)
        return Cat(*waits).any()

    def _flight(self, m: Module, at: Mapping[str, Signal], go: Signal) -> list[dict[str, Value]]:
        """What each column in flight is for; entry ``n`` is that of ``n`` cycles before."""
        spec = self.spec
        kind = Signal(3, name="flight_kind")
        kinds = {
            Step.RD: READ,
            Step.MAC: MAC,
            Step.MACA: MAC_ALL,
            Step.AF: FUNCTION,
            Step.CP: COPY,
        }
        with m.If(go), m.Switch(at["step"]):
            for step, value in kinds.items():
                with m.Case(int(step)):
                    m.d.comb += kind.eq(value)
            with m.Case(int(Step.EW)):
                m.d.comb += kind.eq(Mux(at["multiply"], MULTIPLY, SUM))
        steps = (spec.bank.core.max_k_steps - 1).bit_length() or 1
        entry: dict[str, Value] = {
            "kind": kind,
            "bank": at["bank"],
            "word": at["word"],
            "first": ~at["begun"],
            "keep": at["keep"],
            "accumulator": at["accumulator"],
            "k_steps_m1": (at["length"] - 1)[:steps],
        }
        operation = ("first", "keep", "accumulator", "k_steps_m1")
        flight = [entry]
        for number in range(1, spec.arrival + 1):
            following: dict[str, Value] = {}
            for name, value in flight[-1].items():
                # What an operation is made of is not needed when its column comes.
                if name in operation and number > spec.arrival - 2:
                    continue
                register = Signal(len(value), name=f"{name}_{number}", reset_less=name != "kind")
                m.d.sync += register.eq(value)
                following[name] = register
            flight.append(following)
        return flight

    def _port(
        self,
        m: Module,
        at: Mapping[str, Signal],
        command: tuple[Signal, Signal, Signal],
        data: Signal,
        row: Signal,
    ) -> None:
        """The DRAM's port, and the register before it, in which a word of the buffer comes."""
        code, bank, place_row = command
        bits = self.buffer.bits
        low = (self.buffer.pieces - 1).bit_length()
        values: dict[str, Value] = {
            "command": code,
            "bank": bank,
            "row": place_row,
            "column": at["place"][: self.column_bits] if self.column_bits else Const(0, 1),
            "write": data,
            "copies": at["step"] == Step.CPW,
            "piece": at["word"][:low],
        }
        staged = {}
        for name, value in values.items():
            if not len(value):
                continue
            register = Signal(len(value), name=f"staged_{name}", reset_less=name != "command")
            m.d.sync += register.eq(value)
            staged[name] = register
        word: Value = row
        if low:
            word = row.word_select(staged["piece"], bits)
        held = {}
        for name in ("command", "bank", "row", "column", "write"):
            value = staged[name]
            if name == "write":
                value = Mux(staged["copies"], word, value)
            held[name] = Signal(
                len(staged[name]), name=f"port_{name}", reset_less=name != "command"
            )
            m.d.sync += held[name].eq(value)
            m.d.comb += getattr(self, f"dram_{name}").eq(held[name])

    def _arrive(
        self,
        m: Module,
        at: Mapping[str, Signal],
        flight: list[dict[str, Value]],
        row: Signal,
        *,
        go: Signal,
        last: Signal,
        data: Signal,
        columns: Fifo,
    ) -> None:
        """Columns to where they are wanted: units, buffer, host."""
        spec = self.spec
        banks = range(spec.geometry.total_banks)
        bits, pieces = self.buffer.bits, self.buffer.pieces
        low = (pieces - 1).bit_length()
        arriving, ahead, before = flight[-1], flight[-2], flight[-3]
        step = at["step"]

        # The buffer's reading side: a word that a column meets, else one that is copied.
        meets = _is(ahead["kind"], (MAC, MAC_ALL, MULTIPLY, SUM))
        write, write_word, written = (
            Signal(name="buffer_write"),
            Signal(self.buffer.word_bits, name="buffer_word"),
            Signal(bits, name="buffer_data"),
        )
        m.submodules.buffer = Instance(
            f"{spec.name}_buffer",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_write=write,
            i_write_word=write_word,
            i_data=written,
            i_read_word=Mux(meets, ahead["word"], at["word"]),
            o_row=row,
        )

        picked = Signal(bits, name="column_of_bank")
        with m.Switch(arriving["bank"]):
            for bank in banks:
                with m.Case(bank):
                    m.d.comb += picked.eq(self.dram_read.word_select(bank, bits))

        # Units.
        immediate, given = Signal(name="op_now"), Signal(name="op_given")
        now = {
            "kind": Signal(2, name="op_kind", reset_less=True),
            "accumulator": Signal(len(at["accumulator"]), name="op_index", reset_less=True),
            "function": Signal(2, name="op_function", reset_less=True),
        }
        biases = Signal(16 * len(banks), name="op_biases", reset_less=True)
        m.d.comb += given.eq(go & _is(step, (Step.BIAS, Step.FUNCTION, Step.FETCH)))
        m.d.sync += immediate.eq(given)
        with m.If(given):
            m.d.sync += [
                now["kind"].eq(
                    Mux(
                        step == Step.BIAS,
                        unit_rtl.BIAS,
                        Mux(step == Step.FETCH, unit_rtl.READ, unit_rtl.ACTIVATE),
                    )
                ),
                now["accumulator"].eq(at["accumulator"]),
                now["function"].eq(Mux(at["function"], orders.RELU, orders.IDENTITY)),
                biases.eq(data),
            ]
        begins = before["first"] & _is(before["kind"], (MAC, MAC_ALL, FUNCTION))
        table = before["kind"] == FUNCTION
        op: dict[str, Value] = {
            "kind": Mux(immediate, now["kind"], Mux(table, unit_rtl.ACTIVATE, unit_rtl.MAC)),
            "accumulator": Mux(immediate, now["accumulator"], before["accumulator"]),
            "keep": before["keep"],
            "function": Mux(immediate, now["function"], orders.TABLE),
            "k_steps_m1": before["k_steps_m1"],
        }
        fields = next(i for i in unit_golden.streams(spec.bank) if i.name == "i_op").fields
        given_last = Signal(name="accumulators_given")
        m.d.comb += given_last.eq(go & last & (step == Step.GIVE))
        lanes: list[Value] = []
        for bank in banks:
            mine = Signal(name=f"op_mine_{bank}")
            comes = Signal(name=f"column_mine_{bank}")
            m.d.comb += [
                mine.eq(
                    immediate | (begins & ((before["kind"] != MAC) | (before["bank"] == bank)))
                ),
                comes.eq((arriving["kind"] != MAC) | (arriving["bank"] == bank)),
            ]
            op["bias"] = biases.word_select(bank, 16)
            result = Signal(spec.unit.accumulator_bits, name=f"accumulator_of_{bank}")
            m.submodules[f"bank_{bank}"] = Instance(
                f"{spec.name}_bank",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_i_op__payload=Cat(*(op[entry.name][: entry.width] for entry in fields)),
                i_i_op__valid=mine,
                i_i_a__payload=row,
                i_i_a__valid=_is(arriving["kind"], (MAC, MAC_ALL)) & comes,
                i_i_w__payload=self.dram_read.word_select(bank, bits),
                i_i_w__valid=_is(arriving["kind"], (MAC, MAC_ALL, FUNCTION)) & comes,
                o_o__payload=result,
                i_o__ready=given_last,
            )
            top = Const(0, 1) if spec.bank.fp32 else result[-1]
            lanes.append(Cat(result, top.replicate(spec.lane_bits - len(result))))

        # To the host.
        beat = Signal(bits, name="accumulators_beat")
        wide = Cat(*lanes, Const(0, max(0, spec.give_beats * bits - len(Cat(*lanes)))))
        with m.Switch(at["left"]):
            for number in range(spec.give_beats):
                with m.Case(spec.give_beats - number):
                    m.d.comb += beat.eq(wide.word_select(number, bits))
        gives = Signal(name="gives")
        m.d.comb += [
            gives.eq(go & (step == Step.GIVE)),
            columns.push.eq(gives | (arriving["kind"] == READ)),
            columns.data.eq(Mux(gives, beat, picked)),
        ]

        # The buffer's writing side: the host, a copy, a combination.
        with m.If(go & (step == Step.BUFFER)):
            m.d.comb += [write.eq(1), write_word.eq(at["word"]), written.eq(data)]
        with m.If(arriving["kind"] == COPY):
            m.d.comb += [write.eq(1), write_word.eq(arriving["word"]), written.eq(picked)]
        kind = spec.elementwise
        if kind.format == "none":
            return
        operand: Value = row
        if low:
            operand = row.word_select(arriving["word"][:low], bits)
        combined = []
        for number in range(bits // kind.bits):
            element = Signal(kind.bits, name=f"element_{number}")
            m.submodules[f"element_{number}"] = Instance(
                f"{spec.name}_element",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_a=operand.word_select(number, kind.bits),
                i_b=picked.word_select(number, kind.bits),
                i_multiply=arriving["kind"] == MULTIPLY,
                o_o=element,
            )
            combined.append(element)
        there: Value = _is(arriving["kind"], (MULTIPLY, SUM))
        word = arriving["word"]
        for number in range(kind.latency - 1):
            valid = Signal(name=f"combined_{number}")
            place = Signal(len(word), name=f"combined_word_{number}", reset_less=True)
            m.d.sync += [valid.eq(there), place.eq(word)]
            there, word = valid, place
        with m.If(there):
            m.d.comb += [write.eq(1), write_word.eq(word), written.eq(Cat(*combined))]


def build(spec: PimChannelSpec) -> Design:
    """The design of a specification."""
    unit = unit_rtl.build(spec.bank)
    top = PimChannel(spec)
    parts = {
        **unit.parts,
        f"{spec.name}_bank": unit.top,
        f"{spec.name}_buffer": top.buffer,
        f"{spec.name}_sequencer": top.sequencer,
    }
    if spec.elementwise.format != "none":
        parts[f"{spec.name}_element"] = Element(spec)
    return Design(top=top, parts=parts, library=tuple(dict.fromkeys([*LIBRARY, *unit.library])))

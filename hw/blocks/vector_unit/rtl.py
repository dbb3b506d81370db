"""RTL of the vector unit: ports, the sequencer, lanes."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring

from hw.block import Design
from hw.blocks.vector_unit import golden
from hw.blocks.vector_unit.lane import Lane, Plan
from hw.blocks.vector_unit.program import Instruction, assemble
from hw.blocks.vector_unit.spec import FUNCTIONS, SLOTS, VectorUnitSpec
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY
from hw.lib.select import equals

SLOT_BITS = SLOTS.bit_length() - 1


class VectorUnit(wiring.Component):
    """Rows in, rows out, ``lanes`` elements a beat.

    Streams: ``i_job``, ``i``, ``i_q`` (if a function needs more operands), ``o``; see ``golden``.

    A round is one operation on the ``SLOTS`` beats of a chunk, a beat a cycle; the first result is
    there when the round is over. A cycle in which an operand has not come, or in which the output
    is full, moves no slot. What is on its way to the output leaves all the same, so that no result
    of a row waits for what comes behind the row.

    Latency and interval: see ``timing``. Part by name: ``<name>_lane``.
    """

    def __init__(self, spec: VectorUnitSpec, lane: Lane):
        self.spec, self.lane, self.plan = spec, lane, lane.plan
        self.instructions, self.entries = assemble(spec)
        self.streams = {item.name: item for item in golden.streams(spec)}
        super().__init__(component_streams(tuple(self.streams.values())))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, plan = self.spec, self.plan
        advance = Signal()

        # Operands at the ports.
        held: dict[str, Signal] = {}
        full: dict[str, Signal] = {}
        take: dict[str, Signal] = {}
        for name, port_stream in self.streams.items():
            if name not in ("i", "i_q"):
                continue
            port = getattr(self, name)
            held[name] = Signal(port_stream.width, name=f"{name}_held", reset_less=True)
            full[name] = Signal(name=f"{name}_full")
            take[name] = Signal(name=f"{name}_take")
            m.d.comb += port.ready.eq(~full[name] | take[name])
            m.d.sync += full[name].eq(port.valid | (full[name] & ~take[name]))
            with m.If(port.valid & port.ready):
                m.d.sync += held[name].eq(port.payload)

        # The job, and where it stands.
        job = self.streams["i_job"]
        active, begin, finish = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i_job.ready.eq(~active | finish),
            begin.eq(self.i_job.valid & self.i_job.ready),
        ]
        m.d.sync += active.eq(begin | (active & ~finish))
        described: dict[str, Signal] = {}
        for item in job.fields[1:]:
            described[item.name] = Signal(item.bits, name=f"job_{item.name}", reset_less=True)
            if item.name != "rows_m1":
                with m.If(begin):
                    m.d.sync += described[item.name].eq(
                        field_slice(job, self.i_job.payload, item.name)
                    )
        rows_left = described["rows_m1"]
        length_m1 = described["length_m1"]
        lane_bits = spec.lanes.bit_length() - 1
        padded = Cat(length_m1, Const(0, lane_bits + SLOT_BITS + 1))
        last_lane = padded[:lane_bits]
        last_slot = padded[lane_bits : lane_bits + SLOT_BITS]
        final = padded[lane_bits + SLOT_BITS : max(len(length_m1), lane_bits + SLOT_BITS + 1)]

        slot = Signal(SLOT_BITS)
        chunk = Signal(len(final))
        first_row = Signal(reset_less=True)
        last_chunk, there, ends = Signal(), Signal(), Signal()
        step = Signal()
        m.d.comb += [
            last_chunk.eq(chunk == final),
            there.eq(~last_chunk | (slot <= last_slot)),
            ends.eq(last_chunk & (slot == last_slot)),
            step.eq(advance & slot.all()),
        ]
        with m.If(advance):
            m.d.sync += slot.eq(slot + 1)
        now = self._sequence(m, begin, step, last_chunk)
        row_over = Signal()
        m.d.comb += [
            row_over.eq(step & now["end"] & last_chunk),
            finish.eq(row_over & ~rows_left.any()),
        ]
        with m.If(step & now["loops"]):
            m.d.sync += chunk.eq(Mux(last_chunk, 0, chunk + 1))
        with m.If(begin):
            m.d.sync += [
                rows_left.eq(field_slice(job, self.i_job.payload, "rows_m1")),
                first_row.eq(1),
            ]
        with m.Elif(row_over):
            m.d.sync += [rows_left.eq(rows_left - 1), first_row.eq(0)]

        # What leaves the stages, and when they move.
        go = [advance, *(Signal(name=f"go_{i}") for i in range(1, 5))]
        leaving = [Signal(name=f"leaving_{i}") for i in range(3)]
        bound = [Signal(name=f"bound_{i}") for i in range(3)]
        waiting, room, out = Signal(), Signal(), Signal()
        ready = active
        for name, wanted in (("i", "takes_element"), ("i_q", "takes_operands")):
            if name in take:
                needed = now[wanted] & there
                ready = ready & (~needed | full[name])
                m.d.comb += take[name].eq(advance & needed)
        out_row = now["out_row"]
        m.d.comb += [
            out.eq((now["out"] | (out_row & ~rows_left.any())) & there),
            room.eq(~waiting | go[4]),
            advance.eq(ready & (~leaving[2] | room)),
            # An output that nothing ahead keeps in its place goes on without the others.
            go[1].eq(advance | (leaving[0] & ~bound[1] & (~leaving[1] | go[2]))),
            go[2].eq(advance | (leaving[1] & ~bound[2] & (~leaving[2] | room))),
            go[3].eq(leaving[2] & room),
            go[4].eq(waiting & (~self.o.valid | self.o.ready)),
        ]
        m.d.sync += [
            leaving[0].eq(Mux(advance, out, leaving[0] & ~go[1])),
            leaving[1].eq(Mux(go[1], leaving[0], leaving[1] & ~go[2])),
            leaving[2].eq(Mux(go[2], leaving[1], leaving[2] & ~go[3])),
            waiting.eq(go[3] | (waiting & ~go[4])),
            self.o.valid.eq(go[4] | (self.o.valid & ~self.o.ready)),
        ]
        last = ends
        for i in range(5):
            register = Signal(name=f"last_{i}", reset_less=True)
            with m.If(go[i]):
                m.d.sync += register.eq(last)
            last = register

        # Results that stay: they arrive when their slot is next.
        keeps = Signal(max(1, len(plan.registers)), name="keeps")
        m.d.comb += keeps.eq(Cat(*(now[f"to_{name}"] for name in plan.registers)))
        address = Cat(slot, chunk)[: plan.address_bits]
        saves = (now["save"] | (out_row & rows_left.any())) & there
        stages = {"keeps": keeps, "saves": saves, "address": address}
        for i in range(3):
            later: dict[str, Value] = {}
            for name, value in stages.items():
                register = Signal(len(value), name=f"{name}_{i}", reset_less=name == "address")
                with m.If(advance):
                    m.d.sync += register.eq(value)
                later[name] = register
            stages = later
            m.d.comb += bound[i].eq(stages["keeps"].any() | stages["saves"])

        # Lanes.
        shared: dict[str, Value] = {
            "kb": self._constant(now["kb"], now["kb_length"], self._length_word(length_m1)),
            "kc": self._constant(now["kc"], now["kc_epsilon"], self._epsilon(described)),
            "go": Cat(*go),
        }
        first = (now["first_chunk"] & ~chunk.any()) | (now["first_row"] & first_row)
        if len(plan.sources["c"]) > 1:
            asked = [now[f"c_{name}"] for name in plan.sources["c"]]
            shared["c"] = Cat(
                *(
                    bit | first if name == "k" else bit & ~first
                    for name, bit in zip(plan.sources["c"], asked, strict=True)
                )
            )
        for operand in ("a", "b"):
            if len(plan.sources[operand]) > 1:
                names = plan.sources[operand]
                shared[operand] = Cat(*(now[f"{operand}_{name}"] for name in names))
        shared["fold"] = Cat(*(now[f"fold_{step_}"] for step_ in plan.folds))
        for name in ("magnitude", "minus", "positive", "maximum"):
            shared[name] = now[name]
        shared["capture"] = now["capture"]
        shared["put"] = stages["keeps"]
        if plan.beats:
            element, result = Signal(plan.beats), Signal(plan.beats)
            for i in range(plan.beats):
                m.d.comb += [
                    element[i].eq(advance & now["keep"] & there & equals(address, i)),
                    result[i].eq(advance & stages["saves"] & equals(stages["address"], i)),
                ]
            shared |= {"read": address, "write_element": element, "write_result": result}
        self._lanes(m, shared, held, now, there, ends, last_lane, last)
        return m

    def _lanes(
        self,
        m: Module,
        shared: dict[str, Value],
        held: dict[str, Signal],
        now: dict[str, Value],
        there: Value,
        ends: Value,
        last_lane: Value,
        last: Value,
    ) -> None:
        spec, plan = self.spec, self.plan
        slots = spec.folds[0]
        peers = [Signal(spec.number.width, name=f"s_{i}") for i in range(spec.lanes)]
        words: list[Value] = []
        for i in range(spec.lanes):
            alive = Signal(name=f"alive_{i}")
            m.d.comb += alive.eq(there & ~(ends & (last_lane < i)) if i else there)
            own: dict[str, Value] = {
                **shared,
                "x": held["i"].word_select(i, spec.port.width),
                "alive": alive,
                "kill": now["masked"] & ~alive,
                "negative": now["negative"] | (now["swapped"] if i % 2 == 0 else Const(0, 1)),
                "peers": Cat(
                    *(
                        peers[i ^ (spec.lanes >> (fold - slots + 1))]
                        for fold in plan.folds
                        if fold >= slots
                    )
                ),
            }
            for name in ("u", "v"):
                if name in self.lane.members:
                    field = field_slice(self.streams["i_q"], held["i_q"], name)
                    own[name] = field.word_select(i, spec.port.width)
            y = Signal(spec.port.width, name=f"y_{i}")
            outputs = {"o_y": y} | ({"o_s": peers[i]} if "peers" in self.lane.members else {})
            m.submodules[f"lane_{i}"] = Instance(
                f"{spec.name}_lane",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                **outputs,
                **{f"i_{name}": own[name] for name in own if name in self.lane.members},
            )
            words.append(y)
        m.d.comb += self.o.payload.eq(Cat(*words, last))

    def _sequence(
        self, m: Module, begin: Value, step: Value, last_chunk: Value
    ) -> dict[str, Value]:
        """The operation at hand, by fields: a table of all of them, and a register behind it."""
        number = self.spec.number
        width = (len(self.instructions) - 1).bit_length() or 1
        place = Signal(width, name="next_place")
        now: dict[str, Value] = {}
        table: dict[str, Signal] = {}
        rows = [_fields(item, number.code, self.plan) for item in self.instructions]
        widths = {"kb": number.width, "kc": number.width, "again": width, "following": width}
        for name in rows[0]:
            bits = widths.get(name, 1)
            if len({row[name] for row in rows}) == 1:
                now[name] = Const(rows[0][name], bits)
                continue
            table[name] = Signal(bits, name=f"table_{name}")
            now[name] = Signal(bits, name=f"now_{name}", reset_less=True)
        with m.Switch(place):
            for index, row in enumerate(rows):
                last = index == len(rows) - 1
                with m.Default() if last else m.Case(index):
                    m.d.comb += [table[name].eq(row[name]) for name in table]
        with m.If(begin | step):
            m.d.sync += [now[name].eq(table[name]) for name in table]

        job = self.streams["i_job"]
        entry = Signal(width, name="entry")
        with m.Switch(field_slice(job, self.i_job.payload, "function")):
            others = list(self.entries.items())
            for function, index in others[:-1]:
                with m.Case(FUNCTIONS.index(function)):
                    m.d.comb += entry.eq(index)
            with m.Default():
                m.d.comb += entry.eq(others[-1][1])
        again = now["loops"] & ~last_chunk
        m.d.comb += place.eq(Mux(begin, entry, Mux(again, now["again"], now["following"])))
        return now

    @staticmethod
    def _constant(word: Value, special: Value, value: Value) -> Value:
        """A bus of constants, or what the job says."""
        if isinstance(special, Const) and not special.value:
            return word
        return Mux(special, value, word)

    def _length_word(self, length_m1: Value) -> Value:
        """``2^(significand − 1) + length``."""
        number = self.spec.number
        bits = number.significand - 1
        length = Cat(length_m1 + 1, Const(0, bits))[:bits]
        return Cat(length, Const(number.bias + bits, number.exponent_bits + 1))

    def _epsilon(self, described: dict[str, Signal]) -> Value:
        return Cat(described.get("epsilon", Const(0, self.spec.number.width - 1)), Const(0, 1))


def _fields(item: Instruction, code: Callable[[float], int], plan: Plan) -> dict[str, int]:
    """An instruction as the table's fields."""
    op = item.op
    found: dict[str, int] = {}
    for operand, names in plan.sources.items():
        found |= {f"{operand}_{name}": int(getattr(op, operand) == name) for name in names}
    found |= {f"to_{name}": int(op.to == name) for name in plan.registers}
    found |= {f"fold_{step}": int(op.fold == step) for step in plan.folds}
    found |= {name: int(getattr(op, name)) for name in Plan.FLAGS}
    found |= {
        "out": int(op.to == "out"),
        "out_row": int(op.to == "out_row"),
        "first_chunk": int(op.first == "chunk"),
        "first_row": int(op.first == "row"),
        "takes_element": int(op.takes_element),
        "takes_operands": int(op.takes_operands),
        "kb": 0 if isinstance(op.kb, str) else code(op.kb),
        "kc": 0 if isinstance(op.kc, str) else code(op.kc),
        "kb_length": int(op.kb == "length"),
        "kc_epsilon": int(op.kc == "epsilon"),
        "following": item.following,
        "again": max(item.again, 0),
        "loops": int(item.again >= 0),
        "end": int(item.end),
    }
    return found


def build(spec: VectorUnitSpec) -> Design:
    """The design of a specification."""
    instructions, _ = assemble(spec)
    lane = Lane(spec, Plan(spec, [item.op for item in instructions]))
    return Design(top=VectorUnit(spec, lane), parts={f"{spec.name}_lane": lane}, library=LIBRARY)

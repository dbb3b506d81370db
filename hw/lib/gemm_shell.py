"""The part that every GEMM core shares: ports, job control, pipeline and the array of columns.

The datapath is given by two parts that are elaborated once and instantiated by name: one front end
(what all columns share: tables, sums) and one column (the weights, heaps and accumulators of one n,
for all M rows). The shell decides when a step fires and what the accumulators do with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from amaranth.hdl import (
    Cat,
    ClockSignal,
    Instance,
    Module,
    ResetSignal,
    Signal,
    Value,
    unsigned,
)
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.gemm import GemmSpec
from hw.lib.heap import LIBRARY
from hw.lib.passes import Sequencer
from hw.streams import Stream


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the front end hands to every column.

    Attributes:
        outputs: width of every output of the front end, by name.
        by_pass: outputs with one variant a kind of pass, ``name -> (middle, first, last, only)``;
            the shell selects one of the named outputs and columns see it under ``name``.
        parity: a front-end output of M bits that is the parity of ``Σ a`` of the step, for cores
            whose results carry the last pass's running parity (see ``lut_core``), or None.
        late: outputs for the accumulators, which columns get with the sum of the step's terms.
        rows: fields of the results that a row shares, ``field -> output``; a job's last step gives
            them.
        begins: the front end is told by ``first`` whether the step that it takes into the registers
            under ``f_load`` is the first one of its job.
        cuts: registers of the columns that front-end outputs pass as well, each of them once for
            all columns: the front end gets their enables as ``cut_en``.
    """

    outputs: Mapping[str, int]
    by_pass: Mapping[str, tuple[str, str, str, str]] = field(default_factory=dict)
    parity: str | None = None
    late: tuple[str, ...] = ()
    rows: Mapping[str, str] = field(default_factory=dict)
    begins: bool = False
    cuts: int = 0

    def inputs(self, rows: int, lines: Iterable[str]) -> dict[str, int]:
        """Width of what every column gets from front end and control, by name."""
        variants = {name for names in self.by_pass.values() for name in names}
        found = {
            name: width
            for name, width in self.outputs.items()
            if name not in variants and name != self.parity and name not in self.rows.values()
        }
        found |= {name: self.outputs[names[0]] for name, names in self.by_pass.items()}
        if self.parity is not None:
            found["carry"] = rows
        return found | dict.fromkeys(lines, 1)


def component_streams(streams: tuple[Stream, ...]) -> dict[str, wiring.Member]:
    """Amaranth stream members of plain payloads; the fields are data, see ``hw.streams``."""
    members = {}
    for item in streams:
        flow = In if item.direction == "in" else Out
        members[item.name] = flow(stream.Signature(unsigned(item.width)))
    return members


def field_slice(item: Stream, payload: Value, name: str) -> Value:
    """The bits of one field of a payload."""
    start = item.offset(name)
    width = next(entry.bits for entry in item.fields if entry.name == name)
    return payload[start : start + width]


class GemmShell(wiring.Component):
    """Job control and pipeline of a GEMM core.

    Streams are those of ``hw.gemm``. Operands are registered at the ports; a step fires when a job
    is active, both operands are there and the next stage can take it. Results stand in the
    accumulators and hold off the next job's steps until they are taken, or until the first register
    of the tail takes them, where columns have one.

    Results that a row shares come last in the payload of ``o``, as their fields do.

    Latency: ``2 + pipeline.front + cuts + tail`` cycles from the first operand transfer to the
    result transfer of a one-step job; interval: one step a cycle, jobs back to back.

    Parts by name: ``<name>_front`` (operand register, tables) and ``<name>_column``.
    """

    def __init__(
        self,
        spec: GemmSpec,
        streams: tuple[Stream, ...],
        *,
        sequencer: Sequencer,
        shared: Shared,
        front: int,
        cuts: int,
        tail: int = 0,
    ):
        self.spec = spec
        self.streams = {item.name: item for item in streams}
        self.sequencer = sequencer
        self.shared = shared
        self.front = front
        self.cuts = cuts
        self.tail = tail
        results = self.streams["o"].fields
        # A column gives its part of every field, all rows of one field after the other.
        self.result_widths = [
            item.bits // (spec.tile.m * spec.tile.n) for item in results if len(item.shape) > 1
        ]
        self.operand = next(name for name in self.streams if name in ("i_a", "i_t"))
        super().__init__(component_streams(streams))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, cuts = self.spec, self.cuts
        operand = getattr(self, self.operand)
        weights, out = self.i_w, self.o

        active = Signal()
        fire = Signal()
        finish = Signal()
        accumulate = Signal()
        job = self.streams["i_job"]
        begin = Signal()
        m.d.comb += begin.eq(self.i_job.valid & self.i_job.ready)
        steps = self.sequencer.elaborate(
            m, lambda name: field_slice(job, self.i_job.payload, name), begin, fire
        )
        first_step, first_pass = steps.first_step, steps.first_pass
        last_step, last_pass = steps.last_step, steps.last_pass
        m.d.comb += [
            finish.eq(fire & last_step & last_pass),
            self.i_job.ready.eq(~active | finish),
        ]
        with m.If(finish):
            m.d.sync += active.eq(0)
        with m.If(begin):
            m.d.sync += active.eq(1)
            if spec.addend:
                m.d.sync += accumulate.eq(field_slice(job, self.i_job.payload, "accumulate"))

        # Steps without operands leave them where they are.
        take = fire if steps.idle is None else fire & ~steps.idle

        # Operand side: a port register, and if asked one more behind the front end.
        a_full = Signal()
        a_load = Signal()
        a_move = Signal()
        f_full = Signal()
        f_load = Signal()
        told: dict[str, Value] = {}
        m.d.comb += [operand.ready.eq(~a_full | a_move), a_load.eq(operand.valid & operand.ready)]
        m.d.sync += a_full.eq(a_load | (a_full & ~a_move))
        if self.front > 1:
            # Another register in the midst of the front end.
            g_full = Signal()
            g_load = Signal()
            m.d.comb += [
                a_move.eq(a_full & (~g_full | f_load)),
                g_load.eq(a_move),
                f_load.eq(g_full & (~f_full | take)),
            ]
            m.d.sync += [
                g_full.eq(g_load | (g_full & ~f_load)),
                f_full.eq(f_load | (f_full & ~take)),
            ]
            told["i_g_load"] = g_load
        elif self.front:
            m.d.comb += [a_move.eq(a_full & (~f_full | take)), f_load.eq(a_move)]
            m.d.sync += f_full.eq(f_load | (f_full & ~take))
        else:
            m.d.comb += [f_full.eq(a_full), a_move.eq(take)]
        if self.shared.begins:
            # What moves up is the step at hand if none stands there, else the one after it.
            begins = Signal()
            m.d.comb += begins.eq(~active | (first_step & first_pass))
            if self.front:
                with m.If(f_full):
                    m.d.comb += begins.eq(finish)
            else:
                m.d.comb += f_load.eq(take)
            told["i_first"] = begins

        # Weight side: the registers are in the columns.
        w_full = Signal()
        w_load = Signal()
        m.d.comb += [weights.ready.eq(~w_full | take), w_load.eq(weights.valid & weights.ready)]
        m.d.sync += w_full.eq(w_load | (w_full & ~take))

        # Stages: 0 fires; 1 … cuts are registers through the heaps; the accumulators end them.
        valid = [Signal(name=f"valid_{i}") for i in range(cuts + 1)]
        move = [Signal(name=f"move_{i}") for i in range(cuts + 1)]
        there = f_full & w_full
        if steps.idle is not None:
            there = steps.idle | there
        m.d.comb += [valid[0].eq(active & there), fire.eq(move[0])]
        out_free = Signal()
        if not self.tail:
            m.d.comb += out_free.eq(~out.valid | out.ready)
        for i in range(cuts):
            m.d.comb += move[i].eq(valid[i] & (~valid[i + 1] | move[i + 1]))
            m.d.sync += valid[i + 1].eq(move[i] | (valid[i + 1] & ~move[i + 1]))

        # What the accumulators do with the step, travelling with it.
        control = {
            "hold": steps.hold,
            "shift": steps.shift,
            "last": last_step & last_pass,
            "addend": first_step & last_pass & accumulate,
        }
        staged = [{name: Signal(name=f"{name}_{i}") for name in control} for i in range(cuts + 1)]
        m.d.comb += [staged[0][name].eq(value) for name, value in control.items()]
        for i in range(cuts):
            with m.If(move[i]):
                m.d.sync += [staged[i + 1][name].eq(staged[i][name]) for name in control]
        final = staged[-1]
        if spec.addend:
            # The addend is taken straight from its port in the step that needs it.
            m.d.comb += [
                move[cuts].eq(valid[cuts] & out_free & (~final["addend"] | self.i_c.valid)),
                self.i_c.ready.eq(valid[cuts] & out_free & final["addend"]),
            ]
        else:
            m.d.comb += move[cuts].eq(valid[cuts] & out_free)
        leave: list[Signal] = []
        if self.tail:
            leave = self._tail(m, move[cuts] & final["last"], out_free)
        else:
            m.d.sync += out.valid.eq((move[cuts] & final["last"]) | (out.valid & ~out.ready))

        # Front end.
        shared = {
            name: Signal(width, name=f"front_{name}") for name, width in self.shared.outputs.items()
        }
        ports: dict[str, Value] = {f"o_{name}": value for name, value in shared.items()}
        m.submodules.front = Instance(
            f"{spec.name}_front",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_operand=operand.payload,
            i_a_load=a_load,
            i_f_load=f_load,
            **({} if steps.idle is None else {"i_idle": steps.idle}),
            **told,
            **({"i_cut_en": Cat(*move[: self.shared.cuts])} if self.shared.cuts else {}),
            **ports,
        )
        late = self._late(m, shared, move, cuts)
        to_columns = {
            name: value
            for name, value in shared.items()
            if not any(name in variants for variants in self.shared.by_pass.values())
            and name != self.shared.parity
            and name not in self.shared.rows.values()
        }
        to_columns |= {name: late[name] for name in self.shared.late}
        for name, (middle, first, last, only) in self.shared.by_pass.items():
            chosen = Signal(len(shared[middle]), name=f"step_{name}")
            kinds = {0: middle, 1: first, 2: last, 3: only}
            with m.Switch(Cat(first_pass, last_pass)):
                for kind, variant in kinds.items():
                    with m.Case(kind):
                        m.d.comb += chosen.eq(shared[variant])
            to_columns[name] = chosen
        to_columns |= steps.lines
        parity = None
        if self.shared.parity is not None:
            parity = self._parity(
                m, shared[self.shared.parity], to_columns, first_step, last_pass, move, cuts
            )

        # Columns.
        weight_stream = self.streams["i_w"]
        tile = spec.tile
        lanes = {item.name: item.bits // tile.n for item in weight_stream.fields}
        results: list[Value] = []
        for n in range(tile.n):
            slices = {
                f"i_{name}": field_slice(weight_stream, weights.payload, name)[
                    n * bits : (n + 1) * bits
                ]
                for name, bits in lanes.items()
            }
            if spec.addend:
                addend = self.i_c.payload
                slices["i_c"] = Cat(
                    *(
                        addend.word_select(row * tile.n + n, spec.result_bits)
                        for row in range(tile.m)
                    )
                )
                slices["i_take_c"] = final["addend"]
            if cuts:
                slices["i_cut_en"] = Cat(*move[:cuts])
            if leave:
                slices["i_tail_en"] = Cat(*leave)
            result = Signal(tile.m * sum(self.result_widths), name=f"result_{n}")
            m.submodules[f"column_{n}"] = Instance(
                f"{spec.name}_column",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_w_load=w_load,
                i_acc_en=move[cuts],
                i_hold=final["hold"],
                i_shift=final["shift"],
                o_o=result,
                **slices,
                **{f"i_{name}": value for name, value in to_columns.items()},
            )
            results.append(result)
        words: list[Value] = []
        for index, width in enumerate(self.result_widths):
            start = tile.m * sum(self.result_widths[:index])
            for row in range(tile.m):
                for n in range(tile.n):
                    word = results[n][start + row * width : start + (row + 1) * width]
                    if parity is not None:
                        word = Cat(parity[row], word[1:])
                    words.append(word)
        for name, source in self.shared.rows.items():
            register = Signal(len(late[source]), name=f"result_{name}", reset_less=True)
            with m.If(move[cuts]):
                m.d.sync += register.eq(late[source])
            words.append(register)
        m.d.comb += out.payload.eq(Cat(*words))
        return m

    def _late(
        self, m: Module, shared: Mapping[str, Signal], move: list[Signal], cuts: int
    ) -> dict[str, Value]:
        """Outputs of the front end that go along with their step through the heap's registers."""
        found: dict[str, Value] = {}
        for name in (*self.shared.late, *self.shared.rows.values()):
            value: Value = shared[name]
            for i in range(cuts):
                register = Signal(len(value), name=f"{name}_{i + 1}", reset_less=True)
                with m.If(move[i]):
                    m.d.sync += register.eq(value)
                value = register
            found[name] = value
        return found

    def _tail(self, m: Module, made: Value, free: Signal) -> list[Signal]:
        """Control of the registers behind the accumulators: when each takes a result.

        Drives ``free``, whether the accumulators' place is, and ``o.valid``.
        """
        held = [Signal(name=f"held_{i}") for i in range(self.tail)]
        leave = [Signal(name=f"leave_{i}") for i in range(self.tail)]
        behind = [*held[1:], self.o.valid]
        away = [*leave[1:], self.o.ready]
        come = made
        for i in range(self.tail):
            m.d.comb += leave[i].eq(held[i] & (~behind[i] | away[i]))
            m.d.sync += held[i].eq(come | (held[i] & ~leave[i]))
            come = leave[i]
        m.d.sync += self.o.valid.eq(come | (self.o.valid & ~self.o.ready))
        m.d.comb += free.eq(~held[0] | leave[0])
        return leave

    def _parity(
        self,
        m: Module,
        step: Signal,
        to_columns: dict[str, Value],
        first_step: Signal,
        last_pass: Signal,
        move: list[Signal],
        cuts: int,
    ) -> Signal:
        """Running parity of ``Σ a`` over the last pass.

        ``Σ_t floor((S_t + q_{t−1}) / 2)`` needs the carry ``S_t[0] & q_{t−1}`` in each step of the
        last pass (columns see it as ``carry``); the parity that is left is bit 0 of the results.
        """
        rows = self.spec.tile.m
        running = Signal(rows)
        before = Signal(rows)
        now = Signal(rows)
        carry = Signal(rows, name="step_carry")
        m.d.comb += [
            before.eq(running & (~first_step).replicate(rows)),
            now.eq(before ^ step),
            carry.eq(before & step & last_pass.replicate(rows)),
        ]
        with m.If(move[0]):
            m.d.sync += running.eq(now)
        to_columns["carry"] = carry
        value = now
        for i in range(cuts + 1):
            register = Signal(rows, name=f"parity_{i}")
            with m.If(move[i]):
                m.d.sync += register.eq(value)
            value = register
        return value


def design(
    spec: GemmSpec,
    streams: tuple[Stream, ...],
    *,
    sequencer: Sequencer,
    shared: Shared,
    front: wiring.Component,
    column: wiring.Component,
) -> Design:
    """A core of the shell and its two parts."""
    return Design(
        top=GemmShell(
            spec,
            streams,
            sequencer=sequencer,
            shared=shared,
            front=spec.pipeline.front,
            cuts=spec.cuts,
            tail=spec.tail,
        ),
        parts={f"{spec.name}_front": front, f"{spec.name}_column": column},
        library=LIBRARY,
    )

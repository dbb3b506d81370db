"""RTL of the table array: ports, jobs, pipeline, the array and its columns."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring

from hw.block import Design
from hw.blocks.sram_lut_gemv import golden
from hw.blocks.sram_lut_gemv.column import Column, Converter
from hw.blocks.sram_lut_gemv.control import Patterns, Steps
from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
from hw.blocks.sram_lut_gemv.timing import converter
from hw.lib import memory
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY


class SramLutGemv(wiring.Component):
    """Tables of subset sums in an array that all columns share the address of.

    Streams are those of ``hw.gemm``. Operands are registered at the ports. A cycle writes a word of
    the table or looks one up, behind it lie registers for the address, for the word that is read,
    with ``pipeline.front`` for the shifted word, and the accumulators. The whole pipeline stands
    still while the sums of a job wait in the accumulators (or in the converters) and the first
    lookup of the next one has come up to them.

    Latency and interval: see ``timing``. Parts by name: ``<name>_patterns``, ``<name>_column``,
    ``<name>_convert``.
    """

    def __init__(self, spec: SramLutGemvSpec):
        self.spec = spec
        self.streams = {item.name: item for item in golden.streams(spec)}
        super().__init__(component_streams(tuple(self.streams.values())))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, job = self.spec, self.streams["i_job"]
        go = Signal()
        steps = Steps(spec)

        # Jobs.
        active, begin, held_back = Signal(), Signal(), Signal()
        steps_left = Signal(job.fields[0].width)
        m.d.comb += [
            self.i_job.ready.eq((~active | steps.finish) & ~held_back),
            begin.eq(self.i_job.valid & self.i_job.ready),
        ]
        with m.If(steps.frees_a):
            m.d.sync += steps_left.eq(steps_left - 1)
        with m.If(steps.finish):
            m.d.sync += active.eq(0)
        described: dict[str, Value] = {}
        for item in job.fields[1:]:
            described[item.name] = Signal(item.bits, name=f"job_{item.name}", reset_less=True)
        with m.If(begin):
            m.d.sync += [
                active.eq(1),
                steps_left.eq(field_slice(job, self.i_job.payload, "k_steps_m1")),
            ]
            m.d.sync += [
                register.eq(field_slice(job, self.i_job.payload, name))
                for name, register in described.items()
            ]

        # Operands. A register is empty for a cycle of the other one's phase before it is needed.
        full = {}
        load = {}
        for name, frees in (("a", steps.frees_a), ("w", steps.frees_w)):
            port = getattr(self, f"i_{name}")
            full[name], load[name] = Signal(name=f"{name}_full"), Signal(name=f"{name}_load")
            m.d.comb += [
                port.ready.eq(~full[name]),
                load[name].eq(port.valid & port.ready),
            ]
            m.d.sync += full[name].eq(load[name] | (full[name] & ~frees))

        pattern, rows, last_row = self._patterns(m, steps, load["a"], described)
        steps.elaborate(
            m,
            go=go,
            active=active,
            w_full=full["w"],
            a_full=full["a"],
            last_row=last_row,
            last_plane=described.get("activation_bits_m1", Const(0, 1)),
            last_step=~steps_left.any(),
        )

        # Registers of the address, then of the word (and of the shifted word).
        address = Signal(spec.tile.k, reset_less=True)
        writes = Signal(name="write_q")
        control = {
            "rows": rows,
            "plane": steps.plane,
            "sign": steps.sign,
            "round": steps.round,
            "last": steps.finish,
        }
        count = 2 + spec.pipeline.front
        token = [Signal(name=f"token_{i}") for i in range(count)]
        staged = [
            {
                name: Signal(len(value), name=f"{name}_{i}", reset_less=True)
                for name, value in control.items()
            }
            for i in range(count)
        ]
        with m.If(go):
            m.d.sync += [writes.eq(steps.writes), token[0].eq(steps.looks)]
            m.d.sync += [token[i + 1].eq(token[i]) for i in range(count - 1)]
        with m.If(steps.writes):
            m.d.sync += address.eq(steps.word)
        with m.If(steps.looks):
            m.d.sync += address.eq(pattern)
            m.d.sync += [staged[0][name].eq(value) for name, value in control.items()]
        for i in range(count - 1):
            with m.If(go & token[i]):
                m.d.sync += [staged[i + 1][name].eq(staged[i][name]) for name in control]
        reads = Signal()
        m.d.comb += reads.eq(go & token[0] & staged[0]["rows"].any())
        final = staged[-1]
        adds, done = Signal(), Signal()
        m.d.comb += [adds.eq(go & token[-1]), done.eq(adds & final["last"])]

        columns = self._columns(
            m,
            steps,
            w_load=load["w"],
            address=address,
            writes=writes,
            reads=reads,
            shown=staged[1],
            term_en=go & token[1],
            final=final,
            rows=final["rows"] & adds.replicate(len(rows)),
        )
        if spec.exact:
            m.d.comb += held_back.eq(0)
            self._stand(m, columns, go=go, waits=token[-1], done=done)
        else:
            # The scales of a job are held until its last sum is in a converter.
            pending, drained = Signal(), Signal()
            m.d.comb += held_back.eq(steps.finish | (pending & ~drained))
            m.d.sync += pending.eq(held_back)
            waits = token[-1] & final["last"]
            self._convert(m, columns, described, go=go, waits=waits, done=done, drained=drained)
        return m

    def _patterns(
        self, m: Module, steps: Steps, load: Value, described: dict[str, Value]
    ) -> tuple[Signal, Signal, Signal]:
        """The reuse table: the word to look up, the rows that take it, whether none is left."""
        spec = self.spec
        pattern = Signal(spec.tile.k, name="pattern")
        rows = Signal(spec.reuse.capacity, name="rows")
        last = Signal(name="last_row")
        ports: dict[str, Value] = {}
        if spec.activations.max_bits > 1:
            ports["i_shift"] = steps.shift
        if spec.rounds > 1:
            ports["i_round"] = steps.round
        if spec.reuses:
            ports["i_reuse"] = described["reuse"]
        m.submodules.patterns = Instance(
            f"{spec.name}_patterns",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_operand=self.i_a.payload,
            i_load=load,
            i_fresh=steps.fresh,
            i_take=steps.looks,
            o_pattern=pattern,
            o_rows=rows,
            o_last=last,
            **ports,
        )
        return pattern, rows, last

    def _columns(
        self,
        m: Module,
        steps: Steps,
        *,
        w_load: Value,
        address: Signal,
        writes: Value,
        reads: Value,
        shown: dict[str, Signal],
        term_en: Value,
        final: dict[str, Signal],
        rows: Value,
    ) -> list[Signal]:
        """The array and its columns; what every column gives at ``o``."""
        spec, tile = self.spec, self.spec.tile
        stream = self.streams["i_w"]
        width = spec.entry_bits
        self._clear = Signal(name="clear")
        self._row = Signal(range(max(2, tile.m)), name="row")
        ports: dict[str, Value] = {
            "i_step": steps.writes,
            "i_weight": steps.weight,
            "i_minus": steps.minus,
            "i_start": steps.turn == 1,
            "i_w_load": w_load,
            "i_rows": rows,
            "i_clear": self._clear,
        }
        if spec.activations.max_bits > 1:
            ports["i_plane"] = shown["plane"]
        if spec.signed:
            ports["i_negate"] = final["sign"]
        if spec.pipeline.front:
            ports["i_term_en"] = term_en
        if spec.rounds > 1:
            ports["i_round"] = final["round"]
        if not spec.exact and tile.m > 1:
            ports["i_row"] = self._row
        words = Signal(tile.n * width, name="words")
        entries = Signal(tile.n * width, name="entries")
        if spec.array.style == "memory":
            m.submodules.array = memory.ram(
                depth=1 << tile.k,
                enable=writes | reads,
                write=writes,
                address=address,
                data=words,
                out=entries,
            )
        else:
            line = Signal(spec.words, name="line")
            m.d.comb += line.eq(
                Cat(*(writes & (address == index) for index in range(1, spec.words + 1)))
            )
            ports |= {"i_write": line, "i_address": address, "i_read": reads}
        found = []
        for n in range(tile.n):
            mine = {
                f"i_{item.name}": field_slice(stream, self.i_w.payload, item.name).word_select(
                    n, item.bits // tile.n
                )
                for item in stream.fields
            }
            if spec.array.style == "memory":
                mine["i_entry"] = entries.word_select(n, width)
                mine["o_word"] = words.word_select(n, width)
            result = Signal(spec.sum_bits * (tile.m if spec.exact else 1), name=f"result_{n}")
            m.submodules[f"column_{n}"] = Instance(
                f"{spec.name}_column",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                o_o=result,
                **ports,
                **mine,
            )
            found.append(result)
        return found

    def _stand(
        self,
        m: Module,
        columns: list[Signal],
        *,
        go: Signal,
        waits: Value,
        done: Value,
    ) -> None:
        """Exact sums stand in the accumulators until they are taken.

        The next job's first addition comes behind its first table, so where the result is taken at
        once it has gone; additions need not know of ``ready``.
        """
        spec, out = self.spec, self.o
        m.d.comb += [
            go.eq(~(waits & out.valid)),
            self._clear.eq(out.valid & out.ready),
            out.payload.eq(
                Cat(
                    *(
                        columns[n].word_select(row, spec.sum_bits)
                        for row in range(spec.tile.m)
                        for n in range(spec.tile.n)
                    )
                )
            ),
        ]
        m.d.sync += out.valid.eq(done | (out.valid & ~out.ready))

    def _convert(
        self,
        m: Module,
        columns: list[Signal],
        described: dict[str, Value],
        *,
        go: Signal,
        waits: Value,
        done: Value,
        drained: Signal,
    ) -> None:
        """Sums go through the converters row by row into the register of the port.

        Results enter that register at its top and move down, so that no place is ever addressed.
        """
        spec, tile, out = self.spec, self.spec.tile, self.o
        (item,) = spec.job_operands
        share = tile.n // spec.result.lanes
        width = spec.result_bits
        draining, busy = Signal(), Signal()
        turn = Signal(range(max(2, share)), name="drain_column")
        ends = Signal()
        m.d.comb += [
            ends.eq(turn == share - 1),
            drained.eq(draining & ends & (self._row == tile.m - 1)),
            self._clear.eq(drained),
            go.eq(~(waits & busy & ~(out.valid & out.ready))),
        ]
        with m.If(draining):
            m.d.sync += turn.eq(turn + 1)
            with m.If(ends):
                m.d.sync += [turn.eq(0), self._row.eq(self._row + 1)]
        with m.If(drained):
            m.d.sync += [draining.eq(0), self._row.eq(0)]
        with m.If(done):
            m.d.sync += draining.eq(1)
        m.d.sync += busy.eq(done | (busy & ~(out.valid & out.ready)))

        # A bit for every register on the way, and whether the last of the results is in it.
        depth = converter(spec)
        moves = [draining, *(Signal(name=f"convert_{i}") for i in range(1, depth))]
        lasts = [drained, *(Signal(name=f"convert_last_{i}") for i in range(1, depth))]
        for chain in (moves, lasts):
            m.d.sync += [chain[i + 1].eq(chain[i]) for i in range(depth - 1)]
        m.d.sync += out.valid.eq(lasts[-1] | (out.valid & ~out.ready))

        words: list[Value] = [Const(0, width)] * (tile.m * tile.n)
        for lane in range(spec.result.lanes):
            first = lane * share
            value = Signal(spec.sum_bits, name=f"drain_{lane}")
            operand = Signal(item.width, name=f"drain_{item.name}_{lane}")
            with m.Switch(turn):
                for index in range(share):
                    with m.Case(index) if index < share - 1 else m.Default():
                        m.d.comb += value.eq(columns[first + index])
                        if item.shape:
                            scales = described[item.name]
                            m.d.comb += operand.eq(scales.word_select(first + index, item.width))
            if not item.shape:
                m.d.comb += operand.eq(described[item.name])
            y = Signal(width, name=f"converted_{lane}")
            m.submodules[f"convert_{lane}"] = Instance(
                f"{spec.name}_convert",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_value=value,
                i_enable=Cat(*moves[:-1]),
                o_y=y,
                **{f"i_{item.name}": operand},
            )
            held = Signal(tile.m * share * width, name=f"o_{lane}", reset_less=True)
            # Never while a result stands, and so that this needs no proof of what comes before.
            with m.If(moves[-1] & ~out.valid):
                m.d.sync += held.eq(Cat(held, y)[width:])
            for row in range(tile.m):
                for index in range(share):
                    words[row * tile.n + first + index] = held.word_select(
                        row * share + index, width
                    )
        m.d.comb += out.payload.eq(Cat(*words))


def build(spec: SramLutGemvSpec) -> Design:
    """The design of a specification."""
    parts: dict[str, wiring.Component] = {
        f"{spec.name}_patterns": Patterns(spec),
        f"{spec.name}_column": Column(spec),
    }
    if not spec.exact:
        parts[f"{spec.name}_convert"] = Converter(spec)
    library = (*LIBRARY, *memory.LIBRARY) if spec.array.style == "memory" else LIBRARY
    return Design(top=SramLutGemv(spec), parts=parts, library=library)

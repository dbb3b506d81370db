"""RTL of a bank's unit: a core, accumulators, and the activation function behind them."""

from __future__ import annotations

from amaranth.hdl import (
    Array,
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

from hw.block import Design, block
from hw.blocks.pim_bank import golden, timing
from hw.blocks.pim_bank.spec import PimBankSpec
from hw.formats import BF16, FP32
from hw.gemm import Job
from hw.lib.fifo import Fifo
from hw.lib.float_ops import MINUS_ZERO, add, factor, multiply, registers
from hw.lib.floats import unpack
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY

MAC, BIAS, ACTIVATE, READ = range(4)


class PimBank(wiring.Component):
    """Operations one after another; a mac's columns flow while the one before it is still summed.

    Streams are those of ``golden``. An operation stands in a register until it begins. A mac hands
    the core its job and lets ``passes · k_steps`` columns and operands through, each pair together;
    the core's result goes to the accumulator that waits first in ``tags``. A table's columns pass
    a register that keeps the one entry that is wanted. Anything but a mac begins when nothing is
    under way.

    Latency and interval: see ``timing``. Part by name: ``<name>_core``.
    """

    def __init__(self, spec: PimBankSpec):
        self.spec = spec
        self.streams = {item.name: item for item in golden.streams(spec)}
        super().__init__(component_streams(tuple(self.streams.values())))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, core = self.spec, self.spec.core
        bits, count = spec.unit.accumulator_bits, spec.unit.accumulators
        op_stream = self.streams["i_op"]

        # The operation at hand.
        op_full, begin = Signal(), Signal()
        op_held = Signal(op_stream.width, reset_less=True)
        m.d.comb += self.i_op.ready.eq(~op_full | begin)
        m.d.sync += op_full.eq(self.i_op.valid | (op_full & ~begin))
        with m.If(self.i_op.valid & self.i_op.ready):
            m.d.sync += op_held.eq(self.i_op.payload)
        op = {item.name: field_slice(op_stream, op_held, item.name) for item in op_stream.fields}
        is_mac, is_read, is_activate = Signal(), Signal(), Signal()
        is_table = Signal()
        m.d.comb += [
            is_mac.eq(op["kind"] == MAC),
            is_read.eq(op["kind"] == READ),
            is_activate.eq(op["kind"] == ACTIVATE),
        ]
        if spec.table_columns:
            m.d.comb += is_table.eq(is_activate & (op["function"] == golden.TABLE))

        # Columns that are still to come, and whose they are.
        most = max(len(spec.passes) * core.max_k_steps, spec.table_columns)
        left = Signal(range(most + 1))
        for_table = Signal()
        some, last, taken = Signal(), Signal(), Signal()
        m.d.comb += [some.eq(left.any()), last.eq(left == 1)]

        # The core, its jobs, and whose accumulator each result is for.
        jobs = Fifo(op["k_steps_m1"].shape().width, 2 + core.pipeline.front + 1)
        core_latency = timing.settle(spec) - (3 if spec.fp32 else 1)
        tags = Fifo(spec.accumulator_index_bits + 1, core_latency + 3)
        m.submodules.jobs, m.submodules.tags = jobs, tags
        result = Signal(core.results[0].width)
        result_valid = Signal()
        job_ready = Signal()
        core_a_ready, core_w_ready, pair = Signal(), Signal(), Signal()
        m.d.comb += [
            pair.eq(self.i_a.valid & self.i_w.valid & some & ~for_table),
            self.i_a.ready.eq(core_a_ready & core_w_ready & self.i_w.valid & some & ~for_table),
            self.i_w.ready.eq(some & (for_table | (core_a_ready & core_w_ready & self.i_a.valid))),
            taken.eq(self.i_w.valid & self.i_w.ready),
            jobs.pop.eq(job_ready & jobs.some),
        ]
        m.submodules.core = Instance(
            f"{spec.name}_core",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_i_job__payload=self._job(jobs.head),
            i_i_job__valid=jobs.some,
            o_i_job__ready=job_ready,
            i_i_a__payload=self.i_a.payload[: spec.core_streams["i_a"].width],
            i_i_a__valid=pair & core_w_ready,
            o_i_a__ready=core_a_ready,
            i_i_w__payload=self.i_w.payload[: spec.core_streams["i_w"].width],
            i_i_w__valid=pair & core_a_ready,
            o_i_w__ready=core_w_ready,
            o_o__payload=result,
            o_o__valid=result_valid,
            i_o__ready=Const(1, 1),
        )
        return self._operate(
            m,
            op=op,
            op_full=op_full,
            begin=begin,
            kinds=(is_mac, is_read, is_activate, is_table),
            feed=(left, for_table, some, last, taken),
            jobs=jobs,
            tags=tags,
            result=(result, result_valid),
            bits=bits,
            count=count,
        )

    def _job(self, k_steps_m1: Value) -> Value:
        """The core's job: as many steps as the operation says, all else as wide as can be."""
        core = self.spec.core
        item = self.spec.core_streams["i_job"]
        job = Job(k_steps=1, weight_bits=core.max_weight_bits)
        values = core.job_values(job)
        parts: list[Value] = []
        for entry in item.fields:
            if entry.name == "k_steps_m1":
                parts.append(k_steps_m1)
            else:
                parts.append(Const(values[entry.name], entry.width))
        return Cat(*parts)

    def _operate(
        self,
        m: Module,
        *,
        op: dict[str, Value],
        op_full: Signal,
        begin: Signal,
        kinds: tuple[Signal, Signal, Signal, Signal],
        feed: tuple[Signal, Signal, Signal, Signal, Signal],
        jobs: Fifo,
        tags: Fifo,
        result: tuple[Signal, Signal],
        bits: int,
        count: int,
    ) -> Module:
        spec = self.spec
        is_mac, is_read, is_activate, is_table = kinds
        left, for_table, some, last, taken = feed
        made, made_valid = result

        accumulators = [Signal(bits, name=f"accumulator_{i}") for i in range(count)]
        chosen = Signal(bits, name="op_accumulator")
        index = op["accumulator"][: max(1, (count - 1).bit_length())]
        m.d.comb += chosen.eq(Array(accumulators)[index] if count > 1 else accumulators[0])
        tag_keep, tag_index = tags.head[0], tags.head[1:]
        summand = Signal(bits, name="tag_accumulator")
        m.d.comb += summand.eq(Array(accumulators)[tag_index] if count > 1 else accumulators[0])

        # When operations begin.
        busy = Signal(name="table_busy")
        adding = Signal(name="sum_under_way")
        free = Signal(name="columns_done")
        if timing.turn(spec) == 1:
            m.d.comb += free.eq(~some | (last & taken))
        else:
            gap = Signal(range(timing.turn(spec) - 1), name="gap")
            with m.If(gap.any()):
                m.d.sync += gap.eq(gap - 1)
            with m.If(last & taken & ~for_table):
                m.d.sync += gap.eq(timing.turn(spec) - 2)
            m.d.comb += free.eq(~some & ~gap.any())
        quiet = Signal()
        m.d.comb += quiet.eq(~tags.some & ~adding & ~busy)
        mac_begins, read_begins, table_begins = Signal(), Signal(), Signal()
        m.d.comb += [
            mac_begins.eq(op_full & is_mac & free & ~busy & jobs.room & tags.room),
            read_begins.eq(op_full & is_read & quiet & (~self.o.valid | self.o.ready)),
            table_begins.eq(op_full & is_table & quiet),
            begin.eq(mac_begins | read_begins | (op_full & ~is_mac & ~is_read & quiet)),
            jobs.push.eq(mac_begins),
            jobs.data.eq(op["k_steps_m1"]),
            tags.push.eq(mac_begins),
            tags.data.eq(Cat(op["keep"], op["accumulator"])),
            tags.pop.eq(made_valid),
        ]
        with m.If(taken):
            m.d.sync += left.eq(left - 1)
        with m.If(mac_begins):
            steps = Signal(range(spec.core.max_k_steps + 1), name="k_steps")
            m.d.comb += steps.eq(op["k_steps_m1"] + 1)
            m.d.sync += [left.eq(steps * len(spec.passes)), for_table.eq(0)]
        if spec.table_columns:
            with m.If(table_begins):
                m.d.sync += [left.eq(spec.table_columns), for_table.eq(1)]

        m.d.sync += self.o.valid.eq(read_begins | (self.o.valid & ~self.o.ready))
        with m.If(read_begins):
            m.d.sync += self.o.payload.eq(chosen)

        # What is written: one source at a time.
        write, value, where = Signal(), Signal(bits, name="written"), Signal(len(index))
        with m.If(op_full & ~is_mac & ~is_read & ~is_table & quiet):
            m.d.comb += [
                write.eq(1),
                where.eq(index),
                value.eq(self._quick(op, chosen, is_activate)),
            ]
        entry, table_done, table_where = self._table(m, op, feed, table_begins, busy, chosen)
        if spec.fp32:
            self._floats(
                m,
                (made, made_valid),
                (tag_keep, tag_index, summand),
                (entry, table_done, table_where),
                (busy, adding),
                accumulators,
                (write, value, where),
            )
        else:
            self._integers(
                m,
                (made, made_valid),
                (tag_keep, tag_index, summand),
                (entry, table_done, table_where),
                busy,
                accumulators,
                (write, value, where),
            )
        for number, accumulator in enumerate(accumulators):
            with m.If(write & (where == number)):
                m.d.sync += accumulator.eq(value)
        return m

    def _quick(self, op: dict[str, Value], chosen: Value, is_activate: Value) -> Value:
        """What a bias, or a function without a table, writes."""
        bits, code = len(chosen), op["bias"]
        bias: Value = Cat(Const(0, 16), code) if self.spec.fp32 else code.as_signed()
        wide = bias if self.spec.fp32 else Cat(code, code[15].replicate(bits - 16))
        rectified = chosen & ~(chosen[-1] & (op["function"] == golden.RELU)).replicate(bits)
        return Mux(is_activate, rectified, wide)

    def _table(
        self,
        m: Module,
        op: dict[str, Value],
        feed: tuple[Signal, Signal, Signal, Signal, Signal],
        begins: Signal,
        busy: Signal,
        chosen: Signal,
    ) -> tuple[Signal, Signal, Signal]:
        """The entry that an accumulator goes by; a cycle when it is there; whose it is."""
        spec = self.spec
        left, for_table, _, last, taken = feed
        entry = Signal(32, name="entry", reset_less=True)
        done = Signal(name="entry_there")
        where = Signal(op["accumulator"].shape(), name="table_accumulator", reset_less=True)
        if not spec.table_columns:
            return entry, done, where
        segments = spec.unit.activation.segments
        wanted = Signal(range(segments), name="segment", reset_less=True)
        with m.If(begins):
            m.d.sync += [
                busy.eq(1),
                where.eq(op["accumulator"]),
                wanted.eq(self._segment(m, chosen)),
            ]
        low = (spec.entries - 1).bit_length()
        picked = Signal(32, name="picked")
        with m.Switch(wanted[:low]):
            for number in range(spec.entries):
                with m.Case(number):
                    m.d.comb += picked.eq(self.i_w.payload.word_select(number, 32))
        here = Signal(name="column_wanted")
        if spec.table_columns > 1:
            # Columns count down from the table's first.
            m.d.comb += here.eq(wanted[low:] == (spec.table_columns - left)[: len(wanted) - low])
        else:
            m.d.comb += here.eq(1)
        with m.If(taken & for_table & here):
            m.d.sync += entry.eq(picked)
        m.d.sync += done.eq(taken & for_table & last)
        return entry, done, where

    def _segment(self, m: Module, x: Signal) -> Value:
        """The entry's number: the floor of ``x`` in segments, from the lowest, within the table."""
        form = self.spec.unit.activation
        bits = form.segments.bit_length() - 1
        half, log2 = form.segments // 2, form.segment_log2
        if not self.spec.fp32:
            top = x[log2:].as_signed()
            inside = Signal(name="segment_inside")
            beyond = x[log2 + bits - 1 :]
            m.d.comb += inside.eq(~(beyond.any() & ~beyond.all()))
            # Offset binary: the sign complemented.
            return Mux(
                inside,
                Cat(top[: bits - 1], ~top[bits - 1]),
                (~x[-1]).replicate(bits),
            )
        sign, stored, mantissa = x[31], x[23:31], x[:23]
        significand = Cat(mantissa, Const(1, 1))
        whole = Signal(bits, name="segment_whole")
        part = Signal(name="segment_part")
        m.d.comb += [whole.eq(0), part.eq(x[:31].any())]
        for power in range(bits - 1):
            code = FP32.bias + log2 + power
            if 0 < code < 255:
                with m.If(stored == code):
                    m.d.comb += [
                        whole.eq(significand[23 - power :]),
                        part.eq(significand[: 23 - power].any()),
                    ]
        reach = FP32.bias + log2 + bits - 1
        outside = Signal(name="segment_outside")
        m.d.comb += outside.eq(stored >= max(reach, 0))
        index = Signal(bits, name="segment_index")
        m.d.comb += index.eq(Mux(sign, half - whole - part, half + whole))
        return Mux(outside, (~sign).replicate(bits), index)

    def _integers(
        self,
        m: Module,
        made: tuple[Signal, Signal],
        tag: tuple[Value, Value, Signal],
        table: tuple[Signal, Signal, Signal],
        busy: Signal,
        accumulators: list[Signal],
        written: tuple[Signal, Signal, Signal],
    ) -> None:
        """Sums in the cycle of the result; a line's product in one cycle, its sum in the next."""
        spec, bits = self.spec, self.spec.unit.accumulator_bits
        result, valid = made
        keep, index, summand = tag
        write, value, where = written
        total = Signal(bits, name="sum")
        m.submodules.sum = Instance(
            "rtlgen_add",
            p_WIDTH=bits,
            i_a=Cat(result, result[-1].replicate(bits - len(result))),
            i_b=summand & keep.replicate(bits),
            i_ci=Const(0, 1),
            o_s=total,
            o_co=Signal(name="sum_over"),
        )
        with m.If(valid):
            m.d.comb += [write.eq(1), value.eq(total), where.eq(index)]
        if not spec.table_columns:
            return
        entry, done, place = table
        x = Signal(signed(bits), name="table_x")
        selected = place[: max(1, (len(accumulators) - 1).bit_length())]
        m.d.comb += x.eq(
            Array(accumulators)[selected] if len(accumulators) > 1 else accumulators[0]
        )
        product = Signal(signed(bits + 16), name="line_product", reset_less=True)
        ready = Signal(name="line_ready")
        m.d.sync += [product.eq(x * entry[:16].as_signed()), ready.eq(done)]
        fraction = spec.unit.activation.fraction
        line = Signal(bits, name="line")
        m.submodules.line = Instance(
            "rtlgen_add",
            p_WIDTH=bits,
            i_a=product.as_unsigned()[fraction : fraction + bits],
            i_b=Cat(entry[16:], entry[31].replicate(bits - 16)),
            i_ci=Const(0, 1),
            o_s=line,
            o_co=Signal(name="line_over"),
        )
        with m.If(ready):
            m.d.comb += [write.eq(1), value.eq(line), where.eq(place)]
            m.d.sync += busy.eq(0)

    def _floats(
        self,
        m: Module,
        made: tuple[Signal, Signal],
        tag: tuple[Value, Value, Signal],
        table: tuple[Signal, Signal, Signal],
        flags: tuple[Signal, Signal],
        accumulators: list[Signal],
        written: tuple[Signal, Signal, Signal],
    ) -> None:
        """One adder of three cycles for sums and lines, and a line's multiplier of three."""
        spec = self.spec
        result, valid = made
        keep, index, summand = tag
        entry, done, place = table
        busy, adding = flags
        write, value, where = written
        left: Value = result
        right: Value = Mux(keep, summand, MINUS_ZERO)
        start: Value = valid
        target: Value = index
        line_start = Signal(name="line_start")
        if spec.table_columns:
            x = Signal(FP32.width, name="table_x")
            selected = place[: max(1, (len(accumulators) - 1).bit_length())]
            m.d.comb += x.eq(
                Array(accumulators)[selected] if len(accumulators) > 1 else accumulators[0]
            )
            cut = registers(m, "line", ("product", "moved", "rounded"))
            product = multiply(
                m,
                "line",
                FP32,
                factor(FP32, unpack(m, "line_x", FP32, x)),
                factor(BF16, unpack(m, "line_slope", BF16, entry[:16])),
                cut=cut,
            )
            product = cut("rounded", "code", product)
            stage: Value = done
            for number in range(3):
                register = Signal(name=f"line_{number}")
                m.d.sync += register.eq(stage)
                stage = register
            m.d.comb += line_start.eq(stage)
            left = Mux(line_start, product, result)
            right = Mux(line_start, Cat(Const(0, 16), entry[16:]), right)
            start = valid | line_start
            target = Mux(line_start, place, index)
        total = add(m, "sum", FP32, left, right, cut=registers(m, "sum", ("aligned", "counted")))
        stages: list[tuple[Value, Value]] = [(start, target)]
        for number in range(2):
            there = Signal(name=f"sum_valid_{number}")
            mine = Signal(len(index), name=f"sum_index_{number}", reset_less=True)
            m.d.sync += [there.eq(stages[-1][0]), mine.eq(stages[-1][1])]
            stages.append((there, mine))
        m.d.comb += adding.eq(stages[1][0] | stages[2][0])
        with m.If(stages[2][0]):
            m.d.comb += [write.eq(1), value.eq(total), where.eq(stages[2][1])]
            m.d.sync += busy.eq(0)


def build(spec: PimBankSpec) -> Design:
    """The design of a specification."""
    inner = block(spec.core.block).build(spec.core)
    library = dict.fromkeys([*LIBRARY, *inner.library])
    return Design(
        top=PimBank(spec),
        parts={**inner.parts, f"{spec.name}_core": inner.top},
        library=tuple(library),
    )

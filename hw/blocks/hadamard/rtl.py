"""RTL of the Hadamard rotation: log2(size) stages of butterflies, one bit wider each."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring

from hw.block import Design
from hw.blocks.hadamard import golden
from hw.blocks.hadamard.spec import JOB_BEATS_BITS, HadamardSpec
from hw.lib.gemm_shell import component_streams, field_slice


class Hadamard(wiring.Component):
    """Beats in, rotated beats out, one a cycle.

    Streams: ``i_job`` (with signs), ``i``, ``o``; see ``golden``. Latency ``2 + registers`` cycles,
    interval 1.
    """

    def __init__(self, spec: HadamardSpec):
        self.spec = spec
        super().__init__(component_streams(golden.streams(spec)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        stages = spec.registers + 2
        full = [Signal(name=f"full_{i}") for i in range(stages)]
        move = [Signal(name=f"move_{i}") for i in range(stages)]
        load = [Signal(name=f"load_{i}") for i in range(stages)]
        signs = self._job(m, move[0])
        ready: Value = Const(1, 1)
        if signs is not None:
            ready = signs[-1]
        for i in range(stages):
            free = self.o.ready if i == stages - 1 else ~full[i + 1] | move[i + 1]
            go = full[i] & free
            m.d.comb += move[i].eq(go & ready if i == 0 else go)
            if i:
                m.d.comb += load[i].eq(move[i - 1])
            m.d.sync += full[i].eq(load[i] | (full[i] & ~move[i]))
        m.d.comb += [
            self.i.ready.eq(~full[0] | move[0]),
            load[0].eq(self.i.valid & self.i.ready),
            self.o.valid.eq(full[-1]),
        ]

        held = Signal(len(self.i.payload), reset_less=True)
        with m.If(load[0]):
            m.d.sync += held.eq(self.i.payload)
        values: list[Value] = []
        for lane in range(spec.size):
            value = held.word_select(lane, spec.bits).as_signed()
            if signs is not None:
                flipped = Signal(signed(spec.bits + 1), name=f"signed_{lane}")
                wide = Cat(value, value[-1])
                m.d.comb += flipped.eq((wide ^ signs[lane].replicate(spec.bits + 1)) + signs[lane])
                value = flipped
            values.append(value)
        cuts = {-(-(i + 1) * spec.stages // (spec.registers + 1)): i for i in range(spec.registers)}
        for stage in range(spec.stages):
            values = self._butterflies(m, values, stage)
            if stage + 1 in cuts:
                values = self._registered(m, values, load[cuts[stage + 1] + 1], cuts[stage + 1])
        results = [self._rounded(m, value, lane) for lane, value in enumerate(values)]
        made = Signal(len(self.o.payload), reset_less=True)
        with m.If(load[-1]):
            m.d.sync += made.eq(Cat(*results))
        m.d.comb += self.o.payload.eq(made)
        return m

    def _job(self, m: Module, move: Value) -> Value | None:
        """Signs, and in the bit above whether a job runs; None without jobs."""
        spec = self.spec
        if spec.signs == "none":
            return None
        job = golden.streams(spec)[0]
        active, finish, load = Signal(), Signal(), Signal()
        left = Signal(JOB_BEATS_BITS, reset_less=True)
        signs = Signal(spec.size, reset_less=True)
        m.d.comb += [
            finish.eq(move & ~left.any()),
            self.i_job.ready.eq(~active | finish),
            load.eq(self.i_job.valid & self.i_job.ready),
        ]
        m.d.sync += active.eq(load | (active & ~finish))
        with m.If(move):
            m.d.sync += left.eq(left - 1)
        with m.If(load):
            m.d.sync += [
                left.eq(field_slice(job, self.i_job.payload, "beats_m1")),
                signs.eq(field_slice(job, self.i_job.payload, "signs")),
            ]
        return Cat(signs, active)

    def _butterflies(self, m: Module, values: list[Value], stage: int) -> list[Value]:
        """Sums and differences of elements ``2^stage`` apart."""
        distance = 1 << stage
        found: list[Value] = list(values)
        for low in range(self.spec.size):
            if low & distance:
                continue
            high = low + distance
            a, b = values[low], values[high]
            width = max(len(a), len(b)) + 1
            total = Signal(signed(width), name=f"sum_{stage}_{low}")
            difference = Signal(signed(width), name=f"difference_{stage}_{low}")
            m.d.comb += [total.eq(a + b), difference.eq(a - b)]
            found[low], found[high] = total, difference
        return found

    def _registered(self, m: Module, values: list[Value], enable: Value, index: int) -> list[Value]:
        found: list[Value] = []
        for lane, value in enumerate(values):
            register = Signal(value.shape(), name=f"cut_{index}_{lane}", reset_less=True)
            with m.If(enable):
                m.d.sync += register.eq(value)
            found.append(register)
        return found

    def _rounded(self, m: Module, value: Value, lane: int) -> Value:
        """``value / 2^shift``, ties to even: the bit below the point is added unless what it makes
        would be odd and nothing else is below."""
        spec = self.spec
        result = Signal(signed(spec.result_bits), name=f"result_{lane}")
        if not spec.shift:
            m.d.comb += result.eq(value)
            return result
        whole = (value >> spec.shift).as_signed()
        half, below = value[spec.shift - 1], value[: spec.shift - 1]
        up = Signal(name=f"up_{lane}")
        m.d.comb += [up.eq(half & (below.any() | whole[0])), result.eq(whole + up)]
        return result


def build(spec: HadamardSpec) -> Design:
    """The design of a specification."""
    return Design(top=Hadamard(spec))

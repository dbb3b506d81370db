"""RTL of the quantizer.

Beats go into a buffer while the largest magnitude of their group is found; once the scale is there,
they come out of it again through the lanes. The buffer holds the longest group and what comes in
while a scale is computed, so one beat a cycle goes in and one comes out. Everything is elastic: a
register takes its next value when it is empty or its own moves on.
"""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring

from hw.block import Design
from hw.blocks.quantize import golden
from hw.blocks.quantize.lane import Lane, wants
from hw.blocks.quantize.scale import Stages, group_scale, key, key_width
from hw.blocks.quantize.spec import JOB_GROUPS_BITS, QuantizeSpec
from hw.blocks.quantize.timing import lane_stages, scale_stages
from hw.lib.fifo import Fifo
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY


def buffer_depth(spec: QuantizeSpec) -> int:
    """The longest group, and what comes in from its last beat to the first one's way out."""
    return spec.beats + (spec.length == "job") + scale_stages(spec) + 1


class Quantize(wiring.Component):
    """Groups in, codes and scales out, a beat a cycle.

    Streams: ``i_job`` (if groups have lengths or a tensor scale by job), ``i``, ``o``; see
    ``golden``. Latency and interval: see ``timing``.

    Parts by name: ``<name>_buffer`` and ``<name>_lane``.
    """

    def __init__(self, spec: QuantizeSpec):
        self.spec = spec
        super().__init__(component_streams(golden.streams(spec)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec

        # The port's register.
        held = Signal(len(self.i.payload), reset_less=True)
        full = Signal()
        take = Signal()
        m.d.comb += self.i.ready.eq(~full | take)
        m.d.sync += full.eq((self.i.valid & self.i.ready) | (full & ~take))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += held.eq(self.i.payload)

        active, first, last, tensor = self._job(m, take)

        # Largest magnitude of a beat, then of the group so far.
        peak_full = Signal()
        peak_move = Signal()
        room = Signal()
        m.d.comb += take.eq(full & active & room & (~peak_full | peak_move))
        m.d.sync += peak_full.eq(take | (peak_full & ~peak_move))
        width = spec.source.width
        magnitudes = [
            key(m, spec, f"element_{i}", held[i * width : (i + 1) * width - 1])
            for i in range(spec.lanes)
        ]
        peak = Signal(key_width(spec), reset_less=True)
        peak_first = Signal(reset_less=True)
        peak_last = Signal(reset_less=True)
        peak_tensor = tensor
        with m.If(take):
            m.d.sync += [
                peak.eq(_largest(m, "beat", magnitudes)),
                peak_first.eq(first),
                peak_last.eq(last),
            ]
            if spec.kind == "nv":
                peak_tensor = Signal(32, reset_less=True)
                m.d.sync += peak_tensor.eq(tensor)
        running = Signal(key_width(spec), reset_less=True)
        best = Signal(key_width(spec))
        m.d.comb += best.eq(
            Mux(~peak_first & (running > peak), running, peak) if spec.beats > 1 else peak
        )
        with m.If(peak_move):
            m.d.sync += running.eq(best)

        # The scale, register by register.
        count = scale_stages(spec)
        known = [Signal(name=f"known_{i}") for i in range(count)]
        moves = [Signal(name=f"known_move_{i}") for i in range(count)]
        loads = [Signal(name=f"known_load_{i}") for i in range(count)]
        complete = Signal()
        open_ = Signal()
        m.d.comb += [open_.eq(~known[0] | moves[0]), loads[0].eq(complete & open_)]
        absmax: Value = best
        if spec.length == "job":
            # Short groups behind a long one wait with their magnitudes; of each one beat at least
            # is in the buffer, and there is a place for every one that the stages do not hold.
            m.d.comb += peak_move.eq(peak_full)
            absmax = self._queue(m, peak_move & peak_last, best, complete, loads[0])
        else:
            m.d.comb += [
                complete.eq(peak_full & peak_last),
                peak_move.eq(peak_full & (~peak_last | open_)),
            ]
        for i in range(count):
            if i + 1 < count:
                m.d.comb += [
                    moves[i].eq(known[i] & (~known[i + 1] | moves[i + 1])),
                    loads[i + 1].eq(moves[i]),
                ]
            m.d.sync += known[i].eq(loads[i] | (known[i] & ~moves[i]))
        found = group_scale(m, spec, loads, absmax, peak_tensor)

        # The buffer.
        pop = Signal()
        word = Signal(len(held) + 1)
        m.submodules.buffer = Instance(
            f"{spec.name}_buffer",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_push=take,
            i_data=Cat(last, held),
            o_room=room,
            i_pop=pop,
            o_head=word,
            o_some=Signal(name="buffer_some"),
        )
        depth = lane_stages(spec)
        busy = [Signal(name=f"busy_{i}") for i in range(depth)]
        go = [Signal(name=f"go_{i}") for i in range(depth)]
        enables = [Signal(name=f"enable_{i}") for i in range(depth)]
        m.d.comb += [
            pop.eq(known[-1] & (~busy[0] | go[0])),
            moves[-1].eq(pop & word[0]),
            enables[0].eq(pop),
        ]
        for i in range(depth):
            out_of_the_way = self.o.ready if i == depth - 1 else ~busy[i + 1] | go[i + 1]
            m.d.comb += go[i].eq(busy[i] & out_of_the_way)
            if i + 1 < depth:
                m.d.comb += enables[i + 1].eq(go[i])
            m.d.sync += busy[i].eq(enables[i] | (busy[i] & ~go[i]))

        # What lanes share goes beside them.
        inputs: dict[str, Value] = {}
        shared = {"scale": found.scale, "last": word[0], **found.params}
        needed = {"scale": depth, "last": depth}
        for name, (_, where) in wants(spec).items():
            needed[name] = where.stop
            if where.start < 0:
                inputs[f"i_{name}"] = found.params[name]
        stages = Stages(m, "beside", enables)
        for i in range(depth):
            alive = {name: value for name, value in shared.items() if needed[name] > i}
            shared = dict(zip(alive, stages.registers(**alive), strict=True))
            for name, (_, where) in wants(spec).items():
                if i in where:
                    inputs[f"i_{name}_{i}"] = shared[name]
        codes = []
        for i in range(spec.lanes):
            code = Signal(spec.format.element.width, name=f"code_{i}")
            m.submodules[f"lane_{i}"] = Instance(
                f"{spec.name}_lane",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_x=word[1 + i * width : 1 + (i + 1) * width],
                i_en=Cat(*enables),
                o_q=code,
                **inputs,
            )
            codes.append(code)
        m.d.comb += [
            self.o.valid.eq(busy[-1]),
            self.o.payload.eq(Cat(*codes, shared["scale"], shared["last"])),
        ]
        return m

    def _job(self, m: Module, take: Value) -> tuple[Value, Value, Value, Value]:
        """Whether a job runs, first and last beat of a group, and the tensor scale."""
        spec = self.spec
        last: Value = Const(1, 1)
        first: Value = Const(1, 1)
        beats_left = Signal(range(max(2, spec.beats)), init=spec.beats - 1)
        if spec.beats > 1:
            first, last = Signal(init=1), Signal()
            m.d.comb += last.eq(~beats_left.any())
            with m.If(take):
                m.d.sync += [first.eq(last), beats_left.eq(beats_left - 1)]
        if not spec.has_job:
            if spec.beats > 1:
                with m.If(take & last):
                    m.d.sync += beats_left.eq(spec.beats - 1)
            return Const(1, 1), first, last, Const(0, 0)

        job = golden.job_stream(spec)
        active, finish, load = Signal(), Signal(), Signal()
        groups_left = Signal(JOB_GROUPS_BITS, reset_less=True)
        m.d.comb += [
            finish.eq(take & last & ~groups_left.any()),
            self.i_job.ready.eq(~active | finish),
            load.eq(self.i_job.valid & self.i_job.ready),
        ]
        m.d.sync += active.eq(load | (active & ~finish))
        again: Value = Const(spec.beats - 1, len(beats_left))
        if spec.length == "job":
            beats_m1 = Signal.like(beats_left, reset_less=True)
            again = beats_m1
        with m.If(take & last):
            m.d.sync += groups_left.eq(groups_left - 1)
            if spec.beats > 1:
                m.d.sync += beats_left.eq(again)
        tensor: Value = Const(0, 0)
        if spec.kind == "nv":
            tensor = Signal(32, name="tensor_scale", reset_less=True)
        with m.If(load):
            m.d.sync += groups_left.eq(field_slice(job, self.i_job.payload, "groups_m1"))
            if spec.length == "job":
                beats = field_slice(job, self.i_job.payload, "beats_m1")
                m.d.sync += [beats_m1.eq(beats), beats_left.eq(beats)]
            if spec.kind == "nv":
                m.d.sync += tensor.eq(field_slice(job, self.i_job.payload, "tensor_scale"))
        return active, first, last, tensor

    def _queue(self, m: Module, push: Value, data: Value, complete: Signal, pop: Value) -> Value:
        """Magnitudes that wait for their turn."""
        head = Signal(len(data), name="waiting")
        m.submodules.queue = Instance(
            f"{self.spec.name}_queue",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_push=push,
            i_data=data,
            o_room=Signal(name="queue_room"),
            i_pop=pop,
            o_head=head,
            o_some=complete,
        )
        return head


def _largest(m: Module, name: str, values: list[Value]) -> Value:
    """The largest of some unsigned values, by pairs."""
    level = 0
    while len(values) > 1:
        pairs: list[Value] = []
        for i in range(0, len(values) - 1, 2):
            winner = Signal(len(values[i]), name=f"{name}_{level}_{i // 2}")
            m.d.comb += winner.eq(Mux(values[i] > values[i + 1], values[i], values[i + 1]))
            pairs.append(winner)
        values = pairs + values[len(pairs) * 2 :]
        level += 1
    return values[0]


def build(spec: QuantizeSpec) -> Design:
    """The design of a specification."""
    width = spec.source.width
    parts: dict[str, wiring.Component] = {
        f"{spec.name}_buffer": Fifo(spec.lanes * width + 1, buffer_depth(spec)),
        f"{spec.name}_lane": Lane(spec),
    }
    if spec.length == "job":
        parts[f"{spec.name}_queue"] = Fifo(key_width(spec), buffer_depth(spec) - scale_stages(spec))
    return Design(top=Quantize(spec), parts=parts, library=LIBRARY)

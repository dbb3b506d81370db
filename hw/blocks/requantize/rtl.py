"""RTL of requantization."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, ResetSignal, Signal, Value
from amaranth.hdl import signed as signed_shape
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.blocks.requantize import golden
from hw.blocks.requantize.spec import RequantizeSpec
from hw.lib.float_ops import (
    Cut,
    Exact,
    Factor,
    exact,
    factor,
    integer_factor,
    product,
    registers,
    round_exact,
)
from hw.lib.floats import Fixed, fix, unpack
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY

STEPS = ("product", "moved")
"""Registers between a lane's port and its last register, in this order."""


def steps(spec: RequantizeSpec) -> tuple[str, ...]:
    """Those of :data:`STEPS` that a specification has."""
    there = {"product": spec.multiplies, "moved": spec.integer or spec.normalises}
    return tuple(step for step in STEPS if there[step])


class Lane(wiring.Component):
    """One element: exact product, shift, rounding.

    Members:
        x, scale: the element and its scale, in stage 0; zero: its zero point, in the last stage.
        enable: one bit a stage: take what comes before into the stage's register.
        y: the last stage's register.
    """

    def __init__(self, spec: RequantizeSpec):
        self.spec = spec
        self.steps = steps(spec)
        members = {"x": spec.input_bits, "enable": len(self.steps) + 1}
        if spec.scale_format is not None:
            members["scale"] = spec.scale_format.width
        if spec.zero_point:
            members["zero"] = 8
        super().__init__(
            {**{name: In(width) for name, width in members.items()}, "y": Out(spec.target_bits)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        cut = registers(m, "", self.steps, self.enable)
        element = self._element(m)
        if spec.scale_format is None:
            value = exact(element)
        else:
            parts = unpack(m, "scale", spec.scale_format, self.scale)
            value = product(m, "scaled", element, factor(spec.scale_format, parts), cut=cut)
        y = self._integer(m, value, cut) if spec.integer else self._float(m, value, cut)
        register = Signal(spec.target_bits, name="y_q", reset_less=True)
        with m.If(self.enable[-1]):
            m.d.sync += register.eq(y)
        m.d.comb += self.y.eq(register)
        return m

    def _element(self, m: Module) -> Factor:
        form = self.spec.input_format
        if form is not None:
            return factor(form, unpack(m, "x", form, self.x))
        return integer_factor(m, "x", self.x)

    def _float(self, m: Module, value: Exact, cut: Cut) -> Value:
        spec = self.spec
        return round_exact(
            m,
            "rounded",
            spec.target_format,
            value,
            cut=cut,
            overflow=spec.overflow,
            normal=not spec.normalises,
        )

    def _integer(self, m: Module, value: Exact, cut: Cut) -> Value:
        spec = self.spec
        low, high = spec.bounds
        fixed = fix(m, "fixed", value.magnitude, value.power, spec.target_bits)
        fixed = _behind(cut, fixed)
        sign, nan, inf = (
            cut("moved", name, flag)
            for name, flag in (("sign", value.sign), ("nan", value.nan), ("inf", value.inf))
        )
        up, far = Signal(name="up"), Signal(name="far")
        nearest = Signal(spec.target_bits + 1, name="nearest")
        total = Signal(signed_shape(spec.target_bits + 3), name="total")
        clipped = Signal(signed_shape(spec.target_bits + 1), name="clipped")
        m.d.comb += [
            up.eq(fixed.guard & (fixed.sticky | fixed.whole[0])),
            # A NaN is the zero point.
            nearest.eq((fixed.whole + up) & (~nan).replicate(len(nearest))),
            far.eq((fixed.over | inf) & ~nan),
            clipped.eq(total),
        ]
        # The zero point plus or minus the nearest integer: a complement and a carry.
        width = len(total)
        magnitude, zero = Signal(width, name="wide"), Signal(width, name="zero_wide")
        m.d.comb += magnitude.eq(nearest)
        if spec.zero_point:
            m.d.comb += zero.eq(self.zero.as_signed() if spec.signed else self.zero)
        m.submodules.add = Instance(
            "rtlgen_add",
            p_WIDTH=width,
            i_a=magnitude ^ sign.replicate(width),
            i_b=zero,
            i_ci=sign,
            o_s=total,
            o_co=Signal(name="total_over"),
        )
        with m.If(Mux(far, ~sign, total > high)):
            m.d.comb += clipped.eq(high)
        with m.Elif(Mux(far, sign, total < low)):
            m.d.comb += clipped.eq(low)
        return clipped[: spec.target_bits]


def _behind(cut: Cut, parts: Fixed) -> Fixed:
    return parts.through(lambda field, value: cut("moved", field, value))


class Requantize(wiring.Component):
    """Results in, narrower codes out, one beat a cycle.

    Streams are those of ``golden``. The input is registered at its port, and waits there for a job
    that says its scales; a register follows each step of a lane, the last one at the output. A step
    moves on when the next is free, so that nothing is lost or repeated by any stall.

    Latency: see ``timing``; interval 1 cycle, jobs back to back. Part by name: ``<name>_lane``.
    """

    def __init__(self, spec: RequantizeSpec):
        self.spec = spec
        self.streams = {item.name: item for item in golden.streams(spec)}
        super().__init__(component_streams(tuple(self.streams.values())))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        count = len(steps(spec)) + 1
        held = Signal(self.streams["i"].width, name="i_held", reset_less=True)
        full = Signal(name="i_full")
        valid = [Signal(name=f"valid_{i}") for i in range(count)]
        move = [Signal(name=f"move_{i}") for i in range(count)]
        free = [*(~each for each in valid[1:]), ~self.o.valid | self.o.ready]
        after = [*move[1:], Const(0, 1)]
        m.d.comb += [
            self.i.ready.eq(~full | move[0]),
            *(move[i].eq(valid[i] & (free[i] | after[i])) for i in range(count)),
        ]
        m.d.sync += [
            full.eq(self.i.valid | (full & ~move[0])),
            *(valid[i].eq(move[i - 1] | (valid[i] & ~move[i])) for i in range(1, count)),
            self.o.valid.eq(move[-1] | (self.o.valid & ~self.o.ready)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += held.eq(self.i.payload)

        described: dict[str, Value] = {}
        if spec.has_jobs:
            described = self._job(m, valid[0], full, move[0])
        else:
            m.d.comb += valid[0].eq(full)
        zero = described.get("zero")
        if zero is not None:
            for i in range(count - 1):
                register = Signal(len(zero), name=f"zero_{i}", reset_less=True)
                with m.If(move[i]):
                    m.d.sync += register.eq(zero)
                zero = register

        codes = []
        for index in range(spec.tile.m * spec.tile.n):
            row = index // spec.tile.n if spec.scales > 1 else 0
            extra = {}
            if "scale" in described and spec.scale_format is not None:
                extra["i_scale"] = described["scale"].word_select(row, spec.scale_format.width)
            if zero is not None:
                extra["i_zero"] = zero.word_select(row, 8)
            code = Signal(spec.target_bits, name=f"code_{index}")
            m.submodules[f"lane_{index}"] = Instance(
                f"{spec.name}_lane",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_x=held.word_select(index, spec.input_bits),
                i_enable=Cat(*move),
                o_y=code,
                **extra,
            )
            codes.append(code)
        m.d.comb += self.o.payload.eq(Cat(*codes))
        return m

    def _job(self, m: Module, ready: Signal, full: Signal, taken: Signal) -> dict[str, Value]:
        """Job control; says when the beat at the port has its scales, and gives these."""
        job = self.streams["i_job"]
        active, begin, finish = Signal(), Signal(), Signal()
        left = Signal(job.fields[0].width)
        m.d.comb += [
            ready.eq(full & active),
            finish.eq(taken & ~left.any()),
            self.i_job.ready.eq(~active | finish),
            begin.eq(self.i_job.valid & self.i_job.ready),
        ]
        with m.If(taken):
            m.d.sync += left.eq(left - 1)
        with m.If(finish):
            m.d.sync += active.eq(0)
        with m.If(begin):
            m.d.sync += [
                active.eq(1),
                left.eq(field_slice(job, self.i_job.payload, "beats_m1")),
            ]
        described: dict[str, Value] = {}
        for item in job.fields[1:]:
            register = Signal(item.bits, name=f"job_{item.name}", reset_less=True)
            with m.If(begin):
                m.d.sync += register.eq(field_slice(job, self.i_job.payload, item.name))
            described[item.name] = register
        return described


def build(spec: RequantizeSpec) -> Design:
    """The design of a specification."""
    return Design(top=Requantize(spec), parts={f"{spec.name}_lane": Lane(spec)}, library=LIBRARY)

"""RTL of the fused table generator: a lane an element, and the generator of ``lut_core``."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, ClockSignal, Instance, Module, ResetSignal, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.blocks.fused_tables import golden
from hw.blocks.fused_tables.spec import JOB_BEATS_BITS, FusedTablesSpec
from hw.blocks.fused_tables.timing import LATENCY
from hw.blocks.lut_core.front import TableGenerator
from hw.formats import FP16, FloatFormat
from hw.lib.floats import normalise, unpack
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY
from hw.lib.integers import clipped, window

POWER = 10
"""Bits of the exponent of a factor, two's complement."""


@dataclass(frozen=True)
class Factor:
    """``(−1)^sign · significand · 2^power``, its leading one on top, and what it is if that is
    no number."""

    significand: Value
    power: Value
    sign: Value
    zero: Value
    inf: Value
    nan: Value

    @property
    def lines(self) -> Value:
        """All of it, for a port or a register."""
        return Cat(self.significand, self.power, self.sign, self.zero, self.inf, self.nan)

    @staticmethod
    def width(form: FloatFormat) -> int:
        """Bits of :attr:`lines`."""
        return form.mantissa_bits + 1 + POWER + 4

    @staticmethod
    def of(lines: Value) -> Factor:
        """The inverse of :attr:`lines`."""
        top = len(lines) - POWER - 4
        power = lines[top : top + POWER].as_signed()
        return Factor(lines[:top], power, lines[-4], lines[-3], lines[-2], lines[-1])


def factor(m: Module, name: str, form: FloatFormat, code: Value) -> Factor:
    """A code as a factor."""
    parts = unpack(m, name, form, code)
    power = parts.exponent - (form.bias + form.mantissa_bits)
    found = normalise(m, f"{name}_norm", parts.significand, power)
    held = Signal(signed(POWER), name=f"{name}_power")
    m.d.comb += held.eq(found.exponent)
    return Factor(found.magnitude, held, parts.sign, parts.zero, parts.inf, parts.nan)


class Lane(wiring.Component):
    """One element: times its gain, times its row's multiplier, to a code.

    Members:
        x, gain: codes; gain only with gains.
        row: the multiplier's lines, behind the first register.
        en: enables of three registers.
        q: the code.
    """

    def __init__(self, spec: FusedTablesSpec):
        self.spec = spec
        gains = {"gain": In(Factor.width(FP16))} if spec.gain else {}
        super().__init__(
            {
                "x": In(spec.source.width),
                **gains,
                "row": In(Factor.width(spec.factor)),
                "en": In(3),
                "q": Out(spec.activations.bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        bits = spec.activations.bits
        found = factor(m, "x", spec.source, self.x)
        if spec.gain:
            found = self._times(m, "gained", found, Factor.of(self.gain))
        found = self._registered(m, "gained", found, 0)
        found = self._times(m, "scaled", found, Factor.of(self.row))
        found = self._registered(m, "scaled", found, 1)

        # The leading one is in one of three places (two without gains). So many more bits are on
        # top of a code's that anything beyond them has to be clipped.
        spare = 2 if spec.gain else 1
        product = found.significand
        down = Signal(signed(POWER + 4), name="shift")
        m.d.comb += down.eq(bits - 2 + spare - (len(product) - 1) - found.power)
        kept, below = window(m, product, bits + spare, down, bits + spare - 1)
        over = Signal(name="over")
        some = Signal(name="some")
        number = ~found.nan & ~found.zero  # zero times infinity is 0, too
        m.d.comb += [
            some.eq(number & ~found.inf),
            over.eq(number & (found.inf | (down < 0) | kept[bits:].any())),
        ]
        code = clipped(
            m,
            bits,
            sign=found.sign & number,
            magnitude=kept[:bits] & some.replicate(bits),
            below=below & some,
            over=over,
        )
        held = Signal(bits, name="code_q", reset_less=True)
        with m.If(self.en[2]):
            m.d.sync += held.eq(code)
        m.d.comb += self.q.eq(held)
        return m

    def _times(self, m: Module, name: str, a: Factor, b: Factor) -> Factor:
        """The exact product. Zero and infinity may stand together: that is no number either."""
        product = Signal(len(a.significand) + len(b.significand), name=f"{name}_product")
        power = Signal(signed(POWER + 2), name=f"{name}_power")
        zero, inf = Signal(name=f"{name}_zero"), Signal(name=f"{name}_inf")
        nan = Signal(name=f"{name}_nan")
        m.d.comb += [
            product.eq(a.significand * b.significand),
            power.eq(a.power + b.power),
            zero.eq(a.zero | b.zero),
            inf.eq(a.inf | b.inf),
            nan.eq(a.nan | b.nan),
        ]
        return Factor(product, power, a.sign ^ b.sign, zero, inf, nan)

    def _registered(self, m: Module, name: str, a: Factor, index: int) -> Factor:
        found = {}
        for field, value in vars(a).items():
            register = Signal(value.shape(), name=f"{name}_{field}_q", reset_less=True)
            with m.If(self.en[index]):
                m.d.sync += register.eq(value)
            found[field] = register
        return Factor(**found)


class FusedTables(wiring.Component):
    """Elements and gains in, tables out, a beat a cycle.

    Streams: ``i_job``, ``i_x``, ``i_g`` (with gains), ``o``; see ``golden``. Latency
    ``timing.LATENCY`` cycles, interval 1.

    Parts by name: ``<name>_lane``.
    """

    def __init__(self, spec: FusedTablesSpec):
        self.spec = spec
        super().__init__(component_streams(golden.streams(spec)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        rows, k = spec.tile.m, spec.tile.k

        # Registers at the ports; a beat goes on when there is one of each, and a job.
        take = Signal()
        x, x_full = self._port(m, "x", self.i_x, take)
        ready: Value = x_full
        gain: Value | None = None
        if spec.gain:
            gain, gain_full = self._port(m, "gain", self.i_g, take)
            ready = ready & gain_full
        active, finish, load = Signal(), Signal(), Signal()
        left = Signal(JOB_BEATS_BITS, reset_less=True)
        job = Signal(len(self.i_job.payload), reset_less=True)
        item = golden.job_stream(spec)
        m.d.comb += [
            finish.eq(take & ~left.any()),
            self.i_job.ready.eq(~active | finish),
            load.eq(self.i_job.valid & self.i_job.ready),
        ]
        m.d.sync += active.eq(load | (active & ~finish))
        with m.If(take):
            m.d.sync += left.eq(left - 1)
        with m.If(load):
            m.d.sync += [
                job.eq(self.i_job.payload),
                left.eq(field_slice(item, self.i_job.payload, "beats_m1")),
            ]

        stages = LATENCY - 1
        full = [Signal(name=f"full_{i}") for i in range(stages)]
        move = [Signal(name=f"move_{i}") for i in range(stages)]
        enables = [Signal(name=f"enable_{i}") for i in range(stages)]
        m.d.comb += [
            take.eq(ready & active & (~full[0] | move[0])),
            enables[0].eq(take),
            self.o.valid.eq(full[-1]),
        ]
        for i in range(stages):
            free = self.o.ready if i == stages - 1 else ~full[i + 1] | move[i + 1]
            m.d.comb += move[i].eq(full[i] & free)
            if i:
                m.d.comb += enables[i].eq(move[i - 1])
            m.d.sync += full[i].eq(enables[i] | (full[i] & ~move[i]))

        # What rows and columns share.
        gains = []
        if gain is not None:
            for lane in range(k):
                gains.append(factor(m, f"gain_{lane}", FP16, gain.word_select(lane, 16)).lines)
        shift: Value = Signal(0)
        if spec.core.quantized:
            shift = field_slice(item, job, "entry_shift")
            for i in range(3):
                register = Signal(len(shift), name=f"shift_{i}", reset_less=True)
                with m.If(enables[i]):
                    m.d.sync += register.eq(shift)
                shift = register
        entries: list[Value] = []
        totals: list[Value] = []
        for row in range(rows):
            width = spec.factor.width
            code = field_slice(item, job, "multiplier").word_select(row, width)
            lines = factor(m, f"row_{row}", spec.factor, code).lines
            held = Signal(len(lines), name=f"row_{row}_q", reset_less=True)
            with m.If(enables[0]):
                m.d.sync += held.eq(lines)
            codes: list[Value] = []
            for lane in range(k):
                q = Signal(signed(spec.activations.bits), name=f"q_{row}_{lane}")
                m.submodules[f"lane_{row}_{lane}"] = Instance(
                    f"{spec.name}_lane",
                    i_clk=ClockSignal(),
                    i_rst=ResetSignal(),
                    i_x=x.word_select(row * k + lane, spec.source.width),
                    i_row=held,
                    i_en=Cat(*enables[:3]),
                    o_q=q,
                    **({"i_gain": gains[lane]} if spec.gain else {}),
                )
                codes.append(q)
            generator = TableGenerator(m, spec.core, row, codes, shift)
            made = generator.entries()
            entries += made
            if spec.core.needs_sum:
                totals.append(generator.total(made))
        tables = Signal(len(self.o.payload), reset_less=True)
        with m.If(enables[-1]):
            m.d.sync += tables.eq(Cat(*entries, *totals))
        m.d.comb += self.o.payload.eq(tables)
        return m

    def _port(
        self, m: Module, name: str, port: wiring.PureInterface, take: Value
    ) -> tuple[Signal, Signal]:
        """A register at a port, and whether it holds a beat."""
        full = Signal(name=f"{name}_full")
        held = Signal(len(port.payload), name=f"{name}_q", reset_less=True)
        m.d.comb += port.ready.eq(~full | take)
        m.d.sync += full.eq((port.valid & port.ready) | (full & ~take))
        with m.If(port.valid & port.ready):
            m.d.sync += held.eq(port.payload)
        return held, full


def build(spec: FusedTablesSpec) -> Design:
    """The design of a specification."""
    return Design(top=FusedTables(spec), parts={f"{spec.name}_lane": Lane(spec)}, library=LIBRARY)

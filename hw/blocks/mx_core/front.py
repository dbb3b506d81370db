"""What all columns share: the operand register, and activations as the columns want them."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.mx_core import golden
from hw.blocks.mx_core.spec import Elements, MxCoreSpec
from hw.formats import FloatFormat
from hw.lib import floats
from hw.lib.cuts import Cuts
from hw.lib.gemm_shell import Shared, field_slice
from hw.lib.heap import Heap

MOST_MOVED = 2
"""Activations whose significands move by no more than this come to the columns as integers."""


class Plan:
    """Derived facts.

    Attributes:
        tables: both operands are integers: pairs of activations are looked up by the weights' bits.
        moved: activations are magnitudes with their exponent applied; else it comes beside them.
        a_bits: of an activation's magnitude, or of an integer activation.
        w_bits: of a weight's significand; ``digits`` of two bits each.
        a_power, w_power: largest power of two that is still to be applied to either.
        code_bits: width of a scale's exponent.
        shared: the front end's outputs.
    """

    def __init__(self, spec: MxCoreSpec):
        self.spec = spec
        a, w = spec.a_elements, spec.w_elements
        self.tables = a.integer and w.integer
        self.moved = a.shift <= MOST_MOVED
        self.a_bits = a.significand + (a.shift if self.moved else 0)
        self.w_bits = w.significand
        self.digits = -(-self.w_bits // 2)
        self.a_power = 0 if self.moved else a.shift
        self.w_power = w.shift
        self.power_bits = max(1, self.a_power.bit_length())
        self.code_bits = spec.scale.exponent_bits
        rows, k = spec.tile.m, spec.tile.k
        outputs: dict[str, int] = {}
        if self.tables:
            outputs["t"] = rows * sum(self.entry_bits(pair) for pair in self.pairs())
        else:
            outputs |= {"a": rows * k * self.a_bits, "a_sign": rows * k}
            if self.w_bits > 1:
                outputs["a3"] = rows * k * (self.a_bits + 2)
            if self.a_power:
                outputs["a_power"] = rows * k * self.power_bits
            if spec.sums.terms.inf:
                outputs |= {"a_inf": rows * k, "a_zero": rows * k}
        outputs["a_code"] = rows * self.code_bits
        if spec.scale.mantissa_bits:
            outputs["a_factor"] = rows * spec.scale_significand
        outputs["a_nan"] = rows
        self.shared = Shared(outputs=outputs)

    def pairs(self) -> list[tuple[int, ...]]:
        """Lanes whose activations share a table."""
        k = self.spec.tile.k
        return [tuple(range(lane, min(lane + 2, k))) for lane in range(0, k, 2)]

    def entry_bits(self, pair: tuple[int, ...]) -> int:
        """Bits of a pair's table: each activation, and their sum."""
        return self.a_bits if len(pair) == 1 else 3 * self.a_bits + 1


class Decoded:
    """An element's code taken apart; lines that a format does not have are constants 0."""

    def __init__(self, m: Module, name: str, elements: Elements, code: Value):
        self.nan: Value = floats.NO
        self.inf: Value = floats.NO
        form = elements.form
        if isinstance(form, FloatFormat):
            parts = floats.unpack(m, name, form, code)
            self.sign, self.significand = parts.sign, parts.significand
            self.nan, self.inf, self.zero = parts.nan, parts.inf, parts.zero
            power = Signal(max(1, elements.shift.bit_length()), name=f"{name}_power")
            m.d.comb += power.eq(parts.exponent - 1)
            self.power: Value = power
            if elements.inf:
                some = Signal(len(self.significand), name=f"{name}_number")
                number = ~(parts.nan | parts.inf)
                m.d.comb += some.eq(self.significand & number.replicate(len(some)))
                self.significand = some
        else:
            self.sign = code[-1]
            magnitude = Signal(form.bits, name=f"{name}_magnitude")
            m.d.comb += magnitude.eq((code ^ self.sign.replicate(form.bits)) + self.sign)
            self.significand, self.power = magnitude, Const(0, 1)
            self.zero = ~code.any()


class Scale:
    """A scale's code taken apart: ``factor`` (its significand), ``code`` and ``nan``."""

    def __init__(self, m: Module, name: str, form: FloatFormat, code: Value):
        parts = floats.unpack(m, name, form, code)
        self.factor, self.nan = parts.significand, parts.nan
        self.code: Value = parts.exponent
        if form.subnormals:
            less = Signal(form.exponent_bits, name=f"{name}_code")
            m.d.comb += less.eq(parts.exponent - 1)
            self.code = less


def product(
    m: Module, name: str, value: Value, triple: Value | None, digits: list[list[Value]], width: int
) -> Value:
    """``value · Σ digit_i · 4^i``; each digit gives lines for one, two and three."""
    heap = Heap(m, name, width, Cuts(m))
    size = len(value) + 2
    for index, lines in enumerate(digits):
        choices = [Cat(value, Const(0, 2)), Cat(Const(0, 1), value, Const(0, 1))]
        choices += [triple] if triple is not None else []
        chosen: Value = Const(0, size)
        for line, choice in zip(lines, choices, strict=True):
            chosen = chosen | (line.replicate(size) & choice)
        if len(digits) == 1:
            return chosen[:width]
        term = Signal(size, name=f"{name}_digit_{index}")
        m.d.comb += term.eq(chosen)
        heap.add(term, lsb=2 * index)
    return Cat(*(bit.value for bit in heap.resolve()))


def moved_up(m: Module, name: str, value: Value, power: Value, most: int) -> Value:
    """``value · 2^power``, ``power`` up to ``most``, narrowest move first."""
    reach = 0
    for stage in range(most.bit_length()):
        step = 1 << stage
        reach = min(reach + step, most)
        up = Cat(Const(0, step), value)
        made = Signal(len(value) + reach - max(0, reach - step), name=f"{name}_{step}")
        m.d.comb += made.eq(Mux(power[stage], up, value))
        value = made
    return value


class Front(wiring.Component):
    """Operand register, activations and scales taken apart, and a register behind them if asked.

    Members:
        operand: payload of ``i_a``, taken when ``a_load`` is high.
        f_load: take the outputs into their register (``pipeline.front = 1``).
        others: see :class:`Plan`: ``t`` tables, or ``a`` magnitudes, ``a3`` three times them,
            ``a_sign``, ``a_power``, ``a_inf``, ``a_zero`` of every row and lane; of every row
            ``a_code`` and ``a_factor`` of the scale, and ``a_nan``.
    """

    def __init__(self, spec: MxCoreSpec):
        self.spec = spec
        self.plan = Plan(spec)
        self.stream = golden.streams(spec)[1]
        super().__init__(
            {
                "operand": In(self.stream.width),
                "a_load": In(1),
                "f_load": In(1),
                **{name: Out(width) for name, width in self.plan.shared.outputs.items()},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, k = self.spec, self.spec.tile.k
        held = Signal(self.stream.width, reset_less=True)
        with m.If(self.a_load):
            m.d.sync += held.eq(self.operand)
        codes = field_slice(self.stream, held, "a")
        scales = field_slice(self.stream, held, "a_scale")
        values: dict[str, list[Value]] = {name: [] for name in self.plan.shared.outputs}
        for row in range(spec.tile.m):
            lanes = [codes.word_select(row * k + lane, spec.a_elements.width) for lane in range(k)]
            scale = Scale(m, f"scale_{row}", spec.scale, scales.word_select(row, spec.scale.width))
            nan = [scale.nan]
            if self.plan.tables:
                self._tables(m, row, lanes, values)
            else:
                nan += self._floats(m, row, lanes, values)
            values["a_code"].append(scale.code)
            if "a_factor" in values:
                values["a_factor"].append(scale.factor)
            values["a_nan"].append(Cat(*nan).any())
        for name, parts in values.items():
            self._give(m, name, Cat(*parts))
        return m

    def _tables(
        self, m: Module, row: int, lanes: list[Value], values: Mapping[str, list[Value]]
    ) -> None:
        bits = self.plan.a_bits
        for pair in self.plan.pairs():
            values["t"] += [lanes[lane] for lane in pair]
            if len(pair) == 2:
                total = Signal(bits + 1, name=f"sum_{row}_{pair[0]}")
                m.d.comb += total.eq(lanes[pair[0]].as_signed() + lanes[pair[1]].as_signed())
                values["t"].append(total)

    def _floats(
        self, m: Module, row: int, lanes: list[Value], values: Mapping[str, list[Value]]
    ) -> list[Value]:
        plan, elements = self.plan, self.spec.a_elements
        nan = []
        for lane, code in enumerate(lanes):
            name = f"a_{row}_{lane}"
            parts = Decoded(m, name, elements, code)
            value = parts.significand
            if plan.moved and elements.shift:
                value = moved_up(m, f"{name}_up", value, parts.power, elements.shift)
            magnitude = Signal(plan.a_bits, name=f"{name}_value")
            m.d.comb += magnitude.eq(value)
            values["a"].append(magnitude)
            values["a_sign"].append(parts.sign)
            if "a3" in values:
                triple = Signal(plan.a_bits + 2, name=f"{name}_triple")
                m.d.comb += triple.eq(magnitude + (magnitude << 1))
                values["a3"].append(triple)
            if "a_power" in values:
                values["a_power"].append(parts.power)
            if "a_inf" in values:
                values["a_inf"].append(parts.inf)
                values["a_zero"].append(parts.zero)
            nan.append(parts.nan)
        return nan

    def _give(self, m: Module, name: str, value: Value) -> None:
        port = getattr(self, name)
        made = Signal(len(port), name=f"made_{name}")
        m.d.comb += made.eq(value)
        if self.spec.pipeline.front:
            register = Signal(len(port), name=f"{name}_q", reset_less=True)
            with m.If(self.f_load):
                m.d.sync += register.eq(made)
            m.d.comb += port.eq(register)
        else:
            m.d.comb += port.eq(made)

"""Alignment of floating activations, once for all columns: a row's exponent, then integers.

Of each lane the exponent is subtracted from the row's, the significand shifted down by that,
rounded to nearest, ties to even, and given its sign; see ``floating`` for what that means.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hw.blocks.lut_core.spec import LutCoreSpec
from hw.lib.accumulator import digits
from hw.lib.floats import NO, Unpacked, shift_right_sticky, unpack


class Aligner:
    """One row of one step, combinational but for the row's state and a register on the way.

    Attributes:
        outputs: what the front end hands on of a row besides its tables, by name, see ``plan``.
        registered: those that are there already as the front end's registers hold their step.

    Args:
        operands: codes of the row, and the exponent given with them.
        front: the front end, for its ports ``f_load``, ``g_load`` and ``first``.
    """

    registered = ("exponent", "invalid")

    def __init__(
        self,
        m: Module,
        spec: LutCoreSpec,
        row: int,
        operands: tuple[list[Value], Value | None],
        front: Any,
    ):
        self.m, self.spec, self.row, self.front = m, spec, row, front
        codes, given = operands
        codes, special = self._finite(codes)
        wrong: Value = Signal(name=f"wrong_{row}")
        m.d.comb += wrong.eq(Cat(*special).any())
        highest = self._highest(codes, given)
        parts = [
            unpack(m, f"lane_{row}_{i}", spec.activations.form, code)
            for i, code in enumerate(codes)
        ]
        if spec.pipeline.front > 1:
            parts = [self._parts_held(part, f"lane_{row}_{i}") for i, part in enumerate(parts)]
            wrong = self._held(wrong, f"wrong_{row}_q")
            highest = self._held(highest, f"highest_{row}_q")
        self.parts = parts
        self.outputs: dict[str, Value] = {}
        self.exponent = self._exponent(highest)
        self.outputs["invalid"] = self._invalid(wrong)

    def lanes(self) -> list[Value]:
        """The integers."""
        return [self._aligned(parts, lane) for lane, parts in enumerate(self.parts)]

    def _parts_held(self, parts: Unpacked, name: str) -> Unpacked:
        """Behind the register in the midst, where every code is finite."""
        finite = replace(parts, zero=NO, nan=NO, inf=NO)
        return finite.through(lambda field, value: self._held(value, f"{name}_{field}_q"))

    def _held(self, value: Value, name: str) -> Value:
        if isinstance(value, Const):
            return value
        register = Signal(len(value), name=name, reset_less=True)
        with self.m.If(self.front.g_load):
            self.m.d.sync += register.eq(value)
        return register

    def _finite(self, codes: list[Value]) -> tuple[list[Value], list[Value]]:
        """Codes with 0 in the place of NaN and infinity, and where those were."""
        form = self.spec.activations.form
        found, special = [], []
        for lane, code in enumerate(codes):
            parts = unpack(self.m, f"in_{self.row}_{lane}", form, code)
            flag = Signal(name=f"special_{self.row}_{lane}")
            finite = Signal(form.width, name=f"finite_{self.row}_{lane}")
            self.m.d.comb += [
                flag.eq(parts.nan | parts.inf),
                finite.eq(code & (~flag).replicate(form.width)),
            ]
            found.append(finite)
            special.append(flag)
        return found, special

    def _highest(self, codes: list[Value], given: Value | None) -> Value:
        """The exponent that this step alone would be aligned to, as it is stored, at least 1."""
        a = self.spec.activations
        bits = a.form.mantissa_bits
        if a.exponent == "exact":
            return Const(a.top, a.form.exponent_bits)
        if given is None:
            stored = [code[bits : bits + a.form.exponent_bits] for code in codes]
            given = self._maximum(stored)
        return _at_least_one(self.m, f"step_highest_{self.row}", given)

    def _maximum(self, values: list[Value]) -> Value:
        level = 0
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=False)
            larger: list[Value] = []
            for i, (x, y) in enumerate(pairs):
                chosen = Signal(len(x), name=f"larger_{self.row}_{level}_{i}")
                self.m.d.comb += chosen.eq(Mux(x > y, x, y))
                larger.append(chosen)
            values = larger + values[len(larger) * 2 :]
            level += 1
        return values[0]

    def _exponent(self, highest: Value) -> Value:
        """The exponent ``R`` of this step; what becomes of it besides goes into the outputs."""
        m, spec, row = self.m, self.spec, self.row
        a = spec.activations
        width = a.form.exponent_bits
        field = next(item for item in spec.results if item.name == "exponent")
        if a.exponent == "exact":
            self.outputs["exponent"] = Const(a.result_exponents[0], signed(field.width))
            return highest
        running = Signal(width, name=f"running_{row}", reset_less=True)
        now: Value = highest
        if a.running:
            before = Signal(width, name=f"before_{row}")
            now = Signal(width, name=f"now_{row}")
            rise = Signal(width, name=f"rise_{row}")
            m.d.comb += [
                before.eq(running & (~self.front.first).replicate(width)),
                now.eq(Mux(highest > before, highest, before)),
                rise.eq(now - before),
            ]
            self.outputs["down"] = self._digits(rise)
        with m.If(self.front.f_load):
            m.d.sync += running.eq(now)
        shown = running if spec.pipeline.front else now
        exponent = Signal(signed(field.width), name=f"result_exponent_{row}")
        m.d.comb += exponent.eq(a.result_exponent(shown))
        self.outputs["exponent"] = exponent.as_unsigned()
        return now

    def _digits(self, rise: Value) -> Value:
        """The lines of every digit of a rise; of one that drops the sums none."""
        radices = digits(self.spec.activations.reach)
        lines = Signal(sum(radices), name=f"lines_{self.row}")
        with self.m.Switch(rise):
            for value in range(self.spec.activations.reach):
                rest, position, word = value, 0, 0
                for radix in radices:
                    rest, digit = divmod(rest, radix)
                    word |= 1 << (position + digit)
                    position += radix
                with self.m.Case(value):
                    self.m.d.comb += lines.eq(word)
            with self.m.Default():
                self.m.d.comb += lines.eq(0)
        return lines

    def _invalid(self, wrong: Value) -> Value:
        """Whether the row has had a NaN or an infinity, this step included."""
        seen = Signal(name=f"seen_{self.row}", reset_less=True)
        now = Signal(name=f"invalid_{self.row}")
        self.m.d.comb += now.eq(wrong | (seen & ~self.front.first))
        with self.m.If(self.front.f_load):
            self.m.d.sync += seen.eq(now)
        return seen if self.spec.pipeline.front else now

    def _aligned(self, parts: Unpacked, lane: int) -> Value:
        m, a = self.m, self.spec.activations
        name = f"{self.row}_{lane}"
        kept = a.widest - 1  # bits of a magnitude
        below = max(len(parts.significand) - kept, 1)
        placed = Cat(Const(0, kept + below - len(parts.significand)), parts.significand)
        away = Signal(a.form.exponent_bits, name=f"away_{name}")
        m.d.comb += away.eq(self.exponent - parts.exponent)
        moved, sticky = shift_right_sticky(m, f"align_{name}", placed, away)
        magnitude = moved[below:]
        up = Signal(name=f"up_{name}")
        above: Value = Cat(sticky, moved[: below - 1], magnitude[0]).any()
        if a.exponent == "exact":
            above = Const(0)  # nothing is lost
        m.d.comb += up.eq(moved[below - 1] & above)
        if len(parts.significand) > kept:
            # The largest magnitude does not round up.
            fits = Signal(name=f"fits_{name}")
            m.d.comb += fits.eq(~magnitude.all())
            up = _and(m, f"up_{name}_fits", up, fits)
        if a.given:
            over = Signal(name=f"over_{name}")
            full = Signal(kept, name=f"full_{name}")
            m.d.comb += [
                over.eq(parts.exponent > self.exponent),
                full.eq(magnitude | over.replicate(kept)),
            ]
            magnitude = full
            up = _and(m, f"up_{name}_under", up, ~over)
        # −(x + up) = ~x + 1 − up.
        sign = parts.sign
        value = Signal(signed(a.widest), name=f"lane_{name}")
        low = Cat(magnitude, 0) ^ sign.replicate(a.widest)
        m.d.comb += value.eq(low + (up ^ sign))
        return value


def _and(m: Module, name: str, x: Value, y: Value) -> Signal:
    found = Signal(name=name)
    m.d.comb += found.eq(x & y)
    return found


def _at_least_one(m: Module, name: str, value: Value) -> Value:
    found = Signal(len(value), name=name)
    m.d.comb += found.eq(Cat(value[0] | ~value.any(), value[1:]))
    return found

"""What is done to every element: shift and round, divide and round, or compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.quantize.scale import Stages, limit_width, limits
from hw.blocks.quantize.spec import QuantizeSpec
from hw.blocks.quantize.timing import lane_stages
from hw.formats import FloatFormat, IntegerFormat
from hw.lib.floats import NO, Normalised, pack, place, unpack
from hw.lib.integers import clipped, window


def wants(spec: QuantizeSpec) -> Mapping[str, tuple[int, range]]:
    """Width of every parameter, and the registers of the lane behind which it is asked for.

    ``offset``: 2's power of the largest shift less the element's exponent as it is stored.
    ``divisor``: the scale's significand, its leading one on top. ``limits``: see ``scale``.
    For nv parameters are asked for before the first register.
    """
    if spec.kind == "int":
        p = spec.format.scale.mantissa_bits + 1
        return {
            "dead": (1, range(1)),
            "offset": (11, range(1)),
            "divisor": (p, range(1, lane_stages(spec) - 1)),
        }
    if spec.kind == "power":
        return {"dead": (1, range(1)), "offset": (10, range(1))}
    count = len(limits(spec)) * limit_width(spec)
    return {"dead": (1, range(-1, 0)), "limits": (count, range(-1, 0))}


class Lane(wiring.Component):
    """One element a cycle, ``timing.lane_stages`` registers.

    Members:
        x: code of the input format.
        en: enables of the registers.
        parameters: see :func:`wants`, ``name_0`` behind the first register and so on.
        q: the code.
    """

    def __init__(self, spec: QuantizeSpec):
        self.spec = spec
        parameters = {
            f"{name}_{stage}" if stage >= 0 else name: In(width)
            for name, (width, stages) in wants(spec).items()
            for stage in stages
        }
        super().__init__(
            {
                "x": In(spec.source.width),
                "en": In(lane_stages(spec)),
                **parameters,
                "q": Out(spec.format.element.width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        enables = [self.en[i] for i in range(lane_stages(self.spec))]
        stages = Stages(m, "lane", enables)
        if self.spec.kind == "int":
            q = self._divide(m, stages)
        elif self.spec.kind == "nv":
            q = self._compare(m)
        elif isinstance(self.spec.format.element, IntegerFormat):
            q = self._shift(m, stages)
        else:
            q = self._float(m, stages, self.spec.format.element)
        (held,) = stages.registers(q=q)
        if stages.index != len(enables):
            raise AssertionError(f"{stages.index} stages, timing says {len(enables)}")
        m.d.comb += self.q.eq(held)
        return m

    def _lifted(self, m: Module, x: Value, most: int) -> tuple[Value, Value, Value]:
        """Sign, significand and stored exponent, subnormal numbers moved up by ``most`` or more, or
        until their leading one is on top."""
        parts = unpack(m, "x", self.spec.source, x)
        value: Value = parts.significand
        count: list[Value] = []
        for stage in reversed(range(min(most, len(value) - 1).bit_length())):
            step = 1 << stage
            empty = Signal(name=f"empty_{step}")
            lifted = Signal(len(value), name=f"lifted_{step}")
            m.d.comb += [
                empty.eq(~value[len(value) - step :].any()),
                lifted.eq(Mux(empty, value << step, value)),
            ]
            value = lifted
            count.insert(0, empty)
        exponent: Value = parts.exponent
        if count:
            exponent = Signal(signed(len(parts.exponent) + 1), name="x_lifted_exponent")
            m.d.comb += exponent.eq(parts.exponent - Cat(*count))
        return parts.sign, value, exponent

    def _shift(self, m: Module, stages: Stages) -> Value:
        """Integers under a power of two."""
        spec = self.spec
        form, element, scale = spec.source, spec.format.element, spec.format.scale
        (x,) = stages.registers(x=self.x)
        smallest = max(scale.min_exponent, form.min_exponent - form.mantissa_bits)
        sign, value, exponent = self._lifted(m, x, max(0, form.min_exponent - smallest))
        down = Signal(signed(12), name="shift")
        m.d.comb += down.eq(self.offset_0.as_signed() - exponent)
        bits = element.width
        kept, below = window(m, value, bits, down, bits)
        over = Signal(name="over")
        alive = ~self.dead_0
        # Among zeros the scale is no measure of them.
        m.d.comb += over.eq((down < 0) & value[-1] & alive)
        kept, below, over, sign = stages.registers(
            kept=kept & alive.replicate(bits), below=below & alive, over=over, sign=sign
        )
        return clipped(m, bits, sign=sign, magnitude=kept, below=below, over=over)

    def _float(self, m: Module, stages: Stages, element: FloatFormat) -> Value:
        """Floating-point elements under a power of two."""
        form, scale = self.spec.source, self.spec.format.scale
        (x,) = stages.registers(x=self.x)
        # Moved up until the element has no leading one any more either.
        smallest = form.min_exponent - form.mantissa_bits - element.max_exponent
        smallest = max(scale.min_exponent, smallest)
        most = max(0, form.min_exponent - smallest - element.min_exponent)
        sign, value, exponent = self._lifted(m, x, min(most, form.mantissa_bits))
        lowest = Signal(signed(12), name="lowest")
        alive = ~self.dead_0
        m.d.comb += lowest.eq(exponent - self.offset_0.as_signed() - form.mantissa_bits)
        masked = Signal(len(value), name="masked")
        m.d.comb += masked.eq(value & alive.replicate(len(value)))
        found = Normalised(magnitude=masked, exponent=lowest, sticky=NO, low=-(1 << 10))
        placed = replace(place(m, "place", element, found), zero=NO).through(stages.register)
        sign = stages.register("sign", sign & alive)
        stages.index += 1
        return pack(m, "pack", element, placed, sign=sign, overflow="saturate")

    def _divide(self, m: Module, stages: Stages) -> Value:
        """Integers by restoring division: twice the quotient, rounded down, and a remainder."""
        spec = self.spec
        form, scale = spec.source, spec.format.scale
        bits, p = spec.format.element.width, scale.mantissa_bits + 1
        (x,) = stages.registers(x=self.x)
        smallest = form.min_exponent - form.mantissa_bits - (bits - 1)
        smallest = max(smallest, scale.min_exponent - scale.mantissa_bits)
        least = smallest - form.min_exponent + bits - 1
        sign, value, exponent = self._lifted(m, x, max(0, -least))
        down = Signal(signed(12), name="shift")
        m.d.comb += down.eq(self.offset_0.as_signed() - exponent)
        kept, below = window(m, value, p + bits, down, bits)
        over = Signal(name="over")
        alive = ~self.dead_0
        m.d.comb += over.eq((down < 0) & alive)
        kept, below, over, sign = stages.registers(
            kept=kept & alive.replicate(p + bits), below=below, over=over, sign=sign
        )
        rest, pending, quotient = kept[bits:], kept[:bits], Const(0, 0)
        for first in range(0, bits, spec.pipeline.digits):
            divisor = getattr(self, f"divisor_{stages.index - 1}")
            if first == 0:
                # Twice a quotient of 2^bits: nothing to divide, only to clip.
                beyond = Signal(name="beyond")
                m.d.comb += beyond.eq(over | (rest >= divisor))
                over = beyond
            last = min(first + spec.pipeline.digits, bits)
            for index in range(first, last):
                wide = Cat(pending[-1], rest)
                difference = Signal(p + 2, name=f"difference_{index}")
                digit = Signal(name=f"digit_{index}")
                left = Signal(p, name=f"rest_{index}")
                m.d.comb += [
                    difference.eq(Cat(wide, Const(0, 1)) - divisor),
                    digit.eq(~difference[-1]),
                    left.eq(Mux(digit, difference, wide)),
                ]
                rest, pending = left, pending[:-1]
                quotient = Cat(digit, quotient)
            if last < bits:
                rest, pending, quotient, below, over, sign = stages.registers(
                    rest=rest, pending=pending, quotient=quotient, below=below, over=over, sign=sign
                )
        below = below | rest.any()
        return clipped(m, bits, sign=sign, magnitude=quotient, below=below, over=over)

    def _compare(self, m: Module) -> Value:
        """NV: how many limits a number lies above. They ascend, so three of seven tell."""
        spec = self.spec
        width = limit_width(spec)
        magnitude = Cat(Const(0, 1), self.x[:-1])
        above = []
        for index in range(len(limits(spec))):
            bit = Signal(name=f"above_{index}")
            limit = self.limits.word_select(index, width)
            m.d.comb += bit.eq(magnitude >= limit)
            above.append(bit)
        level = Signal(3, name="level")
        alive = ~self.dead
        m.d.comb += level.eq(
            Cat(
                Mux(
                    above[3],
                    Mux(above[5], above[6], above[4]),
                    Mux(above[1], above[2], above[0]),
                ),
                Mux(above[3], above[5], above[1]),
                above[3],
            )
            & alive.replicate(3)
        )
        sign = self.x[-1] & alive
        code = Signal(4, name="code")
        if isinstance(spec.format.element, IntegerFormat):
            m.d.comb += code.eq((level ^ sign.replicate(4)) + sign)
        else:
            m.d.comb += code.eq(Cat(level, sign))
        return code

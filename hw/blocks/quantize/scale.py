"""From the largest magnitude of a group to its scale, and to what the lanes need of it.

- ``int``: ``absmax / (2^w − 1)``, ``w = bits − 1``. A number in digits of ``w`` bits is divided by
  ``2^w − 1`` with one end-around addition a digit (``2^w = 1`` modulo ``2^w − 1``), and the digits
  below the point repeat the last remainder; so the quotient is exact, whatever is not 0 sticky.
- power of two: the exponent of ``absmax`` less that of the largest element, and one more under
  ``ceil`` if ``absmax`` has the larger significand.
- ``nv``: ``absmax / (max · tensor scale)`` by restoring division, seven digits and a remainder.
  Then every limit between two codes, a known multiple of the step ``scale · tensor scale``, rounded
  down to the input's format with one bit that says whether a number *at* it lies above: a lane
  compares codes, and no quotient is ever formed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hw.blocks.quantize.spec import QuantizeSpec
from hw.blocks.quantize.timing import SCALE_DIGITS, scale_stages
from hw.formats import FP32, FloatFormat, IntegerFormat
from hw.lib.floats import (
    NO,
    Normalised,
    leading_zeros,
    normalise,
    pack,
    place,
    round_to,
    unpack,
)


class Stages:
    """Registers of a pipeline, made where they are needed.

    Args:
        enables: one bit a stage.
    """

    def __init__(self, m: Module, name: str, enables: list[Signal]):
        self.m, self.name, self.enables = m, name, enables
        self.index = 0

    def register(self, name: str, value: Value) -> Value:
        """A value behind the current stage's register."""
        shape = value.shape()
        register = Signal(shape, name=f"{self.name}{self.index}_{name}", reset_less=True)
        with self.m.If(self.enables[self.index]):
            self.m.d.sync += register.eq(value)
        return register

    def registers(self, **values: Value) -> list[Value]:
        """Several values behind this stage's registers; what follows is of the next stage."""
        found = [self.register(name, value) for name, value in values.items()]
        self.index += 1
        return found


@dataclass(frozen=True, kw_only=True)
class GroupScale:
    """A group's scale, and by name what lanes need of it.

    Attributes:
        params: ``dead``: no number, all codes are 0. Else as :mod:`hw.blocks.quantize.lane` says.
    """

    scale: Value
    params: dict[str, Value]


def limits(spec: QuantizeSpec) -> tuple[tuple[int, int], ...]:
    """NV: ``(c, z)`` for every limit ``c · 2^z`` (``c`` odd) between an element and the next."""
    element = spec.format.element
    tops = element.decode([int(code) for code in range(element.max_code + 1)]).tolist()
    found = []
    for low, high in itertools.pairwise(tops):
        mantissa, power = math.frexp((low + high) / 2)
        while mantissa != int(mantissa):
            mantissa, power = mantissa * 2, power - 1
        found.append((int(mantissa), power))
    return tuple(found)


def limit_width(spec: QuantizeSpec) -> int:
    """A limit as a code without sign, and the bit below it."""
    return spec.source.width


def by_exponent(spec: QuantizeSpec) -> bool:
    """Whether the exponents of a group tell its scale: a power of two, and subnormal numbers so
    small that they have the smallest one."""
    return spec.kind == "power" and spec.source.exponent_bits == spec.format.scale.width == 8


def rounds_up(spec: QuantizeSpec) -> bool:
    """Whether a largest magnitude can have a significand above the largest element's."""
    return spec.rule == "ceil" and _largest_significand(spec) < (2 << spec.source.mantissa_bits) - 1


def key_width(spec: QuantizeSpec) -> int:
    """Bits of what stands for a magnitude when the largest is looked for."""
    if by_exponent(spec):
        return spec.source.exponent_bits + rounds_up(spec)
    return spec.source.width - 1


def key(m: Module, spec: QuantizeSpec, name: str, magnitude: Value) -> Value:
    """What stands for a magnitude: itself, or its exponent and for ``ceil`` whether its significand
    is larger than the largest element's."""
    if not by_exponent(spec):
        return magnitude
    bits = spec.source.mantissa_bits
    exponent = magnitude[bits:]
    if not rounds_up(spec):
        return exponent
    # One place below the first exponent, subnormal numbers have their leading one a bit lower.
    leading = exponent.any()
    significand = Signal(bits + 1, name=f"{name}_significand")
    larger = Signal(name=f"{name}_larger")
    m.d.comb += [
        significand.eq(Mux(leading, Cat(magnitude[:bits], Const(1, 1)), magnitude[:bits] << 1)),
        larger.eq(significand > _largest_significand(spec)),
    ]
    return Cat(larger, exponent)


def _largest_significand(spec: QuantizeSpec) -> int:
    """The largest element's, in the place of a significand of the input; rounded down."""
    fraction, _ = math.frexp(spec.format.element.max)
    return math.floor(math.ldexp(fraction, spec.source.mantissa_bits + 1))


def _clipped(m: Module, name: str, value: Value, most: int) -> Value:
    """A signed value between 0 and ``most``."""
    result = Signal(range(most + 1), name=name)
    with m.If(value < 0):
        m.d.comb += result.eq(0)
    with m.Elif(value > most):
        m.d.comb += result.eq(most)
    with m.Else():
        m.d.comb += result.eq(value)
    return result


def group_scale(
    m: Module, spec: QuantizeSpec, enables: list[Signal], absmax: Value, tensor: Value
) -> GroupScale:
    """The scale, behind ``timing.scale_stages`` registers.

    Args:
        absmax: largest code without sign; NaN and infinity exceed every number.
        tensor: the tensor scale, nv only.
    """
    stages = Stages(m, "scale", enables)
    if spec.kind == "int":
        found = _by_division(m, spec, stages, absmax)
    elif spec.kind == "power":
        found = _power(m, spec, stages, absmax)
    else:
        found = _nv(m, spec, stages, absmax, tensor)
    if stages.index != scale_stages(spec):
        raise AssertionError(f"{stages.index} stages, timing says {scale_stages(spec)}")
    return found


def _special(m: Module, form: FloatFormat, absmax: Value) -> Value:
    special = Signal(name="special")
    m.d.comb += special.eq(absmax[form.mantissa_bits :].all())
    return special


def _power(m: Module, spec: QuantizeSpec, stages: Stages, absmax: Value) -> GroupScale:
    form, scale = spec.source, spec.format.scale
    (held,) = stages.registers(absmax=absmax)
    _, power_of_max = math.frexp(spec.format.element.max)
    # absmax is a fraction of [0.5, 1) and 2^(exponent - bias + 1), the largest element likewise.
    move = 1 - form.bias - power_of_max + scale.bias
    power = Signal(signed(11), name="power")
    special = Signal(name="special")
    some: Value = Const(1, 1)
    if by_exponent(spec):
        up = held[0] if rounds_up(spec) else NO
        exponent = held[key_width(spec) - form.exponent_bits :]
        m.d.comb += [special.eq(exponent.all()), power.eq(exponent + move + up)]
    else:
        parts = unpack(m, "absmax", form, Cat(held, Const(0, 1)))
        value, count = leading_zeros(m, "absmax_norm", parts.significand)
        up = NO
        if rounds_up(spec):
            up = Signal(name="larger")
            m.d.comb += up.eq(value > _largest_significand(spec))
        some = value[-1]
        m.d.comb += [
            special.eq(parts.nan | parts.inf),
            power.eq(parts.exponent - count + move + up),
        ]
    code = Signal(scale.width, name="scale_code")
    clipped = _clipped(m, "power_clipped", power, scale.max_code)
    with m.If(special):
        m.d.comb += code.eq(scale.nan_code)
    with m.Elif(some):
        m.d.comb += code.eq(clipped)
    made, dead = stages.registers(code=code, special=special)
    offset = Signal(signed(10), name="offset")
    m.d.comb += offset.eq(made + (form.bias - scale.bias))
    return GroupScale(scale=made, params={"dead": dead, "offset": offset})


def _by_division(m: Module, spec: QuantizeSpec, stages: Stages, absmax: Value) -> GroupScale:
    form, scale = spec.source, spec.format.scale
    element = spec.format.element
    bits, p = element.width, scale.mantissa_bits + 1
    w, top = bits - 1, form.mantissa_bits + 1
    (held,) = stages.registers(absmax=absmax)
    special = _special(m, form, held)
    parts = unpack(m, "absmax", form, Cat(held, Const(0, 1)))
    a = normalise(m, "absmax_norm", parts.significand, parts.exponent - form.bias - (top - 1))
    a_value, a_exponent, a_special = stages.registers(
        a=a.magnitude, exponent=a.exponent, special=special
    )

    quotient, below, fraction = _divide(m, a_value, w, keep=p + 2)
    if w > 1:
        # The leading one is in one of two places, 2^(top - w) and the one below.
        width = top - w + 1 + fraction
        aligned = Signal(width, name="quotient_norm")
        exponent = Signal(signed(11), name="quotient_exponent")
        high = quotient[width - 1]
        m.d.comb += [
            aligned.eq(Mux(high, quotient[:width], quotient << 1)),
            exponent.eq(a_exponent - fraction - ~high),
        ]
    else:
        aligned, exponent = quotient, a_exponent
    q_value, q_exponent, q_below, q_special = stages.registers(
        quotient=aligned, exponent=exponent, below=below, special=a_special
    )
    low = form.min_exponent - form.mantissa_bits - bits
    normal = Normalised(magnitude=q_value, exponent=q_exponent, sticky=q_below, low=low)
    placed = place(m, "scale_place", scale, normal)
    code = pack(m, "scale_pack", scale, placed, sign=NO, nan=q_special, overflow="saturate")
    (made,) = stages.registers(code=code)

    # Divisor with its leading one on top, made up where the scale is 0 and all codes are.
    found = unpack(m, "scale", scale, Cat(made, Const(0, 0)))
    divisor, count = leading_zeros(m, "scale_norm", found.significand)
    offset = Signal(signed(11), name="offset")
    dead = Signal(name="dead")
    m.d.comb += [
        offset.eq(found.exponent - count + (form.bias - scale.bias + bits - 1)),
        dead.eq(found.zero | found.nan),
    ]
    divisor = Cat(divisor[:-1], Const(1, 1))
    return GroupScale(scale=made, params={"dead": dead, "offset": offset, "divisor": divisor})


def _divide(m: Module, a: Value, w: int, *, keep: int) -> tuple[Value, Value, int]:
    """``a / (2^w − 1)``: a quotient with so many fraction bits, and whether anything is below.

    Args:
        keep: bits that the quotient has at least from its leading one on, if ``a`` has its leading
            one on top.
    """
    if w == 1:
        return a, NO, 0
    count = -(-len(a) // w)
    digits = [a[i * w : (i + 1) * w] for i in range(count)]
    remainder: Value = Const(0, w)
    quotient: list[Value] = []
    for index in reversed(range(count)):
        total = Signal(w + 1, name=f"total_{index}")
        more = Signal(w + 1, name=f"more_{index}")
        digit = Signal(w, name=f"digit_{index}")
        left = Signal(w, name=f"remainder_{index}")
        carry = more[w]
        m.d.comb += [
            total.eq(remainder + digits[index]),
            more.eq(total + 1),
            digit.eq(remainder + carry),
            left.eq(Mux(carry, more, total)),
        ]
        quotient.insert(0, digit)
        remainder = left
    integer = len(a) - w  # bits of the integer part that the smallest quotient fills
    places = max(0, -(-(keep - integer) // w))
    fraction = [remainder] * places
    below = Signal(name="quotient_below")
    m.d.comb += below.eq(remainder.any())
    return Cat(*fraction, *quotient), below, places * w


def _nv(m: Module, spec: QuantizeSpec, stages: Stages, absmax: Value, tensor: Value) -> GroupScale:
    form, scale, element = spec.source, spec.format.scale, spec.format.element
    top = form.mantissa_bits + 1
    held, held_t = stages.registers(absmax=absmax, tensor=tensor)
    special = _special(m, form, held)
    parts = unpack(m, "absmax", form, Cat(held, Const(0, 1)))
    a = normalise(m, "absmax_norm", parts.significand, parts.exponent)
    t_parts = unpack(m, "tensor", FP32, held_t)
    t = normalise(m, "tensor_norm", t_parts.significand, t_parts.exponent)
    a_value, a_exp, dead, t_value, t_exp = stages.registers(
        a=a.magnitude, a_exp=a.exponent, dead=special, t=t.magnitude, t_exp=t.exponent
    )

    # max = c * 2^z, c of two or three bits: quotients are between 1/2 and 4.
    c = 3 if not isinstance(element, IntegerFormat) else element.max_code
    z = round(math.log2(element.max / c))
    width = 24 + c.bit_length()
    divisor = Signal(width, name="divisor")
    dividend = Cat(Const(0, width - top), a_value)
    # Exponent of the quotient's lowest digit, and of the step's lowest bit less the scale's.
    exponent = Signal(signed(11), name="quotient_exponent")
    a_bias = form.bias + width - 1
    t_bias = FP32.bias + 23
    m.d.comb += [
        divisor.eq(t_value * c),
        exponent.eq(a_exp - t_exp + (t_bias - a_bias - z - (SCALE_DIGITS - 2))),
    ]
    # The first digit is worth two; the dividend's lowest bits are 0.
    rest, digits = dividend[1:], Const(0, 0)
    divisor, rest, exponent, dead, t_value, t_exp = stages.registers(
        divisor=divisor, rest=rest, exponent=exponent, dead=dead, t=t_value, t_exp=t_exp
    )
    for first in range(0, SCALE_DIGITS, spec.pipeline.digits):
        last = min(first + spec.pipeline.digits, SCALE_DIGITS)
        for index in range(first, last):
            digit = Signal(name=f"quotient_{index}")
            left = Signal(width, name=f"rest_{index}")
            difference = Signal(width + 2, name=f"difference_{index}")
            m.d.comb += [
                difference.eq(Cat(rest, Const(0, width + 2 - len(rest))) - divisor),
                digit.eq(~difference[-1]),
                left.eq(Mux(digit, difference, rest)),
            ]
            digits = Cat(digit, digits)
            rest = Cat(Const(0, 1), left)
        digits, rest, divisor, exponent, dead, t_value, t_exp = stages.registers(
            digits=digits,
            rest=rest,
            divisor=divisor,
            exponent=exponent,
            dead=dead,
            t=t_value,
            t_exp=t_exp,
        )
    code = round_to(
        m,
        "scale_round",
        scale,
        sign=NO,
        magnitude=digits,
        exponent=exponent,
        sticky=rest.any(),
        nan=dead,
        overflow="saturate",
    )
    made, dead, t_value, t_exp = stages.registers(code=code, dead=dead, t=t_value, t_exp=t_exp)

    found = unpack(m, "scale", scale, made)
    s_value, count = leading_zeros(m, "scale_norm", found.significand)
    product = Signal(28, name="product")
    high = product[-1]
    step = Signal(28, name="step")
    step_exp = Signal(signed(11), name="step_exponent")
    bias = scale.bias + scale.mantissa_bits + t_bias
    m.d.comb += [
        product.eq(s_value * t_value),
        step.eq(Mux(high, product, product << 1)),
        step_exp.eq(found.exponent - count + t_exp - bias - ~high),
    ]
    step, step_exp, none, made, dead = stages.registers(
        step=step, step_exp=step_exp, none=found.zero | found.nan, code=made, dead=dead
    )
    values = []
    for index, (factor, power) in enumerate(limits(spec)):
        values.append(_limit(m, form, f"limit_{index}", step, step_exp, factor, power, index, none))
    made, dead, every = stages.registers(code=made, dead=dead, limits=Cat(*values))
    return GroupScale(scale=made, params={"dead": dead, "limits": every})


def _limit(
    m: Module,
    form: FloatFormat,
    name: str,
    step: Value,
    step_exp: Value,
    factor: int,
    power: int,
    index: int,
    none: Value,
) -> Value:
    """``factor · 2^power · step`` rounded down, with a bit below that is set where the limit itself
    does not count; beyond every number where there is no step."""
    width = 28 + factor.bit_length()
    if factor & (factor - 1) == 0:
        width = 28
    multiple = Signal(width, name=f"{name}_multiple")
    aligned = Signal(width, name=f"{name}_aligned")
    high = multiple[-1]
    m.d.comb += [
        multiple.eq(step * factor if width > 28 else step),
        aligned.eq(Mux(high, multiple, multiple << 1)),
    ]
    exponent = Signal(signed(12), name=f"{name}_exponent")
    m.d.comb += exponent.eq(step_exp + power - ~high)
    value = Normalised(magnitude=aligned, exponent=exponent, sticky=NO, low=-(1 << 11))
    placed = place(m, f"{name}_place", form, value)
    result = Signal(form.width, name=name)
    # Ties go to the even code: a number at the limit above an odd code belongs to the next.
    above = Const(1, 1) if index % 2 == 0 else placed.guard | placed.sticky
    code = Cat(placed.kept[: form.mantissa_bits], placed.exponent)
    m.d.comb += result.eq(Cat(above, code))
    with m.If(none | placed.over):
        m.d.comb += result.eq((form.max_code << 1) | 1)
    return result

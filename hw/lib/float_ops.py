"""Addition and multiplication of floating-point numbers, each rounded once.

Both are the operations of IEEE 754-2019, rounding to nearest, ties to even, with subnormal numbers,
signed zeros and infinities. Every NaN that comes out is the positive quiet one of the format.

:data:`MULTIPLY_CUTS` are: the product as two numbers; as one; shifted; cut to the format's bits.

A ``cut`` is where a caller may put registers: ``cut(point, field, value)`` gives the value behind
the register, or the value itself where that point has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value, signed

from hw.formats import FloatFormat, Overflow
from hw.lib.floats import (
    NO,
    Normalised,
    Parts,
    Unpacked,
    count_leading_zeros,
    narrow,
    normalise,
    pack,
    place,
    shift_right_sticky,
    unpack,
)
from hw.lib.product import product_rows

Cut = Callable[[str, str, Value], Value]

ADD_CUTS = ("ordered", "aligned", "summed", "counted", "moved")
MULTIPLY_CUTS = ("rows", "product", "moved", "placed")

MINUS_ZERO = 1 << 31
"""In FP32, what changes nothing when it is added: x + (-0) is x, of both zeros too."""


def registers(
    m: Module, name: str, points: Sequence[str], enable: Sequence[Value] | None = None
) -> Cut:
    """Registers at some points, without a reset; constants pass.

    Args:
        name: what names of registers begin with; empty: with the point.
        enable: when those of a point take what comes, by the point's place; always if None.
    """

    def cut(point: str, field: str, value: Value) -> Value:
        if point not in points or isinstance(value, Const):
            return value
        label = f"{name}_{point}_{field}" if name else f"{point}_{field}"
        register = Signal(value.shape(), name=label, reset_less=True)
        with nullcontext() if enable is None else m.If(enable[points.index(point)]):
            m.d.sync += register.eq(value)
        return register

    return cut


def _through(cut: Cut, point: str, values: dict[str, Value]) -> dict[str, Value]:
    return {field: cut(point, field, value) for field, value in values.items()}


def _at(cut: Cut, point: str) -> Callable[[str, Value], Value]:
    return lambda field, value: cut(point, field, value)


def add(m: Module, name: str, form: FloatFormat, a: Value, b: Value, *, cut: Cut) -> Value:
    """``a + b`` of codes of a signed format with infinities.

    Cuts are :data:`ADD_CUTS`: operands by magnitude; the smaller one shifted; their sum; its
    leading zeros counted; the sum shifted, before it is rounded. Needs ``hw.lib.heap.LIBRARY``.
    """
    bits = form.mantissa_bits
    swap = Signal(name=f"{name}_swap")
    large, small = (Signal(form.width, name=f"{name}_{size}") for size in ("large", "small"))
    m.d.comb += [
        swap.eq(a[:-1] < b[:-1]),
        large.eq(Mux(swap, b, a)),
        small.eq(Mux(swap, a, b)),
    ]
    codes = _through(cut, "ordered", {"large": large, "small": small})
    big = unpack(m, f"{name}_big", form, codes["large"])
    little = unpack(m, f"{name}_little", form, codes["small"])
    distance = Signal(form.exponent_bits, name=f"{name}_distance")
    minus, nan = Signal(name=f"{name}_minus"), Signal(name=f"{name}_nan")
    m.d.comb += [
        distance.eq(big.exponent - little.exponent),
        minus.eq(big.sign ^ little.sign),
        # An infinity that meets another of the other sign is none.
        nan.eq(big.nan | little.nan | (big.inf & little.inf & minus)),
    ]
    # Below the smaller one's lowest bit lie a guard, a round and a sticky bit.
    shifted, sticky = shift_right_sticky(
        m, f"{name}_align", Cat(NO, NO, little.significand), distance
    )
    state = {
        "upper": big.significand,
        "lower": Cat(sticky, shifted),
        "exponent": big.exponent,
        "minus": minus,
        "sign": big.sign,
        "nan": nan,
        "inf": big.inf,
    }
    state = _through(cut, "aligned", state)
    # The larger one less the smaller one is not negative: no complement behind the addition.
    width = bits + 5
    total = Signal(width, name=f"{name}_total")
    flip = state["minus"].replicate(width)
    m.submodules[f"{name}_add"] = Instance(
        "rtlgen_add",
        p_WIDTH=width,
        i_a=Cat(Const(0, 3), state.pop("upper"), NO),
        i_b=Cat(state.pop("lower"), NO) ^ flip,
        i_ci=state["minus"],
        o_s=total,
        o_co=Signal(name=f"{name}_over"),
    )
    state = _through(cut, "summed", {"total": total, **state})
    magnitude, exponent = state["total"], state["exponent"]
    sign = Signal(name=f"{name}_sign")
    # x - x is +0, and a NaN is positive.
    m.d.comb += sign.eq(state["sign"] & ~state["nan"] & ~(state["minus"] & ~magnitude.any()))
    flags = {"sign": sign, "nan": state["nan"], "inf": state["inf"]}
    counted = {
        "total": magnitude,
        "exponent": exponent,
        "count": count_leading_zeros(m, f"{name}_zeros", magnitude, exponent),
        **flags,
    }
    counted = _through(cut, "counted", counted)
    moved = normalise(
        m,
        f"{name}_norm",
        counted["total"],
        counted["exponent"] - (form.bias + bits + 3),
        low=form.min_exponent,
        count=counted["count"],
    )
    moved = narrow(m, f"{name}_narrow", form, moved).through(_at(cut, "moved"))
    flags = _through(cut, "moved", {field: counted[field] for field in flags})
    placed = place(m, f"{name}_place", form, moved)
    return pack(m, f"{name}_pack", form, placed, **flags)


@dataclass(frozen=True, kw_only=True)
class Factor(Parts):
    """``(-1)^sign * significand * 2^power``, or NaN or an infinity.

    Attributes:
        power: of the significand's lowest bit, signed or not.
        low: its least value for a significand that is not 0.
        zero: the significand is 0, where that matters beside an infinity.
    """

    sign: Value
    significand: Value
    power: Value
    zero: Value
    nan: Value
    inf: Value
    low: int


def factor(form: FloatFormat, parts: Unpacked) -> Factor:
    """A number of a format as a factor."""
    move = form.bias + form.mantissa_bits
    return Factor(
        sign=parts.sign,
        significand=parts.significand,
        power=parts.exponent - move,
        zero=parts.zero,
        nan=parts.nan,
        inf=parts.inf,
        low=form.min_exponent - form.mantissa_bits,
    )


def integer_factor(
    m: Module, name: str, value: Value, *, power: Value | None = None, nan: Value = NO, low: int = 0
) -> Factor:
    """A two's complement integer times ``2^power``, 1 if None, as a factor."""
    magnitude, zero = Signal(len(value), name=f"{name}_magnitude"), Signal(name=f"{name}_zero")
    sign = value[-1]
    m.d.comb += [
        magnitude.eq((value ^ sign.replicate(len(value))).as_unsigned() + sign),
        zero.eq(~value.any()),
    ]
    return Factor(
        sign=sign,
        significand=magnitude,
        power=Const(0, signed(1)) if power is None else power,
        zero=zero,
        nan=nan,
        inf=NO,
        low=low,
    )


def either(m: Module, name: str, choice: Value, first: Factor, second: Factor) -> Factor:
    """``first``, or ``second`` where ``choice`` is 1."""
    width = max(len(first.significand), len(second.significand))
    significand = Signal(width, name=f"{name}_significand")
    chosen = Mux(choice, second.power, first.power)
    power = Signal(chosen.shape(), name=f"{name}_power")
    flags = {field: Signal(name=f"{name}_{field}") for field in ("sign", "zero", "nan", "inf")}
    m.d.comb += [
        significand.eq(Mux(choice, second.significand, first.significand)),
        power.eq(chosen),
        *(
            flag.eq(Mux(choice, getattr(second, field), getattr(first, field)))
            for field, flag in flags.items()
        ),
    ]
    return Factor(significand=significand, power=power, low=min(first.low, second.low), **flags)


@dataclass(frozen=True, kw_only=True)
class Exact(Parts):
    """``(-1)^sign * magnitude * 2^power`` without rounding, or NaN or an infinity.

    ``low`` is the least ``power`` of a magnitude that is not 0; a NaN has no sign.
    """

    sign: Value
    magnitude: Value
    power: Value
    nan: Value
    inf: Value
    low: int


def exact(value: Factor) -> Exact:
    """A factor alone."""
    return Exact(
        sign=value.sign & ~value.nan,
        magnitude=value.significand,
        power=value.power,
        nan=value.nan,
        inf=value.inf,
        low=value.low,
    )


def product(m: Module, name: str, left: Factor, right: Factor, *, cut: Cut) -> Exact:
    """The exact product; cuts are ``rows`` (two numbers to add) and ``product`` (their sum).

    Needs ``hw.lib.heap.LIBRARY``. A significand of one bit, as of a power of two, costs no adder.
    """
    nan, inf, sign = (Signal(name=f"{name}_{flag}") for flag in ("nan", "inf", "sign"))
    m.d.comb += [
        nan.eq(left.nan | right.nan | (left.inf & right.zero) | (left.zero & right.inf)),
        inf.eq(left.inf | right.inf),
        sign.eq((left.sign ^ right.sign) & ~nan),
    ]
    state = {"power": left.power + right.power, "nan": nan, "inf": inf, "sign": sign}
    narrow_, wide = sorted((left.significand, right.significand), key=len)
    if len(narrow_) == 1:
        magnitude = wide & narrow_.replicate(len(wide))
        state = _through(cut, "rows", {"magnitude": magnitude, **state})
    else:
        first, second = product_rows(m, name, wide, narrow_)
        state = _through(cut, "rows", {"first": first, "second": second, **state})
        summed = Signal(len(first), name=f"{name}_product")
        m.submodules[f"{name}_add"] = Instance(
            "rtlgen_add",
            p_WIDTH=len(first),
            i_a=state.pop("first"),
            i_b=state.pop("second"),
            i_ci=Const(0, 1),
            o_s=summed,
            o_co=Signal(name=f"{name}_over"),
        )
        state["magnitude"] = summed
    return Exact(**_through(cut, "product", state), low=left.low + right.low)


def as_factor(value: Exact, zero: Value) -> Factor:
    """An exact product as a factor; ``zero`` says where it is 0."""
    return Factor(
        sign=value.sign,
        significand=value.magnitude,
        power=value.power,
        zero=zero,
        nan=value.nan,
        inf=value.inf,
        low=value.low,
    )


def round_exact(
    m: Module,
    name: str,
    form: FloatFormat,
    value: Exact,
    *,
    cut: Cut,
    overflow: Overflow = "nonsaturating",
    normal: bool = False,
) -> Value:
    """An exact value rounded once to a code; cuts are ``moved`` (normalised) and ``placed``.

    ``normal``: a magnitude without its top bit is one that ``form`` need not have normalised: its
    exponents begin no lower than those of the format that the value is of.
    """
    if normal:
        moved = Normalised(
            magnitude=value.magnitude,
            exponent=value.power,
            sticky=NO,
            low=value.low + len(value.magnitude) - 1,
            limited=True,
        )
    else:
        moved = normalise(m, f"{name}_norm", value.magnitude, value.power, low=value.low)
    moved = narrow(m, f"{name}_narrow", form, moved).through(_at(cut, "moved"))
    placed = place(m, f"{name}_place", form, moved).through(_at(cut, "placed"))
    flags = {"sign": value.sign, "nan": value.nan, "inf": value.inf}
    for point in ("moved", "placed"):
        flags = _through(cut, point, flags)
    return pack(m, f"{name}_pack", form, placed, **flags, overflow=overflow)


def multiply(
    m: Module, name: str, form: FloatFormat, left: Factor, right: Factor, *, cut: Cut
) -> Value:
    """The product of two factors, rounded once to ``form``; cuts are :data:`MULTIPLY_CUTS`."""
    return round_exact(m, name, form, product(m, name, left, right, cut=cut), cut=cut)

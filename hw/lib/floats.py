"""Combinational parts for floating point, for any :class:`hw.formats.FloatFormat`.

A value on its way to a format is ``(-1)^sign * (magnitude + t) * 2^exponent``, ``t`` 0, or strictly
between 0 and 1 where ``sticky`` is set: an exact sum or product of integers, whatever its width.
:func:`round_to` makes a code of it, rounded once, in three steps that can be taken one by one, with
registers between them (:meth:`Parts.through`):

1. :func:`normalise` moves the leading one to the top;
2. :func:`place` cuts it to the format's mantissa, a guard bit and a sticky bit, moved down where
   the format has no leading one any more;
3. :func:`pack` rounds to nearest, ties to even, and puts in what overflows, and the specials.

The result is bit for bit that of ``FloatFormat.encode``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hw.formats import FloatFormat, Overflow

NO = Const(0, 1)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Values that belong together; what is no hardware passes every register as it is."""

    def through(self, register: Callable[[str, Value], Value]) -> Self:
        """The same behind a register: ``register(field, value)`` gives its output."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        made = {
            name: register(name, value)
            for name, value in values.items()
            if isinstance(value, Value) and not isinstance(value, Const)
        }
        return replace(self, **made)


@dataclass(frozen=True, kw_only=True)
class Unpacked(Parts):
    """A code taken apart: ``(-1)^sign * significand * 2^(exponent - bias - mantissa_bits)``.

    What a format does not have is a constant 0. Of NaN and infinity only ``sign`` has a meaning.

    Attributes:
        exponent: as it is stored, but 1 for subnormals and zero; not negative.
        significand: ``mantissa_bits + 1`` bits; its top bit is 0 for subnormals and zero.
        zero, nan, inf: one bit each, never two of them.
    """

    sign: Value
    exponent: Value
    significand: Value
    zero: Value
    nan: Value
    inf: Value


def unpack(m: Module, name: str, form: FloatFormat, code: Value) -> Unpacked:
    """The parts of a code of ``form.width`` bits."""
    if len(code) != form.width:
        raise ValueError(f"{name}: a code of {form.name} has {form.width} bits, got {len(code)}")
    bits = form.mantissa_bits
    mantissa, stored = code[:bits], code[bits : bits + form.exponent_bits]
    leading: Value = Const(1, 1)
    exponent: Value = stored
    zero: Value = NO
    if form.subnormals:
        leading = Signal(name=f"{name}_leading")
        zero = Signal(name=f"{name}_zero")
        exponent = Signal(form.exponent_bits, name=f"{name}_exponent")
        m.d.comb += [
            leading.eq(stored.any()),
            zero.eq(~leading & ~mantissa.any()),
            exponent.eq(Cat(stored[0] | ~leading, stored[1:])),
        ]
    nan: Value = NO
    inf: Value = NO
    if form.specials == "ieee":
        nan, inf = Signal(name=f"{name}_nan"), Signal(name=f"{name}_inf")
        top = Signal(name=f"{name}_top")
        m.d.comb += [
            top.eq(stored.all()),
            nan.eq(top & mantissa.any()),
            inf.eq(top & ~mantissa.any()),
        ]
    elif form.specials == "top_nan":
        nan = Signal(name=f"{name}_nan")
        m.d.comb += nan.eq(code[: bits + form.exponent_bits].all())
    return Unpacked(
        sign=code[-1] if form.signed else NO,
        exponent=exponent,
        significand=Cat(mantissa, leading),
        zero=zero,
        nan=nan,
        inf=inf,
    )


def leading_zeros(m: Module, name: str, value: Value) -> tuple[Value, Value]:
    """A value shifted left until its top bit is 1, and by how much.

    One multiplexer a bit of the count, widest shift first. Of zero the value is 0 and the count all
    ones: at least ``len(value) - 1``.
    """
    width = len(value)
    count: list[Value] = []
    for stage in reversed(range(max(width - 1, 0).bit_length())):
        step = 1 << stage
        empty = Signal(name=f"{name}_empty_{step}")
        shifted = Signal(width, name=f"{name}_left_{step}")
        m.d.comb += [
            empty.eq(~value[width - step :].any()),
            shifted.eq(Mux(empty, value << step, value)),
        ]
        value = shifted
        count.insert(0, empty)
    return value, Cat(*count)


def shift_right_sticky(
    m: Module, name: str, value: Value, amount: Value, sticky: Value = NO
) -> tuple[Value, Value]:
    """``value >> amount`` of the same width, and whether a 1 fell out or ``sticky`` was set.

    One multiplexer a bit of the amount that matters, narrowest shift first. ``amount`` is not
    negative and may exceed the width: nothing is left then but the sticky bit.
    """
    width = len(value)
    lost: list[Value] = [sticky]
    matter = min(len(amount), width.bit_length())
    for stage in range(matter):
        step = 1 << stage
        shifted = Signal(width, name=f"{name}_right_{step}")
        fallen = Signal(name=f"{name}_lost_{step}")
        m.d.comb += [
            shifted.eq(Mux(amount[stage], value[step:], value)),
            fallen.eq(amount[stage] & value[:step].any()),
        ]
        value = shifted
        lost.append(fallen)
    if len(amount) > matter:
        beyond = Signal(name=f"{name}_beyond")
        kept = Signal(width, name=f"{name}_kept")
        m.d.comb += [
            beyond.eq(amount[matter:].any()),
            kept.eq(value & (~beyond).replicate(width)),
        ]
        lost.append(beyond & value.any())
        value = kept
    out = Signal(name=f"{name}_sticky")
    m.d.comb += out.eq(Cat(*lost).any())
    return value, out


@dataclass(frozen=True, kw_only=True)
class Normalised(Parts):
    """``magnitude`` with its leading one on top, or 0; ``exponent`` is still that of its bit 0.

    Attributes:
        low: the least exponent of the top bit that any magnitude but 0 can have.
        limited: there may be no leading one on top, because the exponent has reached ``low``.
    """

    magnitude: Value
    exponent: Value
    sticky: Value
    low: int
    limited: bool = False


def normalise(
    m: Module,
    name: str,
    magnitude: Value,
    exponent: Value,
    sticky: Value = NO,
    *,
    low: int | None = None,
    count: Value | None = None,
) -> Normalised:
    """A magnitude of any width with its leading one on top.

    Args:
        exponent: of bit 0; signed or not.
        low: its least value if that is more than its shape says: spares what comes later. With a
            ``count`` that of the top bit, behind the shift.
        count: how far to shift, if that is known: of :func:`count_leading_zeros`, with a limit that
            leaves a subnormal number in its place.
    """
    least, highest = _range(exponent)
    if low is None:
        low = least
    limited = count is not None
    if count is None:
        value, count = leading_zeros(m, name, magnitude)
    else:
        value = _shift_left(m, name, magnitude, count)
    found = Signal(_signed(min(low, least) - (1 << len(count)) + 1, highest), name=f"{name}_moved")
    m.d.comb += found.eq(exponent - count)
    return Normalised(magnitude=value, exponent=found, sticky=sticky, low=low, limited=limited)


def count_leading_zeros(m: Module, name: str, value: Value, limit: Value) -> Value:
    """How many zeros lie above the leading one, but no more than ``limit``.

    A tree: a half that is zero passes on the other's count, one bit a level (V. G. Oklobdzija, "An
    algorithmic and novel design of a leading zero detector circuit", 1994).
    """
    levels = max(len(value) - 1, 0).bit_length()
    padded = Cat(Const(-1, (1 << levels) - len(value)), value)
    # Of every part, high to low, whether it is zero and its count.
    parts = [(~padded[i], list[Value]()) for i in reversed(range(1 << levels))]
    for level in range(levels):
        joined = []
        for i in range(0, len(parts), 2):
            (above, high), (below, low) = parts[i : i + 2]
            empty = Signal(name=f"{name}_zero_{level}_{i // 2}")
            count = Signal(level + 1, name=f"{name}_count_{level}_{i // 2}")
            chosen = [Mux(above, b, a) for a, b in zip(high, low, strict=True)]
            m.d.comb += [empty.eq(above & below), count.eq(Cat(*chosen, above))]
            joined.append((empty, [count[bit] for bit in range(level + 1)]))
        parts = joined
    zeros = Cat(*parts[0][1])
    found = Signal(levels, name=name)
    m.d.comb += found.eq(Mux(zeros < limit, zeros, limit))
    return found


def _shift_left(m: Module, name: str, value: Value, amount: Value) -> Value:
    for stage in reversed(range(len(amount))):
        step = 1 << stage
        shifted = Signal(len(value), name=f"{name}_left_{step}")
        m.d.comb += shifted.eq(Mux(amount[stage], value << step, value))
        value = shifted
    return value


@dataclass(frozen=True, kw_only=True)
class Fixed(Parts):
    """A magnitude as an integer and what is below it.

    Attributes:
        whole: the integer's lowest bits.
        guard, sticky: its first bit behind the point, and whether anything is below that.
        over: the integer has more bits.
    """

    whole: Value
    guard: Value
    sticky: Value
    over: Value


def fix(m: Module, name: str, magnitude: Value, exponent: Value, bits: int) -> Fixed:
    """``magnitude * 2^exponent`` as an integer of ``bits`` bits.

    A shifter to the right, widest shift first: what a stage can no longer bring into the ``bits``
    is left out of the next one, so that most of it is no wider than the result.
    """
    # Above the point as far as a value that fits can be shifted up, below it the guard bit.
    value: Value = Cat(Const(0, bits + 1), magnitude)
    least, highest = _range(exponent)
    amount = Signal(_signed(bits - highest, bits - least), name=f"{name}_amount")
    matter = min(len(amount) - 1, len(value).bit_length())
    m.d.comb += amount.eq(bits - exponent)
    lost: list[Value] = []
    above: list[Value] = []
    for stage in reversed(range(matter)):
        step = 1 << stage
        shifted = Signal(len(value), name=f"{name}_right_{step}")
        fallen = Signal(name=f"{name}_lost_{step}")
        m.d.comb += [
            shifted.eq(Mux(amount[stage], value[step:], value)),
            fallen.eq(amount[stage] & value[:step].any()),
        ]
        lost.append(fallen)
        reach = bits + step
        if len(value) > reach:
            above.append(shifted[reach:].any())
        value = shifted[:reach]
    beyond, up = Signal(name=f"{name}_beyond"), Signal(name=f"{name}_up")
    some, over = Signal(name=f"{name}_some"), Signal(name=f"{name}_over")
    kept, sticky = Signal(bits + 1, name=f"{name}_kept"), Signal(name=f"{name}_sticky")
    m.d.comb += [
        up.eq(amount[-1]),
        beyond.eq(amount[matter:-1].any() & ~up),
        some.eq(magnitude.any()),
        over.eq(Mux(up, some, Cat(*above).any() & ~beyond)),
        kept.eq(value & (~beyond).replicate(bits + 1)),
        sticky.eq(Mux(beyond, some, Cat(*lost).any())),
    ]
    return Fixed(whole=kept[1:], guard=kept[0], sticky=sticky, over=over)


def narrow(m: Module, name: str, form: FloatFormat, value: Normalised) -> Normalised:
    """Without the bits that can only be sticky in that format: less to register."""
    drop = len(value.magnitude) - (form.mantissa_bits + 2)
    if drop <= 0:
        return value
    least, highest = _range(value.exponent)
    exponent = Signal(_signed(least + drop, highest + drop), name=f"{name}_raised")
    sticky = Signal(name=f"{name}_dropped")
    m.d.comb += [
        exponent.eq(value.exponent + drop),
        sticky.eq(Cat(value.sticky, value.magnitude[:drop]).any()),
    ]
    return replace(value, magnitude=value.magnitude[drop:], exponent=exponent, sticky=sticky)


@dataclass(frozen=True, kw_only=True)
class Placed(Parts):
    """What a format keeps of a magnitude, before rounding.

    Attributes:
        kept: ``mantissa_bits + 1`` bits; the top one is the leading one or 0, as stored.
        guard, sticky: the bit below, and whether anything is below that.
        exponent: as it is stored; 0 where there is no leading one.
        over: the exponent is more than the format stores.
        zero: the value is 0.
    """

    kept: Value
    guard: Value
    sticky: Value
    exponent: Value
    over: Value
    zero: Value


def place(m: Module, name: str, form: FloatFormat, value: Normalised) -> Placed:
    """Cut a normalised magnitude to a format's mantissa."""
    bits, width = form.mantissa_bits, len(value.magnitude)
    kept = bits + 2  # with the guard bit
    magnitude = value.magnitude
    above = Cat(Const(0, max(kept - width, 0)), magnitude[max(width - kept, 0) :])
    zero = Signal(name=f"{name}_zero")
    sticky = Signal(name=f"{name}_below")
    # The stored exponent, were there no bounds to it.
    least, highest = _range(value.exponent)
    move = width - 1 + form.bias
    ideal = Signal(_signed(min(least + move, 0), max(highest + move, 0)), name=f"{name}_ideal")
    over = Signal(name=f"{name}_over")
    m.d.comb += [
        # Without a leading one on top there is nothing but what is stuck below.
        zero.eq(~(magnitude.any() if value.limited else magnitude[-1]) & ~value.sticky),
        sticky.eq(Cat(value.sticky, magnitude[: max(width - kept, 0)]).any()),
        ideal.eq(value.exponent + move),
        over.eq(magnitude[-1] & (ideal >= (1 << form.exponent_bits))),
    ]
    fits: Value = magnitude[-1]
    stuck: Value = sticky
    lowest = form.min_exponent + form.bias
    if value.low + form.bias < lowest:
        fits = Signal(name=f"{name}_fits")
        m.d.comb += fits.eq(magnitude[-1] & (ideal >= lowest))
        if form.subnormals:
            amount = Signal(len(ideal), name=f"{name}_down")
            m.d.comb += amount.eq(Mux(fits, 0, lowest - ideal))
            above, stuck = shift_right_sticky(m, f"{name}_down", above, amount, sticky)
    exponent = Signal(form.exponent_bits, name=f"{name}_exponent")
    m.d.comb += exponent.eq(ideal[: form.exponent_bits] & fits.replicate(form.exponent_bits))
    if not form.subnormals:
        # What is too small takes the smallest value there is.
        cleared = Signal(kept, name=f"{name}_cleared")
        m.d.comb += cleared.eq(above & fits.replicate(kept))
        above = cleared
    return Placed(
        kept=above[1:], guard=above[0], sticky=stuck, exponent=exponent, over=over, zero=zero
    )


def pack(
    m: Module,
    name: str,
    form: FloatFormat,
    value: Placed,
    *,
    sign: Value,
    nan: Value = NO,
    inf: Value = NO,
    overflow: Overflow = "nonsaturating",
) -> Value:
    """Round, and put in what overflows and the specials: a code of ``form.width`` bits.

    ``nan`` outranks ``inf``, and either the value. ``ValueError``: the format has no NaN, and there
    can be one: ``nan`` is no constant 0, ``sign`` is none and the format unsigned, or the format
    has no zero.
    """
    if overflow not in ("nonsaturating", "saturate"):
        raise ValueError(f"overflow: must be nonsaturating or saturate, got {overflow!r}")
    bits = form.mantissa_bits
    invalid = [] if _never(nan) else [nan]
    if not form.subnormals:
        invalid.append(value.zero & ~inf)
    if not form.signed and not _never(sign):
        invalid.append(sign & (~value.zero | inf))
    if invalid and form.nan_code is None:
        raise ValueError(f"{name}: {form.name} has no NaN")
    up = Signal(name=f"{name}_up")
    total = Signal(form.exponent_bits + bits + 1, name=f"{name}_total")
    largest = form.max_code
    if overflow == "nonsaturating" and form.specials != "none":
        largest += 1  # infinity, or NaN where there is no infinity
    high = Signal(name=f"{name}_high")
    code = Signal(form.width, name=f"{name}_code")
    m.d.comb += [
        up.eq(value.guard & (value.sticky | value.kept[0])),
        # A mantissa that rounds up to the next power of two carries into the exponent.
        total.eq(Cat(value.kept[:bits], value.exponent) + up),
        high.eq(inf | value.over | (total > form.max_code)),
        code.eq(Mux(high, largest, total)),
    ]
    if invalid:
        wrong = Signal(name=f"{name}_wrong")
        m.d.comb += wrong.eq(Cat(*invalid).any())
        with m.If(wrong):
            m.d.comb += code.eq(form.nan_code)
    if form.signed:
        m.d.comb += code[-1].eq(sign)
    return code


def round_to(
    m: Module,
    name: str,
    form: FloatFormat,
    *,
    sign: Value,
    magnitude: Value,
    exponent: Value,
    sticky: Value = NO,
    nan: Value = NO,
    inf: Value = NO,
    overflow: Overflow = "nonsaturating",
    low: int | None = None,
) -> Value:
    """The code of ``(-1)^sign * (magnitude + t) * 2^exponent``, rounded once; see the module.

    Where ``sticky`` is set, the lowest bit of ``magnitude`` has to lie below the result's mantissa,
    or nobody could round. ``low`` is as in :func:`normalise`, ``ValueError`` as in :func:`pack`.
    """
    moved = normalise(m, f"{name}_norm", magnitude, exponent, sticky, low=low)
    placed = place(m, f"{name}_place", form, moved)
    return pack(m, name, form, placed, sign=sign, nan=nan, inf=inf, overflow=overflow)


def _range(value: Value) -> tuple[int, int]:
    """Least and largest value of a shape."""
    shape = value.shape()
    if shape.signed:
        return -(1 << (shape.width - 1)), (1 << (shape.width - 1)) - 1
    return 0, (1 << shape.width) - 1


def _signed(low: int, high: int) -> signed:
    """The narrowest signed shape for ``low`` to ``high``."""
    return signed(max(low if low >= 0 else ~low, high if high >= 0 else ~high).bit_length() + 1)


def _never(flag: Value) -> bool:
    return isinstance(flag, Const) and flag.value == 0

"""From a significand to a symmetric integer: moved to its place, rounded, clipped, signed."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value

from hw.lib.floats import shift_right_sticky


def window(m: Module, value: Value, width: int, down: Value, most: int) -> tuple[Value, Value]:
    """The top of a value in ``width`` bits, moved down, and whether anything is below.

    Beyond ``most`` nothing is left, not even what is below: the caller knows that it is less than
    half of what counts. A negative ``down`` gives any result.
    """
    cut = max(len(value) - width, 0)
    padded = Cat(Const(0, max(width - len(value), 0)), value[cut:])
    moved, below = shift_right_sticky(
        m, "down", padded, down[: most.bit_length()], value[:cut].any()
    )
    kept = Signal(width, name="kept")
    sticky = Signal(name="kept_sticky")
    m.d.comb += [kept.eq(moved), sticky.eq(below)]
    with m.If(down > most):
        m.d.comb += [kept.eq(0), sticky.eq(0)]
    return kept, sticky


def clipped(
    m: Module, bits: int, *, sign: Value, magnitude: Value, below: Value, over: Value
) -> Value:
    """A code of ``bits`` bits: rounded to nearest, ties to even, then clipped to the range that is
    symmetric.

    Args:
        magnitude: ``bits - 1`` bits and, lowest, one below the point.
        below: anything is below that.
        over: the magnitude has higher bits, too.
    """
    whole, half = magnitude[1:], magnitude[0]
    rounded = Signal(bits, name="rounded")
    top = Signal(bits - 1, name="clipped")
    code = Signal(bits, name="code")
    m.d.comb += [
        rounded.eq(whole + (half & (below | whole[0]))),
        top.eq(rounded[:-1] | (over | rounded[-1]).replicate(bits - 1)),
        code.eq((top ^ sign.replicate(bits)) + sign),
    ]
    return code

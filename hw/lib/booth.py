"""Radix-4 Booth recoding: a multiplier's bits as digits −2 … 2 (O. L. MacSorley, 1961)."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Signal, Value


@dataclass(frozen=True)
class Digit:
    """``(−1)^negative · (one + 2·two)``; ``negative`` may be high where both others are low."""

    one: Value
    two: Value
    negative: Value


def digit_count(bits: int) -> int:
    """Digits of a two's complement number of ``bits`` bits."""
    return (bits + 1) // 2


def recode(m: Module, value: Value, name: str) -> list[Digit]:
    """Digits of a two's complement value, least significant first."""
    bits = [value[i] for i in range(len(value))]
    if len(bits) % 2:
        bits.append(bits[-1])
    digits = []
    below: Value | None = None
    for index in range(0, len(bits), 2):
        low, high = bits[index], bits[index + 1]
        one = Signal(name=f"{name}_one_{index // 2}")
        two = Signal(name=f"{name}_two_{index // 2}")
        # A sign-extended single bit never is a doubled digit.
        alike = index + 1 == len(value)
        if below is None:
            m.d.comb += [one.eq(low), two.eq(0 if alike else high & ~low)]
        else:
            m.d.comb += [
                one.eq(low ^ below),
                two.eq(0 if alike else (high & ~low & ~below) | (~high & low & below)),
            ]
        digits.append(Digit(one, two, high))
        below = high
    return digits


def lines(digits: list[Digit]) -> Value:
    """Digits as one vector, for a port: one, two, negative of each."""
    return Cat(*(Cat(digit.one, digit.two, digit.negative) for digit in digits))


def from_lines(value: Value, count: int) -> list[Digit]:
    """The inverse of :func:`lines`."""
    return [Digit(value[3 * i], value[3 * i + 1], value[3 * i + 2]) for i in range(count)]

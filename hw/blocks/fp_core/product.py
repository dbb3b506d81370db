"""Products of two floating-point formats: widths and exponents."""

from __future__ import annotations

from dataclasses import dataclass

from hw.formats import FloatFormat


@dataclass(frozen=True)
class Product:
    """``p · 2^(x − unit)``: significands multiplied, stored exponents added.

    A subnormal's stored exponent counts as 1, as IEEE 754 has it; nothing is normalised.
    """

    a: FloatFormat
    w: FloatFormat

    @property
    def a_bits(self) -> int:
        """Bits of a significand of A."""
        return self.a.mantissa_bits + 1

    @property
    def w_bits(self) -> int:
        """Bits of a significand of W."""
        return self.w.mantissa_bits + 1

    @property
    def bits(self) -> int:
        """Bits of ``p``."""
        return self.a_bits + self.w_bits

    @property
    def low(self) -> int:
        """Least ``x``."""
        return 2

    @property
    def high(self) -> int:
        """Largest ``x`` of finite numbers."""
        return sum(form.max_code >> form.mantissa_bits for form in (self.a, self.w))

    @property
    def unit(self) -> int:
        """What is taken off ``x``."""
        return sum(form.bias + form.mantissa_bits for form in (self.a, self.w))

    @property
    def exact_window(self) -> int:
        """Bits from the top of the largest product down to the bottom of the smallest."""
        return self.bits + self.high - self.low

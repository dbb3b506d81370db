"""Numbers between the ports of the vector unit, and what is done with them, exactly.

A number is ``±m · 2^e`` with a significand of ``significand`` bits whose leading one is always
there, or zero of either sign; where the port has them also an infinity or the NaN. There are no
subnormal numbers, and nothing that is computed here leaves the range of exponents; if it did, the
reference would say so.

Every operation rounds its exact result once, to nearest, ties to even. The values stand in
``float64``, where the product of two significands of at most 24 bits is exact; their sum with a
third number is rounded there to odd, which no second rounding to fewer than 52 bits can tell from
the exact sum (S. Boldo and G. Melquiond, "Emulation of FMA and correctly rounded sums: proved
algorithms using rounding to odd", IEEE TC 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hw.lazy import np

if TYPE_CHECKING:
    Numbers = np.ndarray | float


@dataclass(frozen=True)
class Internal:
    """The format between the ports.

    Attributes:
        significand: bits of a significand with its leading one, 12 to 24.
        exponent_bits: of the stored exponent; 0 stands for zero.
        specials: the largest stored exponent stands for infinity and NaN.
    """

    significand: int
    exponent_bits: int
    specials: bool = True

    @property
    def width(self) -> int:
        """Bits of a code: mantissa, exponent, sign, low to high."""
        return self.significand + self.exponent_bits

    @property
    def bias(self) -> int:
        """Stored exponent of 1."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def largest_exponent(self) -> int:
        """The largest stored exponent of a number."""
        return (1 << self.exponent_bits) - 1 - self.specials

    def round(self, values: np.ndarray) -> np.ndarray:
        """``float64`` to the nearest numbers, ties to even; the range is not looked at."""
        drop = 53 - self.significand
        values = np.ascontiguousarray(values, dtype=np.float64)
        bits = values.view(np.int64)
        up = bits + ((1 << (drop - 1)) - 1) + ((bits >> drop) & 1)
        found = (up & -(1 << drop)).view(np.float64)
        return np.where(np.isfinite(values), found, values)

    def fma(self, a: Numbers, b: Numbers, c: Numbers) -> np.ndarray:
        """``a · b + c``, rounded once; arrays or numbers that broadcast.

        Raises:
            ArithmeticError: the result leaves the range of exponents.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            product = np.multiply(a, b, dtype=np.float64)
            addend = np.asarray(c, dtype=np.float64)
            total = np.asarray(product + addend)
            # What the addition lost, exactly (D. E. Knuth, TAOCP 2, 4.2.2, theorem B).
            part = total - product
            lost = (product - (total - part)) + (addend - part)
        bits = total.view(np.int64)
        towards = (lost != 0) & ((lost < 0) != (total < 0))
        odd = np.where(np.isfinite(total) & (lost != 0), (bits - towards) | 1, bits)
        found = self.round(odd.view(np.float64))
        self._inside(found)
        return np.where(np.isnan(found), np.nan, found)

    def maximum(self, a: Numbers, c: Numbers) -> np.ndarray:
        """The larger one, +0 of two zeros, NaN if either is."""
        a, c = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(c, np.float64))
        larger = np.where((a > c) | ((a == c) & np.signbit(c)), a, c)
        return np.where(np.isnan(a) | np.isnan(c), np.nan, larger)

    def _inside(self, values: np.ndarray) -> None:
        """``ArithmeticError`` if a finite number but 0 has no stored exponent."""
        size = np.abs(values)
        usual = np.where(np.isfinite(size) & (size > 0), size, 1.0)
        low, high = -self.bias + 1, self.largest_exponent - self.bias
        if usual.size and not (
            usual.min() >= np.ldexp(1.0, low) and usual.max() < np.ldexp(1.0, high + 1)
        ):
            raise ArithmeticError(
                f"a number left 2^{low} to 2^{high + 1}: [{usual.min()}, {usual.max()}]"
            )

    def code(self, value: float) -> int:
        """The code of a number that is one of the format's.

        Raises:
            ValueError: it is none.
        """
        negative = int(np.signbit(value))
        magnitude = abs(float(value))
        bits = self.significand - 1
        if np.isinf(magnitude) and self.specials:
            stored, mantissa = (1 << self.exponent_bits) - 1, 0
        elif magnitude == 0:
            stored, mantissa = 0, 0
        else:
            part, power = np.frexp(magnitude)
            scaled = float(part) * (2 << bits)
            stored, mantissa = int(power) - 1 + self.bias, int(scaled) - (1 << bits)
            if scaled != int(scaled) or not 1 <= stored <= self.largest_exponent:
                raise ValueError(f"{value}: is no number of {self.significand} bits in range")
        return (((negative << self.exponent_bits) | stored) << bits) | mantissa

    def nearest(self, value: float) -> float:
        """A real constant as a number of this format."""
        return float(self.round(np.array([value]))[0])

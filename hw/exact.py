"""Exact products of numbers, in integers: the reference where ``float64`` would round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hw.lazy import np

if TYPE_CHECKING:
    from hw.formats import FloatFormat

MOST_BITS = 62
"""Bits of a significand that ``int64`` takes here."""

_FOLDED = 9  # bits of MOST_BITS that float64 has no room for


@dataclass(frozen=True)
class Exact:
    """``(-1)^sign * significand * 2^power``, or what is special; arrays of one shape.

    ``significand`` has at most :data:`MOST_BITS` bits; of NaN and infinity it means nothing but
    whether it is 0.
    """

    sign: np.ndarray
    significand: np.ndarray
    power: np.ndarray
    nan: np.ndarray
    inf: np.ndarray

    def __mul__(self, other: Exact) -> Exact:
        """The product; an infinity times 0 is NaN. The caller knows that the bits suffice."""
        return Exact(
            self.sign ^ other.sign,
            self.significand * other.significand,
            self.power + other.power,
            self.nan | other.nan | (self.inf & other.zero) | (self.zero & other.inf),
            self.inf | other.inf,
        )

    @property
    def zero(self) -> np.ndarray:
        """True where the number is 0."""
        return (self.significand == 0) & ~self.nan & ~self.inf

    def as_float64(self) -> np.ndarray:
        """Values of which every rounding to 24 bits or fewer is that of the exact ones.

        ``float64`` holds 53 bits. Of more, the lowest ones can only break a tie of such a rounding,
        and one bit that is 1 if any of them is does that as well.
        """
        kept = self.significand >> _FOLDED
        sticky = (self.significand & ((1 << _FOLDED) - 1)) > 0
        folded = np.where(kept >> (53 - _FOLDED) > 0, (kept | sticky) << _FOLDED, self.significand)
        # What float64 has no exponent for is beyond every format, too.
        with np.errstate(over="ignore", under="ignore"):
            value = np.ldexp(folded.astype(np.float64), self.power)
        value = np.where(self.inf, np.inf, value)
        value = np.where(self.nan, np.nan, value)
        return np.where(self.sign == 1, -value, value)


def numbers(form: FloatFormat | None, codes: np.ndarray) -> Exact:
    """Codes of a format taken apart; integers where that is None."""
    codes = np.asarray(codes).astype(np.int64)
    if form is None:
        no = np.zeros(codes.shape, dtype=bool)
        sign = (codes < 0).astype(np.int64)
        return Exact(sign, np.abs(codes), np.zeros_like(codes), no, no)
    parts = form.fields(codes)
    return Exact(parts.sign, parts.significand, parts.power, form.is_nan(codes), form.is_inf(codes))

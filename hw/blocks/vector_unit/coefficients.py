"""Constants of the vector unit: polynomials, seeds of Newton's iteration, where arguments end.

The polynomials are minimax approximations of the relative error, found by linear programming over
some thousand points; the errors stated here are of the unrounded coefficients, and tests measure
what is left of them in the format between the ports.
"""

from __future__ import annotations

import math

from hw.blocks.vector_unit.arithmetic import Internal

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)

EXP = {
    4: (0.999966708928, 0.500030259204, 0.167877099267, 0.0415135177784),
    5: (0.999999705434, 0.499991461503, 0.166676400668, 0.0418983899179, 0.00829022921344),
    6: (
        1.00000003236,
        0.499999940494,
        0.166664302681,
        0.0416680414302,
        0.0083742426862,
        0.00138414823149,
    ),
}
"""``e^f = 1 + c1·f + c2·f² + …`` for ``|f| ≤ 1.001·ln(2)/2``, by degree; relative errors 2^-18.4,
2^-23.4, 2^-28.9."""

TAIL_STEP = 0.3125
TAIL = {
    6: (
        0.124796514321,
        0.122266394173,
        0.129966883969,
        0.0257163791066,
        0.169255661111,
        -0.0720047626126,
    ),
    8: (
        0.124663150173,
        0.124891610807,
        0.109741923636,
        0.105184327006,
        -0.00413213070207,
        0.139953115065,
        -0.135578496497,
        0.0352766028156,
    ),
}
"""``Φ(-z)·e^(z²/2) = c1·t + c2·t² + …``, ``t = 1/(1 + 0.3125·z)``, for ``0 ≤ z ≤ 14.1``, by degree;
relative errors 2^-17.4, 2^-22.2. The form is that of Abramowitz and Stegun, 7.1.26."""

TANH_LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
TANH_CUBIC = TANH_LINEAR * 0.044715
"""``(1 + tanh(√(2/π)·(z + 0.044715·z³)))/2`` is the logistic function of ``z·(linear + cubic·z²)``
(D. Hendrycks and K. Gimpel, arXiv 1606.08415)."""


def exp_degree(number: Internal) -> int:
    """Degree of the exponential's polynomial."""
    return 4 if number.significand <= 16 else 5 if number.significand <= 21 else 6


def tail_degree(number: Internal) -> int:
    """Degree of the normal distribution's tail."""
    return 6 if number.significand <= 16 else 8


def exp_coefficients(number: Internal) -> tuple[float, ...]:
    """c1, c2, … of :data:`EXP`, rounded."""
    return tuple(number.nearest(value) for value in EXP[exp_degree(number)])


def tail_coefficients(number: Internal) -> tuple[float, ...]:
    """c1, c2, … of :data:`TAIL`, rounded."""
    return tuple(number.nearest(value) for value in TAIL[tail_degree(number)])


LIMITS = {10: (104.0, 14.0, 10.5), 8: (40.0, 8.0, 7.0)}


def limits(number: Internal) -> tuple[float, float, float]:
    """Largest magnitudes that the exponential, GELU and its tanh form look at.

    Beyond them results round to 0, or to x, in every format that has these exponents: of BF16 the
    smallest number is 2^-133 > 2·e^-93, of FP16 2^-24 and of fixed point 2^-15.
    """
    return LIMITS[number.exponent_bits]


def seed_bits(number: Internal) -> int:
    """Mantissa bits that a seed looks at: enough for two steps of Newton's iteration."""
    return 4 if number.significand <= 18 else 6


def seed_mantissa_bits(number: Internal) -> int:
    """Mantissa bits of a seed."""
    return seed_bits(number) + 3


def reciprocal_seeds(number: Internal) -> tuple[int, ...]:
    """By the upper bits of a mantissa ``m``, the mantissa of ``2/(1 + m)``: 1 to 2."""
    count, scale = 1 << seed_bits(number), 1 << seed_mantissa_bits(number)
    return tuple(round((2 / (1 + (i + 0.5) / count) - 1) * scale) for i in range(count))


def root_seeds(number: Internal) -> tuple[int, ...]:
    """By the exponent's parity and the upper bits of a mantissa ``m``, the mantissa of
    ``2/√(2^parity·(1 + m))``: 1 to 2."""
    count, scale = 1 << seed_bits(number), 1 << seed_mantissa_bits(number)
    return tuple(
        round((2 / math.sqrt((1 << parity) * (1 + (i + 0.5) / count)) - 1) * scale)
        for parity in (0, 1)
        for i in range(count)
    )

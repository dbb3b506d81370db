"""Floating-point formats and symmetric integers: codes to exact values, and back by rounding.

Every finite value of every format here is a ``float64`` exactly, so ``decode`` loses nothing, and
``encode`` rounds once. ``fields`` gives the same value as integers, for hardware references that
must not use floating point at all: ``(-1)^sign * significand * 2^power``.

Sources: IEEE 754-2019 (FP16, FP32); OCP 8-bit Floating Point Specification 1.0 (E4M3, E5M2,
saturating and non-saturating conversion); OCP Microscaling Formats 1.0 (E2M3, E3M2, E2M1, E8M0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hw.errors import Problem, SpecError
from hw.lazy import np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "BF16",
    "E8M0",
    "FLOAT_FORMATS",
    "FP4_E2M1",
    "FP6_E2M3",
    "FP6_E3M2",
    "FP8_E4M3",
    "FP8_E5M2",
    "FP16",
    "FP32",
    "UE4M3",
    "Fields",
    "FloatFormat",
    "IntegerFormat",
    "Overflow",
    "Specials",
    "as_float64",
    "exponent_format",
]

Specials = Literal["ieee", "top_nan", "none"]
"""What the largest codes mean.

``ieee``: the largest exponent holds infinity (mantissa 0) and NaN (any other). ``top_nan``: only
the code of all ones (sign aside) is NaN, and there is no infinity; others call this ``fn``.
``none``: every code is a finite number.
"""

Overflow = Literal["nonsaturating", "saturate"]
"""What becomes of a value that rounds to more than the largest finite one, and of an infinity.

``nonsaturating``: infinity, or NaN where the format has no infinity (``ml_dtypes``; NONSAT of OCP).
``saturate``: the largest finite value of that sign (SAT of OCP). A format without special codes
saturates under either.
"""


class Fields(NamedTuple):
    """A code taken apart into ``int64`` arrays: ``(-1)^sign * significand * 2^power``."""

    sign: np.ndarray
    """0 or 1."""
    exponent: np.ndarray
    """The exponent as it is stored, with its bias; 0 for integers."""
    significand: np.ndarray
    """The mantissa with its leading one made explicit: not negative."""
    power: np.ndarray
    """Power of two of the significand's lowest bit."""


def as_float64(values: ArrayLike) -> np.ndarray:
    """Values as ``float64``, exactly; a signalling NaN becomes quiet without a warning."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values, dtype=np.float64)


def _checked(name: str, codes: ArrayLike, low: int, high: int) -> np.ndarray:
    """``codes`` as ``int64``. ``ValueError``: not integers, or outside ``low`` to ``high``."""
    array = np.asarray(codes)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: codes are integers, got {array.dtype}")
    outside = (array < low) | (array > high)
    if outside.any():
        first = int(array[outside][0])
        raise ValueError(f"{name}: codes are {low} to {high}, got {first}")
    return array.astype(np.int64)


def _random(
    rng: np.random.Generator, shape: int | tuple[int, ...], low: int, high: int, corners: np.ndarray
) -> np.ndarray:
    """``int64``: half of them evenly from ``low`` to ``high``, half from ``corners``."""
    even = rng.integers(low, high + 1, size=shape)
    return np.where(rng.random(shape) < 0.5, even, rng.choice(corners, size=shape))


@dataclass(frozen=True, kw_only=True)
class FloatFormat:
    """A floating-point format of at most 32 bits: sign, exponent, mantissa, high to low.

    Codes are unsigned integers of ``width`` bits. ``SpecError`` if a field breaks its rule.
    """

    name: str
    exponent_bits: int
    """1 to 8."""
    mantissa_bits: int
    """0 to 23, the leading one not counted."""
    bias: int
    """A stored exponent ``e`` stands for ``2^(e - bias)``; 0 to 127 keeps values in ``float64``."""
    specials: Specials
    signed: bool = True
    subnormals: bool = True
    """Stored exponent 0 has no leading one, so 0 exists; otherwise it is like every other."""

    def __post_init__(self) -> None:
        ranges = {"exponent_bits": (1, 8), "mantissa_bits": (0, 23), "bias": (0, 127)}
        problems = [
            Problem((name,), f"must be {low} to {high}", getattr(self, name))
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ]
        if self.specials == "ieee" and self.mantissa_bits == 0:
            rule = "must be at least 1 for infinity and NaN to differ"
            problems.append(Problem(("mantissa_bits",), rule, self.mantissa_bits))
        if problems:
            raise SpecError(problems)

    @property
    def width(self) -> int:
        """Bits of a code."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Smallest unsigned type of numpy that holds a code."""
        return np.min_scalar_type((1 << self.width) - 1)

    @property
    def min_exponent(self) -> int:
        """Power of two of the smallest normal value."""
        return int(self.subnormals) - self.bias

    @property
    def max_exponent(self) -> int:
        """Power of two of the largest finite value: ``emax`` of OCP."""
        return (self.max_code >> self.mantissa_bits) - self.bias

    @property
    def max_code(self) -> int:
        """The positive code of the largest finite value."""
        if self.specials == "ieee":
            return (((1 << self.exponent_bits) - 1) << self.mantissa_bits) - 1
        return (1 << (self.exponent_bits + self.mantissa_bits)) - 1 - (self.specials == "top_nan")

    @property
    def inf_code(self) -> int | None:
        """The code of positive infinity, None where there is none."""
        return self.max_code + 1 if self.specials == "ieee" else None

    @property
    def nan_code(self) -> int | None:
        """The positive quiet NaN that ``encode`` makes, None where there is none."""
        if self.specials == "ieee":
            return (self.max_code + 1) | (1 << (self.mantissa_bits - 1))
        return self.max_code + 1 if self.specials == "top_nan" else None

    @property
    def max(self) -> float:
        """The largest finite value."""
        significand = self.max_code & ((1 << self.mantissa_bits) - 1) | (1 << self.mantissa_bits)
        return math.ldexp(significand, self.max_exponent - self.mantissa_bits)

    @property
    def min_normal(self) -> float:
        """The smallest positive value with a leading one."""
        return math.ldexp(1.0, self.min_exponent)

    @property
    def min_subnormal(self) -> float | None:
        """The smallest positive value without a leading one, None where there is none."""
        if not self.subnormals or self.mantissa_bits == 0:
            return None
        return math.ldexp(1.0, self.min_exponent - self.mantissa_bits)

    def _magnitude(self, codes: ArrayLike) -> np.ndarray:
        """Codes without their sign, ``int64``."""
        checked = _checked(self.name, codes, 0, (1 << self.width) - 1)
        return checked & ((1 << (self.exponent_bits + self.mantissa_bits)) - 1)

    def is_nan(self, codes: ArrayLike) -> np.ndarray:
        """True where a code is NaN."""
        first = self.max_code + (2 if self.specials == "ieee" else 1)
        return self._magnitude(codes) >= first

    def is_inf(self, codes: ArrayLike) -> np.ndarray:
        """True where a code is an infinity."""
        magnitude = self._magnitude(codes)
        return (magnitude == self.max_code + 1) & (self.specials == "ieee")

    def fields(self, codes: ArrayLike) -> Fields:
        """Codes taken apart. Of NaN and infinity only ``sign`` and ``exponent`` mean anything."""
        magnitude = self._magnitude(codes)
        sign = np.asarray(codes).astype(np.int64) >> (self.exponent_bits + self.mantissa_bits)
        exponent = magnitude >> self.mantissa_bits
        mantissa = magnitude & ((1 << self.mantissa_bits) - 1)
        subnormal = (exponent == 0) & self.subnormals
        significand = np.where(subnormal, mantissa, mantissa | (1 << self.mantissa_bits))
        power = exponent + subnormal - self.bias - self.mantissa_bits
        return Fields(sign, exponent, significand, power)

    def decode(self, codes: ArrayLike) -> np.ndarray:
        """Values of codes, exactly, as ``float64`` of the same shape. NaN keeps its sign."""
        sign, _, significand, power = self.fields(codes)
        value = np.ldexp(significand.astype(np.float64), power)
        value = np.where(self.is_inf(codes), np.inf, value)
        value = np.where(self.is_nan(codes), np.nan, value)
        return np.where(sign == 1, -value, value)

    def encode(self, values: ArrayLike, *, overflow: Overflow = "nonsaturating") -> np.ndarray:
        """Codes of values rounded once, to nearest, ties to the even significand.

        The result has ``code_dtype`` and the shape of ``values``. Signs are kept, of zero and of
        NaN too; a NaN becomes ``nan_code``. An unsigned format takes -0 for 0 and makes NaN of
        what is below 0. A format without subnormals makes NaN of 0, and its smallest value of
        anything smaller. A tie between powers of two without mantissa goes up.

        This is what ``ml_dtypes`` 0.6 does to ``float32`` under ``nonsaturating``, with two
        exceptions: it makes a zero of a NaN where a format has none, which is a ``ValueError``
        here, and it rounds up to E8M0 from above 2^-127, where ``float32`` is subnormal. Of
        ``float64`` it rounds twice, by way of ``float32``; here there is one rounding.
        """
        if overflow not in ("nonsaturating", "saturate"):
            raise ValueError(f"overflow: must be nonsaturating or saturate, got {overflow!r}")
        x = as_float64(values)
        invalid = np.isnan(x)
        if not self.signed:
            invalid = invalid | (x < 0)
        if not self.subnormals:
            invalid = invalid | (x == 0)
        if self.nan_code is None and invalid.any():
            raise ValueError(f"{self.name}: has no code for {x[invalid].flat[0]}")

        magnitude = np.where(np.isfinite(x), np.abs(x), 0.0)
        exponent = np.frexp(magnitude)[1].astype(np.int64) - 1
        exponent = np.where(magnitude == 0, self.min_exponent, exponent)
        exponent = np.maximum(exponent, self.min_exponent)
        # Exact: a value above min_exponent only moves its point, one below it moves it up.
        significand = np.rint(np.ldexp(magnitude, self.mantissa_bits - exponent)).astype(np.int64)
        # A significand that rounded up to the next power of two carries into the exponent.
        code = ((exponent - self.min_exponent) << self.mantissa_bits) + significand
        if not self.subnormals:
            code = np.maximum(code - (1 << self.mantissa_bits), 0)

        largest = self.max_code
        if overflow == "nonsaturating" and self.specials != "none":
            largest += 1  # infinity, or NaN where there is no infinity
        code = np.where(np.isinf(x) | (code > self.max_code), largest, code)
        if self.nan_code is not None:
            code = np.where(invalid, self.nan_code, code)
        if self.signed:
            code = code | (np.signbit(x).astype(np.int64) << (self.width - 1))
        return code.astype(self.code_dtype)

    def corners(self) -> np.ndarray:
        """The codes where mistakes show, ascending, of every sign the format has.

        Zero, the ends of the subnormal and of the normal range, one, and infinity, the NaN that
        ``encode`` makes and the one of all ones, as far as the format has them.
        """
        leading = 1 << self.mantissa_bits
        top = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        one = min(self.bias << self.mantissa_bits, self.max_code)
        codes = [0, 1, leading - 1, leading, one, self.max_code - 1, self.max_code, top]
        codes += [code for code in (self.inf_code, self.nan_code) if code is not None]
        if self.signed:
            codes += [code | (top + 1) for code in codes]
        return np.unique(codes).astype(self.code_dtype)

    def random_codes(
        self, rng: np.random.Generator, shape: int | tuple[int, ...], *, finite: bool = False
    ) -> np.ndarray:
        """Corner-heavy random codes: half of them ``corners``; no NaN or infinity if ``finite``."""
        corners = self.corners()
        if finite:
            corners = corners[~(self.is_nan(corners) | self.is_inf(corners))]
        codes = _random(rng, shape, 0, (1 << self.width) - 1, corners)
        if finite:
            special = self.is_nan(codes) | self.is_inf(codes)
            codes = np.where(special, rng.choice(corners, size=shape), codes)
        return codes.astype(self.code_dtype)


@dataclass(frozen=True, kw_only=True)
class IntegerFormat:
    """A symmetric fixed-point number: ``code * 2^-fraction_bits``, ``code`` in two's complement.

    Codes are signed integers. ``encode`` makes none below ``-max_code``: negation and rotation then
    stay in range, and no tensor is biased by its negative extremes. The one code more that
    two's complement has is still decoded, since OCP MXINT8 lets others write it (it is -2).
    ``SpecError`` if a field breaks its rule.
    """

    name: str
    bits: int
    """2 to 16, with the sign."""
    fraction_bits: int
    """0 to 16: how far below the code's lowest bit the point is moved."""

    def __post_init__(self) -> None:
        ranges = {"bits": (2, 16), "fraction_bits": (0, 16)}
        problems = [
            Problem((name,), f"must be {low} to {high}", getattr(self, name))
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ]
        if problems:
            raise SpecError(problems)

    @property
    def width(self) -> int:
        """Bits of a code."""
        return self.bits

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Smallest signed type of numpy that holds a code."""
        return np.min_scalar_type(-(1 << (self.bits - 1)))

    @property
    def max_code(self) -> int:
        """The largest code that ``encode`` makes; the smallest is its negative."""
        return (1 << (self.bits - 1)) - 1

    @property
    def max(self) -> float:
        """The largest value."""
        return math.ldexp(self.max_code, -self.fraction_bits)

    def fields(self, codes: ArrayLike) -> Fields:
        """Codes taken apart as sign and magnitude."""
        checked = _checked(self.name, codes, -self.max_code - 1, self.max_code)
        nothing = np.zeros_like(checked)
        return Fields(
            sign=(checked < 0).astype(np.int64),
            exponent=nothing,
            significand=np.abs(checked),
            power=nothing - self.fraction_bits,
        )

    def decode(self, codes: ArrayLike) -> np.ndarray:
        """Values of codes, exactly, as ``float64`` of the same shape."""
        checked = _checked(self.name, codes, -self.max_code - 1, self.max_code)
        return np.ldexp(checked.astype(np.float64), -self.fraction_bits)

    def encode(self, values: ArrayLike) -> np.ndarray:
        """Codes of values rounded to nearest, ties to even, then clipped to ``±max_code``.

        The clip comes after the rounding: clipped before, or left to a scale that should make it
        needless, a value may still round to one code more on the negative side (arXiv 2510.25602:
        16.8 % of extremes, where the scaling is done in bfloat16). ``ValueError``: a NaN.
        """
        x = as_float64(values)
        if np.isnan(x).any():
            raise ValueError(f"{self.name}: has no code for nan")
        with np.errstate(over="ignore"):  # an infinity is clipped like any other excess
            rounded = np.rint(np.ldexp(x, self.fraction_bits))
        return np.clip(rounded, -self.max_code, self.max_code).astype(self.code_dtype)

    def corners(self) -> np.ndarray:
        """Both ends, the two's complement minimum, and -1, 0, 1: ascending."""
        codes = [-self.max_code - 1, -self.max_code, -1, 0, 1, self.max_code]
        return np.unique(codes).astype(self.code_dtype)

    def random_codes(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
        """Corner-heavy random codes: half of them ``corners``."""
        codes = _random(rng, shape, -self.max_code - 1, self.max_code, self.corners())
        return codes.astype(self.code_dtype)


def exponent_format(bits: int) -> FloatFormat:
    """A shared exponent of ``bits``: ``2^(code - bias)``, all ones NaN, no zero, no sign.

    Of 8 bits it is E8M0 of OCP; narrower ones follow the same pattern.
    """
    return FloatFormat(
        name=f"e{bits}m0",
        exponent_bits=bits,
        mantissa_bits=0,
        bias=(1 << (bits - 1)) - 1,
        specials="top_nan",
        signed=False,
        subnormals=False,
    )


FP32 = FloatFormat(name="fp32", exponent_bits=8, mantissa_bits=23, bias=127, specials="ieee")
FP16 = FloatFormat(name="fp16", exponent_bits=5, mantissa_bits=10, bias=15, specials="ieee")
BF16 = FloatFormat(name="bf16", exponent_bits=8, mantissa_bits=7, bias=127, specials="ieee")
FP8_E4M3 = FloatFormat(
    name="fp8_e4m3", exponent_bits=4, mantissa_bits=3, bias=7, specials="top_nan"
)
FP8_E5M2 = FloatFormat(name="fp8_e5m2", exponent_bits=5, mantissa_bits=2, bias=15, specials="ieee")
FP6_E2M3 = FloatFormat(name="fp6_e2m3", exponent_bits=2, mantissa_bits=3, bias=1, specials="none")
FP6_E3M2 = FloatFormat(name="fp6_e3m2", exponent_bits=3, mantissa_bits=2, bias=3, specials="none")
FP4_E2M1 = FloatFormat(name="fp4_e2m1", exponent_bits=2, mantissa_bits=1, bias=1, specials="none")
E8M0 = exponent_format(8)
UE4M3 = FloatFormat(
    name="ue4m3", exponent_bits=4, mantissa_bits=3, bias=7, specials="top_nan", signed=False
)
"""The scale of NVFP4: the E4M3 byte with its sign, always 0, left out."""

FLOAT_FORMATS = {
    each.name: each
    for each in (
        FP32,
        FP16,
        BF16,
        FP8_E4M3,
        FP8_E5M2,
        FP6_E2M3,
        FP6_E3M2,
        FP4_E2M1,
        E8M0,
        UE4M3,
    )
}
"""Every floating-point format by its name."""

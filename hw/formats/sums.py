"""Sums of exact terms in an accumulator: fields, widths and the reference of every kind.

A step adds to each output a *term* ``value * 2^(code + bias)``: ``value`` an exact two's complement
integer, ``code`` a non-negative integer that hardware has without another addition, ``bias`` a
constant. A term can be NaN or an infinity instead. What is left after the last step:

- ``fp32``: after every step the exact sum of the number so far and of the term is rounded once, to
  nearest, ties to even, to FP32 with its subnormals; what rounds to 2^128 or more is an infinity,
  which stays. A result of zero is +0.
- ``running``: the number so far is ``s * 2^(8*r + bias - guard)``, with ``r`` the largest
  ``code >> 3`` of the job so far. A step sets ``s = floor(s / 2^(8*(r' - r))) + floor(value *
  2^(code % 8 + guard) / 2^(8*(r' - code >> 3)))``. The bits that fall off are those ``guard`` bits
  below the lowest digit of the largest term's block: the error of a step lies in ``[0, 2)`` of the
  lowest bit of ``s``, downwards, and nothing is lost while the codes of a job span a digit, or
  ``guard`` bits. Nothing is ever normalised on the way.
- ``fixed``: a two's complement number of ``bits`` bits whose lowest has the weight ``2^low`` (U. W.
  Kulisch's exact dot product). Exact; a term that is not 0 and whose bits could lie outside is left
  out and flagged, if the exponents allow such terms at all.

NaN and infinities go by IEEE 754 in every kind: NaN, and infinities of both signs, make NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from hw.errors import Problem
from hw.formats.scalar import FP32
from hw.lazy import np
from hw.spec import Part
from hw.streams import StreamField

DIGIT = 8
"""Bits by which ``running`` and ``fp32`` accumulators shift: all of them a multiple of this."""


class Accumulator(Part):
    """What a floating core keeps between steps, and what it gives."""

    kind: Literal["fp32", "running", "fixed"] = Field(
        "running",
        description="fp32: rounded to FP32 after every step; running: unnormalised, at the largest "
        "exponent so far; fixed: exact, in a window of fixed weight",
    )
    result: Literal["fp32", "raw"] = Field(
        "raw",
        description="of a running sum: rounded once to FP32 behind the accumulator, or significand "
        "and exponent as they are",
    )
    guard: int = Field(
        8,
        ge=-64,
        le=32,
        description="bits that a running sum keeps below the lowest bit of its largest term, or "
        "leaves out of every term where negative",
    )
    low: int = Field(
        -64, ge=-1024, le=1024, description="exponent of the lowest bit of a fixed window"
    )
    bits: int = Field(128, ge=16, le=1024, description="width of a fixed window")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What steps can add.

    Attributes:
        low, high: least and largest ``value``.
        codes: codes are 0 to ``codes - 1``.
        bias: the exponent of a value's lowest bit is its code plus this.
        steps: most steps of a job.
        nan, inf: whether a term can be NaN; whether it can be an infinity (then it can be NaN).
    """

    low: int
    high: int
    codes: int
    bias: int
    steps: int
    nan: bool = False
    inf: bool = False

    @property
    def bits(self) -> int:
        """Two's complement width of a value."""
        return max((~self.low).bit_length() if self.low < 0 else 0, self.high.bit_length()) + 1

    @property
    def code_bits(self) -> int:
        """Width of a code, at least 1."""
        return max(1, (self.codes - 1).bit_length())

    @property
    def growth(self) -> int:
        """Bits by which a sum of all steps is wider than a value."""
        return (self.steps - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class Sums:
    """An accumulator for given terms."""

    accumulator: Accumulator
    terms: Terms

    @property
    def kind(self) -> str:
        return self.accumulator.kind

    @property
    def fp32(self) -> bool:
        """Whether results are codes of FP32."""
        return self.kind == "fp32" or (self.kind == "running" and self.accumulator.result == "fp32")

    @property
    def ahead(self) -> int:
        """Registers that a term passes before it is added."""
        return 1 if self.kind == "fp32" else 0

    @property
    def tail(self) -> int:
        """Registers that a result passes behind the accumulator."""
        if not self.fp32:
            return 0
        return 1 if self.kind == "fp32" else 2

    @property
    def width(self) -> int:
        """Bits of the significand of a running sum, or of a fixed window."""
        if self.kind == "fixed":
            return self.accumulator.bits
        return self.terms.bits + self.terms.growth + DIGIT - 1 + self.accumulator.guard

    @property
    def limbs(self) -> int:
        """Words of 32 bits that a fixed window goes out in."""
        return -(-self.width // 32)

    @property
    def digits(self) -> int:
        """Width of a running sum's exponent."""
        return max(1, ((self.terms.codes - 1) // DIGIT).bit_length())

    @property
    def first_bit(self) -> int:
        """Exponent of bit 0 of a running sum whose exponent field is 0."""
        return self.terms.bias - self.accumulator.guard

    @property
    def window(self) -> tuple[int, int]:
        """First and last code whose terms surely lie in a fixed window."""
        terms, accumulator = self.terms, self.accumulator
        first = accumulator.low - terms.bias
        return first, first + accumulator.bits - terms.bits - terms.growth

    @property
    def exact(self) -> bool:
        """Whether a fixed window holds every term there can be."""
        first, last = self.window
        return self.kind == "fixed" and first <= 0 and last >= self.terms.codes - 1

    def results(self, m: int, n: int) -> tuple[StreamField, ...]:
        """Fields of ``(m, n)`` results."""
        shape = (m, n)
        if self.fp32:
            return (StreamField(name="o", width=32, shape=shape, doc="FP32 codes"),)
        if self.kind == "fixed":
            fields = [
                StreamField(
                    name="o",
                    width=32,
                    shape=(*shape, self.limbs),
                    doc=f"limbs, lowest first, of a two's complement multiple of "
                    f"2^{self.accumulator.low}, sign-extended",
                )
            ]
        else:
            fields = [
                StreamField(name="o", width=self.width, signed=True, shape=shape, doc="s"),
                StreamField(
                    name="exponent",
                    width=self.digits,
                    shape=shape,
                    doc=f"r; the value is s * 2^({DIGIT}*r + {self.first_bit})",
                ),
            ]
        if self.kind == "fixed" and not self.exact:
            fields.append(
                StreamField(name="outside", width=1, shape=shape, doc="1: terms were left out")
            )
        if self.terms.nan or self.terms.inf:
            fields.append(StreamField(name="nan", width=1, shape=shape, doc="1: NaN"))
        if self.terms.inf:
            fields.append(StreamField(name="pinf", width=1, shape=shape, doc="1: +infinity"))
            fields.append(StreamField(name="ninf", width=1, shape=shape, doc="1: -infinity"))
        return tuple(fields)

    def rules(self, at: tuple[str, ...]) -> Iterator[Problem]:
        """Rules that the accumulator breaks, which is the field ``at`` of a specification."""
        terms, accumulator = self.terms, self.accumulator
        if self.kind == "fixed":
            need = terms.bits + terms.growth
            if accumulator.bits < need:
                rule = (
                    f"must be at least {need}: {terms.bits} bits of a step and {terms.growth} for "
                    f"{terms.steps} steps"
                )
                yield Problem((*at, "bits"), rule, accumulator.bits)
            else:
                first, last = self.window
                if last < 0 or first >= terms.codes:
                    least, most = terms.bias, terms.bias + terms.codes - 1
                    rule = (
                        f"no step lies in the window: the lowest bits of steps have the exponents "
                        f"{least} to {most}, and the window takes {accumulator.low} to "
                        f"{last + terms.bias}"
                    )
                    yield Problem((*at, "low"), rule, accumulator.low)
        elif self.kind == "running":
            kept = terms.bits + accumulator.guard
            if accumulator.guard < 0 and kept < DIGIT:
                rule = f"leaves {kept} of the {terms.bits} bits of a step, at least {DIGIT}"
                yield Problem((*at, "guard"), rule, accumulator.guard)
            elif self.width > 63:
                rule = f"makes a significand of {self.width} bits, at most 63"
                yield Problem((*at, "guard"), rule, accumulator.guard)
        if accumulator.result == "fp32" and self.kind == "fixed":
            yield Problem((*at, "result"), "a fixed window gives limbs", accumulator.result)

    def total(
        self,
        values: np.ndarray,
        codes: np.ndarray,
        *,
        nan: np.ndarray | None = None,
        pinf: np.ndarray | None = None,
        ninf: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """The results of one job, by field, ``int64`` of shape ``(M, N, …)``.

        Args:
            values: ``(steps, M, N)`` integers, Python's own where 63 bits do not hold them. Those
                of terms that are no numbers leave their mark in ``o`` and ``exponent``, which
                then mean nothing.
            codes: ``(steps, M, N)``, or what broadcasts to it.
            nan, pinf, ninf: flags of terms; None for never.
        """
        shape = values.shape
        flags = Flags(
            *(
                np.zeros(shape, dtype=bool) if flag is None else np.broadcast_to(flag, shape)
                for flag in (nan, pinf, ninf)
            )
        )
        codes = np.broadcast_to(np.asarray(codes, dtype=np.int64), shape)
        if self.kind == "fp32":
            return {"o": self._fp32(values, codes, flags)}
        found, special = self._others(values, codes, flags.over_steps())
        if not self.fp32:
            return found
        units = found["o"].astype(object) * _powers(
            DIGIT * found["exponent"] + self.first_bit - LEAST, least=self._least
        )
        rounded, over = _rounded(units, -self._least)
        over = over & ~special.any
        negative = units < 0
        flags = Flags(
            special.nan, special.pinf | (over & ~negative), special.ninf | (over & negative)
        )
        return {"o": _codes(rounded, flags)}

    def values(self, fields: Mapping[str, np.ndarray]) -> np.ndarray:
        """Results by field, as :meth:`total` gives them, as ``float64``, rounded once at most."""
        if self.fp32:
            return FP32.decode(fields["o"])
        if self.kind == "fixed":
            limbs = fields["o"].astype(object)
            number = sum(limbs[..., i] << 32 * i for i in range(limbs.shape[-1]))
            whole = 32 * limbs.shape[-1]
            number = np.where(number >> (whole - 1) > 0, number - (1 << whole), number)
            found = _to_float(number, self.accumulator.low)
        else:
            power = DIGIT * fields["exponent"] + self.first_bit
            found = np.ldexp(fields["o"].astype(np.float64), power)
        for name, value in (("pinf", math.inf), ("ninf", -math.inf), ("nan", math.nan)):
            if name in fields:
                found = np.where(fields[name] > 0, value, found)
        return found

    @property
    def _least(self) -> int:
        """The least exponent there is less that of FP32's smallest number, if it is lower."""
        return min(0, self.first_bit - LEAST)

    def _fp32(self, values: np.ndarray, codes: np.ndarray, flags: Flags) -> np.ndarray:
        """FP32 codes, step by step."""
        add = self._add_floats if self._fits_floats else self._add_integers
        number = np.zeros(values.shape[1:])
        nan, pinf, ninf = (np.zeros(values.shape[1:], dtype=bool) for _ in range(3))
        for step in range(len(values)):
            rounded = FP32.decode(add(number, values[step], codes[step]))
            nan, pinf, ninf = (
                nan | flags.nan[step],
                pinf | flags.pinf[step],
                ninf | flags.ninf[step],
            )
            over = np.isinf(rounded) & ~(pinf | ninf)
            pinf, ninf = pinf | (over & (rounded > 0)), ninf | (over & (rounded < 0))
            number = np.where(pinf | ninf | (rounded == 0), 0.0, rounded)
        special = Flags(nan, pinf, ninf).resolved()
        number = np.where(special.pinf, np.inf, np.where(special.ninf, -np.inf, number))
        number = np.where(special.nan, np.nan, number)
        return FP32.encode(number).astype(np.int64)

    @property
    def _fits_floats(self) -> bool:
        """Whether every term is a ``float64``, far from the ends of its exponents."""
        terms = self.terms
        highest = terms.bias + terms.codes + terms.bits
        return terms.bits <= 54 and terms.bias >= -1000 and highest <= 1000

    def _add_floats(self, number: np.ndarray, values: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """FP32 codes of ``number`` and a term, their exact sum rounded once.

        The error of a sum in ``float64`` is itself one (D. E. Knuth's TwoSum). Where it is not 0
        the sum is moved to its odd neighbour on that side, after which rounding to less than 52
        bits is the same as of the exact sum (S. Boldo and G. Melquiond, "Emulation of FMA and
        correctly rounded sums: proved algorithms using rounding to odd", 2008).
        """
        term = np.ldexp(values.astype(np.float64), codes + self.terms.bias)
        total = number + term
        part = total - number
        error = (number - (total - part)) + (term - part)
        even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
        odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
        return FP32.encode(np.where((error != 0) & even, odd, total))

    def _add_integers(
        self, number: np.ndarray, values: np.ndarray, codes: np.ndarray
    ) -> np.ndarray:
        """The same by Python's integers, for any term."""
        least = min(0, self.terms.bias - LEAST)
        powers = _powers(codes + self.terms.bias - LEAST, least=least)
        known = np.frompyfunc(lambda x: int(math.ldexp(x, -LEAST)), 1, 1)(number)
        exact = known * (1 << -least) + values.astype(object) * powers
        rounded, over = _rounded(exact, -least)
        none = np.zeros(over.shape, dtype=bool)
        return _codes(rounded, Flags(none, over & (exact > 0), over & (exact < 0)))

    def _others(
        self, values: np.ndarray, codes: np.ndarray, special: Flags
    ) -> tuple[dict[str, np.ndarray], Flags]:
        """Fields of a running sum or of a fixed window."""
        special = special.resolved()
        found = (
            self._running(values, codes) if self.kind == "running" else self._fixed(values, codes)
        )
        if self.terms.nan or self.terms.inf:
            found["nan"] = special.nan.astype(np.int64)
        if self.terms.inf:
            found["pinf"] = special.pinf.astype(np.int64)
            found["ninf"] = special.ninf.astype(np.int64)
        return found, special

    def _running(self, values: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
        digits, rest = codes // DIGIT, codes % DIGIT
        total = np.zeros(values.shape[1:], dtype=np.int64)
        exponent = digits[0]
        for step in range(len(values)):
            before, exponent = exponent, np.maximum(exponent, digits[step])
            left = rest[step] + self.accumulator.guard - DIGIT * (exponent - digits[step])
            total = _scaled(total, DIGIT * (before - exponent)) + _scaled(values[step], left)
        return {"o": total, "exponent": exponent.copy()}

    def _fixed(self, values: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
        first, last = self.window
        outside = (codes < first) | (codes > last)
        kept = np.where(outside, 0, values).astype(object)
        shift = np.where(outside, 0, codes - first)
        total = (kept * _powers(shift)).sum(axis=0)
        limbs = [(total // (1 << 32 * i)) % (1 << 32) for i in range(self.limbs)]
        found = {"o": np.stack(limbs, axis=-1).astype(np.int64)}
        if not self.exact:
            found["outside"] = (outside & (values != 0)).any(axis=0).astype(np.int64)
        return found


@dataclass(frozen=True)
class Flags:
    """Where terms or results are no numbers, booleans of one shape."""

    nan: np.ndarray
    pinf: np.ndarray
    ninf: np.ndarray

    @property
    def any(self) -> np.ndarray:
        return self.nan | self.pinf | self.ninf

    def over_steps(self) -> Flags:
        """Of a whole job."""
        return Flags(*(np.any(flag, axis=0) for flag in (self.nan, self.pinf, self.ninf)))

    def resolved(self) -> Flags:
        """No more than one of them."""
        nan = self.nan | (self.pinf & self.ninf)
        return Flags(nan, self.pinf & ~nan, self.ninf & ~nan)


LEAST = FP32.min_exponent - FP32.mantissa_bits
"""Exponent of FP32's smallest number: every one is a multiple of ``2^LEAST``."""
INFINITY = FP32.max_code + 1
"""FP32's code of infinity; with the mantissa's highest bit it is the canonical NaN."""


def _to_float(numbers: np.ndarray, power: int) -> np.ndarray:
    """Python's integers times ``2^power`` as ``float64``, rounded once."""

    def one(number: int) -> float:
        extra = max(0, abs(number).bit_length() - 64)
        # A sticky bit keeps the rounding to one.
        kept = number >> extra | (number & ((1 << extra) - 1) != 0)
        return math.ldexp(float(kept), extra + power)

    return np.asarray(np.frompyfunc(one, 1, 1)(numbers), dtype=np.float64)


def _scaled(values: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """``floor(values * 2^powers)`` where that fits into 63 bits."""
    values = np.asarray(values)
    right = np.maximum(-powers, 0)
    if values.dtype == object:
        lowered = np.asarray(np.frompyfunc(lambda x, by: int(x) >> int(by), 2, 1)(values, right))
    else:
        lowered = values >> np.minimum(right, 63)
    return lowered.astype(np.int64) << np.maximum(powers, 0)


def _powers(exponents: np.ndarray, *, least: int = 0) -> np.ndarray:
    """``2^(exponents - least)`` as Python integers."""
    return np.asarray(np.frompyfunc(lambda x: 1 << (int(x) - least), 1, 1)(exponents), dtype=object)


def _rounded(units: np.ndarray, below: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of ``2^(LEAST - below)`` rounded to FP32, in ``2^LEAST``, and where they overflow.

    What overflows keeps its sign, and is otherwise unspecified.
    """

    def one(value: int) -> int:
        magnitude = abs(value)
        drop = max(magnitude.bit_length() - FP32.mantissa_bits - 1, below)
        kept, rest = magnitude >> drop, magnitude & ((1 << drop) - 1)
        half = 1 << drop >> 1
        kept += drop > 0 and (rest > half or (rest == half and kept & 1 == 1))
        kept <<= drop - below
        return kept if value >= 0 else -kept

    found = np.asarray(np.frompyfunc(one, 1, 1)(units), dtype=object)
    top = 1 << (FP32.max_exponent + 1 - LEAST)
    return found, (found >= top) | (found <= -top)


def _codes(numbers: np.ndarray, flags: Flags) -> np.ndarray:
    """FP32 codes of integers of ``2^LEAST`` that FP32 has; flags instead of numbers."""

    def one(value: int) -> int:
        magnitude = abs(value)
        shift = max(magnitude.bit_length() - FP32.mantissa_bits - 1, 0)
        code = (shift << FP32.mantissa_bits) + (magnitude >> shift)
        return code | (value < 0) << 31

    found = np.where(flags.any, 0, numbers)
    result = np.asarray(np.frompyfunc(one, 1, 1)(found), dtype=object).astype(np.int64)
    result = np.where(flags.pinf, INFINITY, result)
    result = np.where(flags.ninf, INFINITY | 1 << 31, result)
    return np.where(flags.nan, INFINITY | 1 << (FP32.mantissa_bits - 1), result)

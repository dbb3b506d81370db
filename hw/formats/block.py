"""Block-scaled formats: elements of a few bits that share a scale along the last axis.

A value is ``element * scale``, with NV formats ``element * scale * tensor_scale``; both products
are exact in ``float64``. Three rules choose the scale of a block from its largest magnitude
``absmax`` (OCP Microscaling Formats 1.0, conversion; arXiv 2510.25602):

- ``floor``: ``2^(floor(log2 absmax) - emax)``, ``emax`` the exponent of the largest element. OCP's
  rule, and the classic one of block floating point. The largest element may be clipped.
- ``ceil``: ``2^ceil(log2(absmax / max))``: nothing is clipped, the step may be twice as coarse.
- ``absmax``: ``absmax / max`` rounded to a scale format with a mantissa; with a tensor scale,
  ``absmax / (max * tensor_scale)``, ``tensor_scale = absmax of the tensor / (scale max * max)``.

Rounding is to nearest, ties to even, then saturating. A scale outside its format takes the nearest
end: elements are then clipped, or round to zero.

A block of zeros has the smallest scale of its format and elements 0 (that is the limit of all
three rules). A block that holds a NaN or an infinity has the scale NaN and elements 0: it decodes
to NaN throughout, as OCP says of a scale that is NaN. OCP leaves the conversion of such values
open; this choice is the same for every element format, of which most have neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from hw.errors import Problem, SpecError
from hw.formats.scalar import (
    E8M0,
    FP4_E2M1,
    FP6_E2M3,
    FP6_E3M2,
    FP8_E4M3,
    FP8_E5M2,
    FP32,
    UE4M3,
    FloatFormat,
    IntegerFormat,
    as_float64,
    exponent_format,
)
from hw.lazy import np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "BFP12",
    "BFP16",
    "BLOCK_FORMATS",
    "MXFP4",
    "MXFP6_E2M3",
    "MXFP6_E3M2",
    "MXFP8_E4M3",
    "MXFP8_E5M2",
    "MXINT4",
    "MXINT6",
    "MXINT8",
    "NVFP4",
    "NVINT4",
    "BlockFormat",
    "Quantized",
    "ScaleRule",
    "bfp",
]

ScaleRule = Literal["floor", "ceil", "absmax"]


class Quantized(NamedTuple):
    """A tensor in a block format."""

    elements: np.ndarray
    """Codes of the element format, ``(..., K)``."""
    scales: np.ndarray
    """Codes of the scale format, ``(..., K / block)``."""
    tensor_scale: np.ndarray | None
    """The FP32 code of the tensor scale, shape ``()``; None where the format has none."""


@dataclass(frozen=True, kw_only=True)
class BlockFormat:
    """Elements in blocks of ``block`` along the last axis, each with a scale; see the module.

    ``SpecError`` if a field breaks its rule.
    """

    name: str
    element: FloatFormat | IntegerFormat
    block: int
    scale: FloatFormat
    """Unsigned, with a NaN; a power of two for ``floor`` and ``ceil``, with a 0 for ``absmax``."""
    rule: ScaleRule
    tensor_scale: bool = False
    """An FP32 factor for the whole tensor; ``absmax`` only."""

    def __post_init__(self) -> None:
        problems = []
        if self.block < 1:
            problems.append(Problem(("block",), "must be at least 1", self.block))
        if self.rule not in ("floor", "ceil", "absmax"):
            problems.append(Problem(("rule",), "must be floor, ceil or absmax", self.rule))
        elif self.rule == "absmax" and not self.scale.subnormals:
            problems.append(Problem(("scale",), "must have a 0 for absmax", self.scale.name))
        elif self.rule != "absmax" and (self.scale.mantissa_bits or self.scale.subnormals):
            rule = f"must be a power of two for {self.rule}"
            problems.append(Problem(("scale",), rule, self.scale.name))
        if self.scale.signed or self.scale.nan_code is None:
            rule = "must be unsigned and have a NaN"
            problems.append(Problem(("scale",), rule, self.scale.name))
        if self.tensor_scale and self.rule != "absmax":
            problems.append(Problem(("tensor_scale",), "must be false unless absmax", True))
        if problems:
            raise SpecError(problems)

    def _blocks(self, array: np.ndarray) -> np.ndarray:
        """``(..., K)`` as ``(..., K / block, block)``. ``ValueError``: no such shape."""
        k = array.shape[-1] if array.ndim else 0
        if k == 0 or k % self.block:
            raise ValueError(
                f"{self.name}: the last axis must be a multiple of the block of {self.block}, "
                f"got {k}"
            )
        return array.reshape(*array.shape[:-1], k // self.block, self.block)

    def _factor(self, tensor_scale: ArrayLike | None) -> float:
        """The tensor scale as a number. ``ValueError``: missing, needless, or not above 0."""
        if (tensor_scale is not None) != self.tensor_scale:
            needs = "needs a" if self.tensor_scale else "has no"
            raise ValueError(f"{self.name}: {needs} tensor scale, got {tensor_scale!r}")
        if tensor_scale is None:
            return 1.0
        factor = float(FP32.decode(tensor_scale))
        if not 0 < factor < math.inf:
            raise ValueError(f"{self.name}: the tensor scale must be above 0, got {factor}")
        return factor

    def _tensor_scale(self, absmax: float) -> np.ndarray:
        """FP32 code that lets ``absmax`` have the largest scale and the largest element.

        At least the smallest normal number, of zeros too, so that hardware can divide by it.
        """
        factor = absmax / (self.scale.max * self.element.max)
        return FP32.encode(max(factor, FP32.min_normal), overflow="saturate")

    def _scales(self, absmax: np.ndarray, factor: float) -> np.ndarray:
        """Scale codes of blocks whose largest magnitudes are ``absmax``, by the rule."""
        if self.rule == "absmax":
            return self.scale.encode(absmax / (self.element.max * factor), overflow="saturate")
        # absmax = m * 2^e and max = m' * 2^e' with m and m' in [0.5, 1): no logarithm to round.
        mantissa, exponent = np.frexp(absmax)
        max_mantissa, max_exponent = math.frexp(self.element.max)
        power = exponent - max_exponent
        if self.rule == "ceil":
            power = power + (mantissa > max_mantissa)
        power = np.clip(power, self.scale.min_exponent, self.scale.max_exponent)
        power = np.where(absmax > 0, power, self.scale.min_exponent)
        return self.scale.encode(np.ldexp(1.0, power))

    def quantize(self, x: ArrayLike, *, tensor_scale: ArrayLike | None = None) -> Quantized:
        """``x`` ``(..., K)`` in this format.

        ``tensor_scale``, an FP32 code, replaces the one that follows from ``x``: a stream has to
        know it before its last value. Blocks with a NaN or an infinity do not count towards it.
        Every rounding decision is that of exact arithmetic if ``x`` is in FP32 or less; for
        power-of-two scales, if it is in ``float64``.

        ``ValueError``: the last axis is no multiple of the block; a tensor scale that is not above
        0, or given to a format that has none.
        """
        blocks = self._blocks(as_float64(x))
        finite = np.isfinite(blocks).all(axis=-1)
        blocks = np.where(finite[..., None], blocks, 0.0)
        absmax = np.abs(blocks).max(axis=-1)
        if self.tensor_scale and tensor_scale is None:
            tensor_scale = self._tensor_scale(float(absmax.max(initial=0.0)))
        factor = self._factor(tensor_scale)
        with np.errstate(over="ignore"):  # what exceeds float64 exceeds the format: it saturates
            scales = self._scales(absmax, factor)
            step = (self.scale.decode(scales) * factor)[..., None]
            ratios = np.divide(blocks, step, out=blocks * 0.0, where=step > 0)
        if isinstance(self.element, FloatFormat):
            elements = self.element.encode(ratios, overflow="saturate")
        else:
            elements = self.element.encode(ratios)
        scales = np.where(finite, scales, self.scale.encode(np.nan))
        code = None if tensor_scale is None else np.asarray(tensor_scale, dtype=FP32.code_dtype)
        return Quantized(elements.reshape(np.shape(x)), scales, code)

    def dequantize(
        self, elements: ArrayLike, scales: ArrayLike, tensor_scale: ArrayLike | None = None
    ) -> np.ndarray:
        """Values of codes, exactly, as ``float64`` ``(..., K)``; takes what ``quantize`` gives.

        ``ValueError``: shapes that do not belong together, codes outside their format, a tensor
        scale that is missing, needless or not above 0.
        """
        blocks = self._blocks(np.asarray(elements))
        if blocks.shape[:-1] != np.shape(scales):
            raise ValueError(
                f"{self.name}: scales must have the shape {blocks.shape[:-1]}, "
                f"got {np.shape(scales)}"
            )
        step = self.scale.decode(scales) * self._factor(tensor_scale)
        return (self.element.decode(blocks) * step[..., None]).reshape(np.shape(elements))


def bfp(
    *, block: int, mantissa_bits: int, exponent_bits: int = 8, rule: ScaleRule = "floor"
) -> BlockFormat:
    """Generic block floating point: signed mantissas below 2 that share an exponent.

    ``block`` 8 to 128, ``mantissa_bits`` 2 to 12 with the sign, ``exponent_bits`` 5 to 8.
    ``SpecError`` otherwise.
    """
    ranges = {
        "block": (block, 8, 128),
        "mantissa_bits": (mantissa_bits, 2, 12),
        "exponent_bits": (exponent_bits, 5, 8),
    }
    problems = [
        Problem((name,), f"must be {low} to {high}", value)
        for name, (value, low, high) in ranges.items()
        if not low <= value <= high
    ]
    if problems:
        raise SpecError(problems)
    return BlockFormat(
        name=f"bfp_b{block}_m{mantissa_bits}_e{exponent_bits}",
        element=_mantissa(mantissa_bits),
        block=block,
        scale=exponent_format(exponent_bits),
        rule=rule,
    )


def _mantissa(bits: int) -> IntegerFormat:
    """Integers with the point behind their highest magnitude bit: below 2, as OCP MXINT8."""
    return IntegerFormat(name=f"int{bits}", bits=bits, fraction_bits=bits - 2)


def _mx(name: str, element: FloatFormat | IntegerFormat) -> BlockFormat:
    return BlockFormat(name=name, element=element, block=32, scale=E8M0, rule="floor")


def _nv(name: str, element: FloatFormat | IntegerFormat) -> BlockFormat:
    return BlockFormat(
        name=name, element=element, block=16, scale=UE4M3, rule="absmax", tensor_scale=True
    )


MXINT8 = _mx("mxint8", _mantissa(8))
MXINT6 = _mx("mxint6", _mantissa(6))
MXINT4 = _mx("mxint4", _mantissa(4))
MXFP8_E4M3 = _mx("mxfp8_e4m3", FP8_E4M3)
MXFP8_E5M2 = _mx("mxfp8_e5m2", FP8_E5M2)
MXFP6_E2M3 = _mx("mxfp6_e2m3", FP6_E2M3)
MXFP6_E3M2 = _mx("mxfp6_e3m2", FP6_E3M2)
MXFP4 = _mx("mxfp4", FP4_E2M1)
NVFP4 = _nv("nvfp4", FP4_E2M1)
NVINT4 = _nv("nvint4", IntegerFormat(name="int4", bits=4, fraction_bits=0))
BFP12 = BlockFormat(name="bfp12", element=_mantissa(4), block=32, scale=E8M0, rule="floor")
"""Keys of arXiv 2403.20137: 4 bits a mantissa, 8 the exponent; blocks of 64 and 128 by ``bfp``."""
BFP16 = BlockFormat(name="bfp16", element=_mantissa(8), block=32, scale=E8M0, rule="floor")
"""Queries of arXiv 2403.20137: 8 bits a mantissa, 8 the exponent."""

BLOCK_FORMATS = {
    each.name: each
    for each in (
        MXINT8,
        MXINT6,
        MXINT4,
        MXFP8_E4M3,
        MXFP8_E5M2,
        MXFP6_E2M3,
        MXFP6_E3M2,
        MXFP4,
        NVFP4,
        NVINT4,
        BFP12,
        BFP16,
    )
}
"""Every named block format by its name."""

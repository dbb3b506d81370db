"""Block-scaled and floating formats, fast: the codes are those of ``hw.formats``, bit for bit.

``hw.formats`` is the reference and works element by element in plain steps. Here the same rounding
is done in few passes over parts that fit a cache: adding ``2^(52 − m)`` times the power of two of a
number to it, in double precision, leaves its significand rounded to ``m`` bits, ties to even, in
the lowest bits of the sum. Quotients are the reference's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.formats import FP32, BlockFormat, FloatFormat
from hw.formats.block import Quantized
from sw_driver.quantize.clipping import absmax, check_finite

_BLOCK = 1 << 15
"""Elements worked on at a time, in double precision."""

_POINT = 52
_EXPONENT = np.uint64(0x7FF << _POINT)
_BIAS = 1023


@dataclass(frozen=True, kw_only=True)
class QuantizedBlocks:
    """A matrix in a block format.

    Attributes:
        codes: of the elements and scales, what ``BlockFormat.quantize`` gives; ``(N, K)`` and
            ``(N, K / block)``.
    """

    form: BlockFormat
    codes: Quantized

    @property
    def bits_each(self) -> float:
        """Memory an element takes, scales included, a tensor scale not."""
        return self.form.element.width + self.form.scale.width / self.form.block

    def dequantized(self) -> np.ndarray:
        """``float32`` ``(N, K)``: the value rounded once, where ``float32`` does not hold it.

        What a tensor scale that was given takes beyond ``float32`` is infinite.
        """
        element, scale = self.form.element, self.form.scale
        elements, scales, tensor_scale = self.codes
        if isinstance(element, FloatFormat):
            table = element.decode(np.arange(1 << element.width)).astype(np.float32)
            values = table[elements]
        else:
            values = elements.astype(np.float32)
            values *= np.float32(2.0**-element.fraction_bits)
        cells = values.reshape(len(values), -1, self.form.block)
        # Element times scale is exact in float32; a tensor scale rounds.
        cells *= scale.decode(np.arange(1 << scale.width)).astype(np.float32)[scales][..., None]
        if tensor_scale is not None:
            with np.errstate(over="ignore"):
                values *= np.float32(FP32.decode(tensor_scale))
        return values


def quantize_blocks(
    x: np.ndarray, form: BlockFormat, *, tensor_scale: np.ndarray | None = None
) -> QuantizedBlocks:
    """A matrix in a block format, along its last axis.

    Args:
        x: ``float16``, ``float32`` or ``float64`` ``(N, K)``, K a multiple of the block.
        tensor_scale: an FP32 code in place of the one that follows from ``x``.

    Raises:
        ValueError: the shape, a tensor scale or a value is wrong, with its place: unlike the
            reference, which makes a NaN of its block, a matrix of a model has none.
    """
    x = np.asarray(x)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"x: must be a matrix with elements, got shape {x.shape}")
    if x.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"x: must be float16, float32 or float64, got {x.dtype}")
    n, k = x.shape
    if k % form.block:
        raise ValueError(
            f"x: must have a multiple of the {form.block} elements of {form.name} in a row, got {k}"
        )
    rows = max(1, _BLOCK // k)
    parts = [slice(start, min(n, start + rows)) for start in range(0, n, rows)]
    largest = np.empty((n, k // form.block))
    for part in parts:
        cells = np.ascontiguousarray(x[part]).reshape(-1, k // form.block, form.block)
        largest[part] = absmax(cells)
        if not np.isfinite(largest[part]).all():
            check_finite("x", x[part], part.start, 0)
    factor, code = _tensor_scale(form, float(largest.max()), tensor_scale)
    scales = _scales(form, largest, factor)
    step = form.scale.decode(np.arange(1 << form.scale.width))[scales] * factor
    elements = np.empty((n, k), dtype=form.element.code_dtype)
    work = np.empty((rows, k))
    for part in parts:
        count = part.stop - part.start
        # The part's own rows, whole: buffers are reused.
        ratios = work[:count]
        np.copyto(ratios, x[part])
        cells = ratios.reshape(count, -1, form.block)
        by = step[part][..., None]
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            np.divide(cells, by, out=cells)
        if form.rule == "absmax" and not by.all():
            # A scale of 0 has elements of 0, with their signs, as the reference has it.
            np.copyto(cells, x[part].reshape(cells.shape) * 0.0, where=by == 0)
        if isinstance(form.element, FloatFormat):
            _encode(ratios, form.element, elements[part])
        else:
            top = form.element.max_code
            ratios *= 2.0**form.element.fraction_bits
            np.rint(ratios, out=ratios)
            np.clip(ratios, -top, top, out=ratios)
            elements[part] = ratios
    return QuantizedBlocks(form=form, codes=Quantized(elements, scales, code))


def _tensor_scale(
    form: BlockFormat, largest: float, given: np.ndarray | None
) -> tuple[float, np.ndarray | None]:
    """The tensor scale as a number, 1 without one, and its code."""
    if (given is not None) and not form.tensor_scale:
        raise ValueError(f"tensor_scale: must not be given for {form.name}, which has none")
    if not form.tensor_scale:
        return 1.0, None
    if given is None:
        wanted = largest / (form.scale.max * form.element.max)
        given = FP32.encode(max(wanted, FP32.min_normal), overflow="saturate")
    factor = float(FP32.decode(given))
    if not 0 < factor < np.inf:
        raise ValueError(f"tensor_scale: must be above 0, got {factor}")
    return factor, np.asarray(given, dtype=FP32.code_dtype)


def _scales(form: BlockFormat, largest: np.ndarray, factor: float) -> np.ndarray:
    """Codes of the scales of blocks with these largest magnitudes, by the format's rule."""
    if form.rule == "absmax":
        wanted = largest / (form.element.max * factor)
        codes = np.empty(wanted.shape, dtype=form.scale.code_dtype)
        for start in range(0, len(wanted), 64):
            _encode(wanted[start : start + 64], form.scale, codes[start : start + 64])
        return codes
    mantissa, exponent = np.frexp(largest)
    top, at = np.frexp(form.element.max)
    power = exponent - at
    if form.rule == "ceil":
        power += mantissa > top
    np.clip(power, form.scale.min_exponent, form.scale.max_exponent, out=power)
    power[largest == 0] = form.scale.min_exponent
    return (power + form.scale.bias).astype(form.scale.code_dtype)


def encode(x: np.ndarray, form: FloatFormat) -> np.ndarray:
    """Codes of finite numbers in a floating format with subnormals, saturating.

    What ``form.encode(x, overflow="saturate")`` gives, bit for bit.

    Args:
        x: floats of any shape, up to ``float64``.

    Raises:
        ValueError: a value is not finite, or below 0 in a format without a sign; or the format has
            no subnormal numbers.
    """
    if not form.subnormals:
        raise ValueError(f"form: must have subnormal numbers, got {form.name}")
    flat = np.ascontiguousarray(x).reshape(1, -1)
    codes = np.empty(flat.shape, dtype=form.code_dtype)
    for start in range(0, flat.shape[1], _BLOCK):
        part = flat[:, start : start + _BLOCK].astype(np.float64)
        if not np.isfinite(part).all():
            check_finite("x", part, 0, start)
        if not form.signed and part.min() < 0:
            raise ValueError(f"x: must not be below 0 for {form.name}, got {part.min()}")
        _encode(part, form, codes[:, start : start + _BLOCK])
    return codes.reshape(np.shape(x))


def _encode(x: np.ndarray, form: FloatFormat, codes: np.ndarray) -> None:
    """Rounds ``float64`` numbers that are no NaN into ``codes``."""
    m = form.mantissa_bits
    size = np.abs(x)
    # The largest value is one of the format: what is clipped to it rounds to it.
    np.clip(size, 0.0, form.max, out=size)
    exponent = size.view(np.uint64) & _EXPONENT
    floor = (form.min_exponent + _BIAS) << _POINT
    np.maximum(exponent, np.uint64(floor), out=exponent)
    shifted = exponent + np.uint64((_POINT - m) << _POINT)
    size += shifted.view(np.float64)
    # The rounded significand; one of the next power of two carries into the exponent.
    significand = size.view(np.uint64)
    significand -= shifted
    exponent >>= np.uint64(_POINT - m)
    significand += exponent
    significand -= np.uint64((form.min_exponent + _BIAS) << m)
    codes[...] = significand
    if form.signed:
        codes |= np.signbit(x).astype(codes.dtype) << codes.dtype.type(form.width - 1)

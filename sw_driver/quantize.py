"""Quantizers to what the cores take: weights in groups along K, activations per token.

All are round to nearest, ties to even, with the clip forced after rounding. Scales are stored as
float16 by default, and the codes are those of the stored scale, so that nothing is lost twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Scheme = Literal["asymmetric", "symmetric", "bipolar", "ternary"]

_BLOCK = 1 << 18
"""Elements worked on at a time, so that every pass finds them in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class QuantizedWeights:
    """Weights ``(N, K)`` as integers; the weight is ``scale · (codes − zero)``.

    Attributes:
        scheme: ``asymmetric`` codes 0 to ``2^B − 1`` with an integer zero point, ``symmetric``
            ±(``2^(B−1) − 1``), ``bipolar`` odd integers up to ±(``2^B − 1``), ``ternary`` −1, 0, 1.
        bits: width of a code.
        group: elements of K that share a scale; the last group of a row may be shorter.
        codes: ``int8`` or ``int16`` ``(N, K)``.
        scale: ``(N, groups)``.
        zero: ``int16`` ``(N, groups)`` for ``asymmetric``, else None.
    """

    scheme: Scheme
    bits: int
    group: int
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None = None

    @property
    def groups(self) -> int:
        return self.scale.shape[1]

    def columns(self, index: int) -> slice:
        """The columns of a group."""
        return slice(index * self.group, min((index + 1) * self.group, self.codes.shape[1]))

    def dequantized(self) -> np.ndarray:
        """``float32`` ``(N, K)``."""
        width = self.codes.shape[1]
        values = self.codes.astype(np.float32)
        if self.zero is not None:
            values -= np.repeat(self.zero.astype(np.float32), self.group, axis=1)[:, :width]
        values *= np.repeat(self.scale.astype(np.float32), self.group, axis=1)[:, :width]
        return values


@dataclass(frozen=True, kw_only=True)
class QuantizedActivations:
    """Activations ``(M, K)`` as integers, one scale a row; the value is ``scale · codes``."""

    codes: np.ndarray
    scale: np.ndarray


def quantize_asymmetric(
    w: np.ndarray, bits: int, group: int, *, scale_dtype: type = np.float16
) -> QuantizedWeights:
    """Codes 0 to ``2^B − 1`` that span every group's minimum to maximum, zero included.

    Raises:
        ValueError: the shape, a width, the group or a value is wrong.
    """
    top = 2**bits - 1

    def block(x: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> None:
        low = np.minimum(x.min(axis=2), 0)
        high = np.maximum(x.max(axis=2), 0)
        scale[...] = _stored((high - low) / np.float32(top), scale_dtype)
        step = scale.astype(np.float32)
        zero[...] = np.clip(np.rint(-low / step), 0, top)
        x /= step[..., None]
        np.rint(x, out=x)
        x += zero[..., None]
        np.clip(x, 0, top, out=x)
        codes[...] = x

    return _quantize("asymmetric", w, bits, group, scale_dtype, block)


def quantize_symmetric(
    w: np.ndarray, bits: int, group: int, *, scale_dtype: type = np.float16
) -> QuantizedWeights:
    """Codes up to ±(``2^(B−1) − 1``); the most negative two's complement code is not used.

    Raises:
        ValueError: as :func:`quantize_asymmetric`; one bit has no symmetric code but 0.
    """
    if bits == 1:
        raise ValueError("bits: must be at least 2 for symmetric codes, got 1")
    top = 2 ** (bits - 1) - 1

    def block(x: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> None:
        scale[...] = _stored(_absmax(x) / np.float32(top), scale_dtype)
        x /= scale.astype(np.float32)[..., None]
        np.rint(x, out=x)
        # Where the stored scale is rounded down far enough the extreme is top + 1 before this
        # (arXiv 2510.25602 has it at 16.8 % of extremes in bfloat16).
        np.clip(x, -top, top, out=x)
        codes[...] = x

    return _quantize("symmetric", w, bits, group, scale_dtype, block)


def quantize_bipolar(
    w: np.ndarray, bits: int, group: int, *, scale_dtype: type = np.float16
) -> QuantizedWeights:
    """Odd codes up to ±(``2^B − 1``): no zero, all levels used (arXiv 2409.17870).

    The scale fits the largest magnitude; of one bit it is the mean magnitude, which has the least
    squared error (XNOR-Net, arXiv 1603.05279).

    Raises:
        ValueError: as :func:`quantize_asymmetric`.
    """
    top = 2**bits - 1

    def block(x: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> None:
        size = np.abs(x).mean(axis=2) if bits == 1 else _absmax(x)
        scale[...] = _stored(size / np.float32(top), scale_dtype)
        # The nearest odd integer to v is 2·floor(v / 2) + 1.
        x /= 2 * scale.astype(np.float32)[..., None]
        np.floor(x, out=x)
        x *= 2
        x += 1
        np.clip(x, -top, top, out=x)
        codes[...] = x

    return _quantize("bipolar", w, bits, group, scale_dtype, block)


def quantize_ternary(
    w: np.ndarray, bits: int, group: int, *, scale_dtype: type = np.float16
) -> QuantizedWeights:
    """−1, 0 and 1 by the mean magnitude of each group (absmean, BitNet b1.58, arXiv 2402.17764).

    Args:
        bits: 2, the width of a ternary code.

    Raises:
        ValueError: as :func:`quantize_asymmetric`.
    """
    if bits != 2:
        raise ValueError(f"bits: must be 2 for ternary codes, got {bits}")

    def block(x: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> None:
        scale[...] = _stored(np.abs(x).mean(axis=2), scale_dtype)
        x /= scale.astype(np.float32)[..., None]
        np.rint(x, out=x)
        np.clip(x, -1, 1, out=x)
        codes[...] = x

    return _quantize("ternary", w, bits, group, scale_dtype, block)


SCHEMES: dict[Scheme, Callable[..., QuantizedWeights]] = {
    "asymmetric": quantize_asymmetric,
    "symmetric": quantize_symmetric,
    "bipolar": quantize_bipolar,
    "ternary": quantize_ternary,
}


def quantize_activations(
    x: np.ndarray, bits: int = 8, *, bipolar: bool = False
) -> QuantizedActivations:
    """Symmetric per token: ``absmax / (2^(b−1) − 1)`` is the scale of every row of ``(M, K)``.

    Bipolar codes are odd integers, their scale ``absmax / (2^b − 1)`` (arXiv 2409.17870).

    Raises:
        ValueError: the shape or a value is wrong.
    """
    x = _checked("x", x)
    least = 1 if bipolar else 2
    if not least <= bits <= 16:
        raise ValueError(f"bits: must lie in [{least}, 16], got {bits}")
    top = 2**bits - 1 if bipolar else 2 ** (bits - 1) - 1
    codes = np.empty(x.shape, dtype=np.int32 if bipolar else np.int16)
    scale = np.empty(len(x), dtype=np.float32)
    rows = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        values = x[part].astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("x: must be finite")
        step = _absmax(values[:, None])[:, 0] / np.float32(top)
        step[step == 0] = 1
        scale[part] = step
        values /= step[:, None]
        if bipolar:
            values = 2 * np.floor(values / 2) + 1
        else:
            np.rint(values, out=values)
        np.clip(values, -top, top, out=values)
        codes[part] = values
    return QuantizedActivations(codes=codes, scale=scale)


def reinterpret(codes: np.ndarray, zero: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """``q' = 2q − (2^B − 1)`` and ``z' = 2z + 1 − 2^B``: ``s·(q − z) = s/2·(q' − z')``.

    The odd integers are what ±1 planes hold (LUT Tensor Core, arXiv 2408.06003, section 3).
    """
    codes, zero = np.asarray(codes, dtype=np.int32), np.asarray(zero, dtype=np.int32)
    return 2 * codes - (2**bits - 1), 2 * zero + 1 - 2**bits


def _quantize(
    scheme: Scheme,
    w: np.ndarray,
    bits: int,
    group: int,
    scale_dtype: type,
    block: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None],
) -> QuantizedWeights:
    """Runs ``block`` over rows, ``(rows, groups, group)`` at a time, the last short group apart."""
    w = _checked("w", w)
    if not 1 <= bits <= 8:
        raise ValueError(f"bits: must lie in [1, 8], got {bits}")
    if group < 1:
        raise ValueError(f"group: must be positive, got {group}")
    n, k = w.shape
    group = min(group, k)
    whole, rest = divmod(k, group)
    wide = (scheme == "asymmetric" and bits == 8) or (scheme == "bipolar" and bits == 8)
    codes = np.empty((n, k), dtype=np.int16 if wide else np.int8)
    scale = np.empty((n, whole + (rest > 0)), dtype=scale_dtype)
    zero = np.zeros((n, whole + (rest > 0)), dtype=np.int16)
    rows = max(1, _BLOCK // k)
    for start in range(0, n, rows):
        part = slice(start, min(n, start + rows))
        count = part.stop - start
        x = w[part].astype(np.float32, order="C")
        if not np.isfinite(x).all():
            raise ValueError("w: must be finite")
        body = x[:, : whole * group]
        spans = [(body.reshape(count, whole, group), 0, whole)]
        if rest:
            spans.append((x[:, whole * group :].reshape(count, 1, rest), whole, whole + 1))
        for values, first, last in spans:
            columns = slice(first * group, first * group + values.shape[1] * values.shape[2])
            made = np.empty(values.shape, dtype=codes.dtype)
            block(values, made, scale[part, first:last], zero[part, first:last])
            codes[part, columns] = made.reshape(count, -1)
    return QuantizedWeights(
        scheme=scheme,
        bits=bits,
        group=group,
        codes=codes,
        scale=scale,
        zero=zero if scheme == "asymmetric" else None,
    )


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name}: must be a matrix with elements, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name}: must hold floating-point numbers, got {array.dtype}")
    return array


def _absmax(x: np.ndarray) -> np.ndarray:
    return np.maximum(x.max(axis=2), -x.min(axis=2))


def _stored(scale: np.ndarray, dtype: type) -> np.ndarray:
    """Scales as they are stored: never 0, never beyond the type's normal range."""
    limits = np.finfo(dtype)
    scale = np.where(scale == 0, np.float32(1), scale)
    return np.clip(scale, np.float32(limits.tiny), np.float32(limits.max)).astype(dtype)

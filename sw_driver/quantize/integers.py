"""Integer quantizers: weights per tensor, channel or group along K, activations per token.

All are round to nearest, ties to even, with the clip forced after rounding. Scales are stored as
float16 by default, and the codes are those of the stored scale, so that nothing is lost twice.

What a scale spans is chosen by ``clip``:

- ``absmax``: everything; nothing is clipped. Of ternary codes and of one bit it is the mean
  magnitude instead.
- ``mse``: a stated search for the least squared error of each group. Scales of
  ``clipping.SHARES`` of that of ``absmax`` are tried; each gives codes, and codes ``q`` have a best
  scale ``Σ x·q / Σ q²``, with which the error is ``Σ x² − (Σ x·q)² / Σ q²``. From the best of them
  ``clipping.ROUNDS`` rounds of codes and best scale follow, none worse than the one before.
- ``exact``: the least squared error that any scale has (:func:`sw_driver.quantize.clipping.best`).
  Slow from 5 bits on, and refused above ``clipping.MAX_EXACT_BITS``.

Zero points stay what ``absmax`` has made them in ``mse``, all are tried in ``exact``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sw_driver.quantize.clipping import (
    MAX_EXACT_BITS,
    Grid,
    Scheme,
    absmax,
    best,
    check_finite,
    extremes,
    search,
)

Clip = Literal["absmax", "mse", "exact"]
Group = int | Literal["channel", "tensor"]

_BLOCK = 1 << 17
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
    w: np.ndarray,
    bits: int,
    group: Group,
    *,
    scale_dtype: type = np.float16,
    clip: Clip = "absmax",
) -> QuantizedWeights:
    """Codes 0 to ``2^B − 1`` that span every group's minimum to maximum, zero included.

    Args:
        w: floats ``(N, K)``. bits: 1 to 8.
        group: elements of K that share a scale; ``channel`` for all of a row, ``tensor`` for all.
        clip: see the module.

    Raises:
        ValueError: the shape, a width, the group or a value is wrong.
    """
    return _quantize("asymmetric", w, bits, group, scale_dtype, clip)


def quantize_symmetric(
    w: np.ndarray,
    bits: int,
    group: Group,
    *,
    scale_dtype: type = np.float16,
    clip: Clip = "absmax",
) -> QuantizedWeights:
    """Codes up to ±(``2^(B−1) − 1``); the most negative two's complement code is not used.

    Raises:
        ValueError: as :func:`quantize_asymmetric`; one bit has no symmetric code but 0.
    """
    if bits == 1:
        raise ValueError("bits: must be at least 2 for symmetric codes, got 1")
    return _quantize("symmetric", w, bits, group, scale_dtype, clip)


def quantize_bipolar(
    w: np.ndarray,
    bits: int,
    group: Group,
    *,
    scale_dtype: type = np.float16,
    clip: Clip = "absmax",
) -> QuantizedWeights:
    """Odd codes up to ±(``2^B − 1``): no zero, all levels used (arXiv 2409.17870).

    The scale fits the largest magnitude; of one bit it is the mean magnitude, which has the least
    squared error (XNOR-Net, arXiv 1603.05279).

    Raises:
        ValueError: as :func:`quantize_asymmetric`.
    """
    return _quantize("bipolar", w, bits, group, scale_dtype, clip)


def quantize_ternary(
    w: np.ndarray,
    bits: int,
    group: Group,
    *,
    scale_dtype: type = np.float16,
    clip: Clip = "absmax",
) -> QuantizedWeights:
    """−1, 0 and 1 by the mean magnitude of each group (absmean, BitNet b1.58, arXiv 2402.17764).

    Args:
        bits: 2, the width of a ternary code.

    Raises:
        ValueError: as :func:`quantize_asymmetric`.
    """
    if bits != 2:
        raise ValueError(f"bits: must be 2 for ternary codes, got {bits}")
    return _quantize("ternary", w, bits, group, scale_dtype, clip)


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
        largest = absmax(values[:, None])[:, 0]
        if not np.isfinite(largest).all():
            check_finite("x", values, start, 0)
        step = largest / np.float32(top)
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
    group: Group,
    scale_dtype: type,
    clip: Clip,
) -> QuantizedWeights:
    """Scales of all groups, then codes, over as many rows at a time as a cache holds."""
    w = _checked("w", w)
    if not 1 <= bits <= 8:
        raise ValueError(f"bits: must lie in [1, 8], got {bits}")
    if clip not in ("absmax", "mse", "exact"):
        raise ValueError(f"clip: must be absmax, mse or exact, got {clip!r}")
    if clip == "exact" and bits > MAX_EXACT_BITS:
        raise ValueError(f"clip: exact must have at most {MAX_EXACT_BITS} bits, got {bits}")
    n, k = w.shape
    whole_tensor = group == "tensor"
    if isinstance(group, str) and group not in ("channel", "tensor"):
        raise ValueError(f"group: must be a number, channel or tensor, got {group!r}")
    size = k if isinstance(group, str) else min(group, k)
    if size < 1:
        raise ValueError(f"group: must be positive, got {group}")
    count = -(-k // size)
    wide = (scheme == "asymmetric" and bits == 8) or (scheme == "bipolar" and bits == 8)
    codes = np.empty((n, k), dtype=np.int16 if wide else np.int8)
    scale = np.empty((n, count), dtype=scale_dtype)
    zero = np.zeros((n, count), dtype=np.int16)
    grid = Grid(scheme=scheme, bits=bits)
    if whole_tensor:
        scale[...], zero[...] = _tensor_fit(grid, w, scale_dtype, clip)
    rows = max(1, _BLOCK // k)
    for start in range(0, n, rows):
        part = slice(start, min(n, start + rows))
        x = w[part].astype(np.float32, order="C")
        for columns, first, last in _spans(k, size):
            values = x[:, columns].reshape(len(x), last - first, -1)
            at = part, slice(first, last)
            if not whole_tensor:
                found, zeros = _group_fit(grid, values, start, columns.start, scale_dtype, clip)
                scale[at], zero[at] = found, zeros
            grid.encode(values, scale[at].astype(np.float32), zero[at])
            codes[part, columns] = values.reshape(len(x), -1)
    return QuantizedWeights(
        scheme=scheme,
        bits=bits,
        group=size,
        codes=codes,
        scale=scale,
        zero=zero if scheme == "asymmetric" else None,
    )


def _spans(k: int, group: int) -> list[tuple[slice, int, int]]:
    """Columns of all whole groups, and of the last short one: the columns, and which groups."""
    whole, rest = divmod(k, group)
    spans = [(slice(0, whole * group), 0, whole)]
    if rest:
        spans.append((slice(whole * group, k), whole, whole + 1))
    return spans


def _group_fit(
    grid: Grid, x: np.ndarray, row: int, column: int, dtype: type, clip: Clip
) -> tuple[np.ndarray, np.ndarray]:
    """Stored scale and zero point ``(rows, groups)`` of values ``(rows, groups, group)``."""
    if grid.by_mean:
        with np.errstate(over="ignore", invalid="ignore"):
            size = np.abs(x).mean(axis=2)
            if not np.isfinite(size).all():
                check_finite("w", x.reshape(len(x), -1), row, column)
                size = np.abs(x).mean(axis=2, dtype=np.float64).astype(np.float32)
        low, high = -size, size
    else:
        low, high = extremes(x)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            check_finite("w", x.reshape(len(x), -1), row, column)
    scale, zero = grid.fit(low, high, dtype)
    if clip == "absmax":
        return scale, zero
    if clip == "exact":
        return best(grid, x, scale, zero, dtype)
    return search(grid, x, scale, zero, dtype)


def _tensor_fit(
    grid: Grid, w: np.ndarray, dtype: type, clip: Clip
) -> tuple[np.ndarray, np.ndarray]:
    """The one scale and zero point of a tensor, ``(1, 1)``."""
    if clip == "exact":
        x = w.astype(np.float32).reshape(1, 1, -1)
        check_finite("w", w.astype(np.float32), 0, 0)
        return _group_fit(grid, x, 0, 0, dtype, clip)
    rows = max(1, _BLOCK // w.shape[1])
    parts = [slice(start, start + rows) for start in range(0, len(w), rows)]
    low = high = np.zeros((1, 1), dtype=np.float32)
    total = 0.0
    for part in parts:
        x = w[part].astype(np.float32, order="C").reshape(1, 1, -1)
        bottom, top = x.min(axis=2), x.max(axis=2)
        if not (np.isfinite(bottom).all() and np.isfinite(top).all()):
            check_finite("w", x.reshape(-1, w.shape[1]), part.start, 0)
        low, high = np.minimum(low, bottom), np.maximum(high, top)
        if grid.by_mean:
            total += float(np.abs(x).sum(dtype=np.float64))
    if grid.by_mean:
        high = np.full((1, 1), total / w.size, dtype=np.float32)
        low = -high
    scale, zero = grid.fit(low, high, dtype)
    if clip == "absmax":
        return scale, zero

    def blocks() -> Iterator[np.ndarray]:
        for part in parts:
            yield w[part].astype(np.float32, order="C").reshape(1, 1, -1)

    return search(grid, blocks, scale, zero, dtype)


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name}: must be a matrix with elements, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name}: must hold floating-point numbers, got {array.dtype}")
    return array

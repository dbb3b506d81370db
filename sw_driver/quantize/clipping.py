"""Which scale: the levels of integer codes, and the scale with the least squared error.

A weight ``x`` becomes ``scale · (q − zero)``. Whatever the codes are, the best scale for them is
``Σ x·c / Σ c²`` with ``c = q − zero``, and leaves the error ``Σ x² − (Σ x·c)² / Σ c²``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Scheme = Literal["asymmetric", "symmetric", "bipolar", "ternary"]

SHARES = (1.0, 0.8, 0.6, 0.4, 0.25)
"""Shares of the scale that spans everything, of which :func:`search` starts from the best."""

WIDE_SHARES = (1.0, 0.9, 0.8)
"""The same from 6 bits on, where little is worth clipping."""

MEAN_SHARES = (1.0, 1.5, 2.5, 4.0)
"""The same where the scale is a mean magnitude, which is mostly too small."""

ROUNDS = 1
"""Rounds of codes and best scale that follow."""

MAX_EXACT_BITS = 6
"""Widths that :func:`best` takes: its work grows with ``2^B``, of zero points with ``4^B``."""

_EXACT_BLOCK = 1 << 20
"""Breakpoints that :func:`best` sorts at a time."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The levels of a scheme at a width."""

    scheme: Scheme
    bits: int

    @property
    def top(self) -> int:
        """The largest code."""
        if self.scheme == "ternary":
            return 1
        return 2 ** (self.bits - 1) - 1 if self.scheme == "symmetric" else 2**self.bits - 1

    @property
    def by_mean(self) -> bool:
        """Whether the scale is the mean magnitude, not what the largest needs."""
        return self.scheme == "ternary" or (self.scheme == "bipolar" and self.bits == 1)

    def fit(self, low: np.ndarray, high: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        """The scale, as it is stored, and the zero point that span ``low`` to ``high``."""
        if self.scheme != "asymmetric":
            size = np.maximum(high, -low)
            return stored(size / np.float32(self.top), dtype), np.zeros(size.shape, dtype=np.int16)
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        with np.errstate(over="ignore"):
            width = high - low
        # Only extremes of both signs near the end of float32 are further apart than it reaches.
        width = np.minimum(width, np.finfo(np.float32).max)
        scale = stored(width / np.float32(self.top), dtype)
        with np.errstate(over="ignore"):
            zero = np.clip(np.rint(-low / scale.astype(np.float32)), 0, self.top)
        return scale, zero.astype(np.int16)

    def encode(self, x: np.ndarray, step: np.ndarray, zero: np.ndarray) -> None:
        """Values ``(rows, groups, group)`` to codes, in place; step, zero ``(rows, groups)``."""
        self.levels(x, step, zero)
        if self.scheme == "asymmetric":
            x += zero.astype(np.float32)[..., None]

    def levels(self, x: np.ndarray, step: np.ndarray, zero: np.ndarray) -> None:
        """Values to ``codes − zero``, in place."""
        with np.errstate(over="ignore"):
            if self.scheme == "bipolar":
                # The nearest odd integer to v is 2·floor(v / 2) + 1.
                x /= step[..., None]
                x *= 0.5
                np.floor(x, out=x)
                x *= 2
                x += 1
            else:
                x /= step[..., None]
                np.rint(x, out=x)
        # Where the stored scale is rounded down far enough the extreme is top + 1 before this
        # (arXiv 2510.25602 has it at 16.8 % of extremes in bfloat16).
        if self.scheme == "asymmetric":
            point = zero.astype(np.float32)[..., None]
            x += point
            np.clip(x, 0, self.top, out=x)
            x -= point
        else:
            np.clip(x, -self.top, self.top, out=x)


def search(
    grid: Grid,
    x: np.ndarray | Callable[[], Iterable[np.ndarray]],
    scale: np.ndarray,
    zero: np.ndarray,
    dtype: type,
) -> tuple[np.ndarray, np.ndarray]:
    """A stored scale of little squared error for every group; the zero points stay.

    Args:
        x: values ``(rows, groups, group)``, or what gives them piece by piece (one group for all).
        scale: where the search begins, the stored scale that spans everything. zero: beside it.

    Returns:
        A scale no worse than ``scale``, but for its rounding to ``dtype``.
    """

    def blocks() -> Iterable[np.ndarray]:
        return x() if callable(x) else (x,)

    work: dict[int, np.ndarray] = {}

    def gain(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(Σ x·c)² / Σ c²`` and the best scale of the codes that ``step`` gives."""
        # In double: the error is the small difference of large sums.
        along = np.zeros(step.shape)
        power = np.zeros(step.shape)
        for block in blocks():
            codes = work.setdefault(block.size, np.empty_like(block))
            np.copyto(codes, block)
            grid.levels(codes, step, zero)
            along += np.einsum("ijk,ijk->ij", block, codes)
            power += np.einsum("ijk,ijk->ij", codes, codes)
        some = (power > 0) & (along > 0)
        refit = np.divide(along, power, out=step.astype(np.float64), where=some)
        # A best scale that no float32 is says that these codes are none to go on with.
        refit = np.clip(refit, np.finfo(np.float32).tiny, np.finfo(np.float32).max)
        found = np.divide(along * along, power, out=np.zeros(step.shape), where=some)
        return found, refit.astype(np.float32)

    first = scale.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        most, refit = gain(first)
        shares = WIDE_SHARES if grid.bits >= 6 else SHARES
        for share in (MEAN_SHARES if grid.by_mean else shares)[1:]:
            better(most, refit, *gain(first * np.float32(share)))
        for _ in range(ROUNDS):
            better(most, refit, *gain(refit))
    found = stored(refit, dtype)
    return np.where(most > 0, found, scale), zero


def better(most: np.ndarray, scale: np.ndarray, other: np.ndarray, other_scale: np.ndarray) -> None:
    """Keeps in place the larger gains, and the scales that have them."""
    ahead = other > most
    np.copyto(most, other, where=ahead)
    np.copyto(scale, other_scale, where=ahead)


def best(
    grid: Grid, x: np.ndarray, scale: np.ndarray, zero: np.ndarray, dtype: type
) -> tuple[np.ndarray, np.ndarray]:
    """The scale, and the zero point, with the least squared error of every group, exactly.

    As the scale falls from infinity, one element after another moves to its next level, at
    ``|x| / (j + 1/2)`` from level ``j`` (odd levels: ``|x| / 2j``). Between two such breakpoints
    the codes stay, so that the best scale of some codes on the way is the best of all: the codes
    of the optimum are those nearest at its scale. One sort by breakpoints and two running sums
    visit them all. What is exact is the scale in double precision; it is stored as ``dtype`` then.

    Args:
        x: ``(rows, groups, group)``. scale, zero: what a group of zeros keeps.
    """
    rows, groups, size = x.shape
    flat = x.reshape(-1, size).astype(np.float64)
    found = scale.reshape(-1).astype(np.float64)
    zeros = zero.reshape(-1).copy()
    most = np.zeros(len(flat))
    tries = range(grid.top + 1) if grid.scheme == "asymmetric" else (0,)
    step = max(1, _EXACT_BLOCK // (size * grid.top))
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        for point in tries:
            high = grid.top - point if grid.scheme == "asymmetric" else grid.top
            low = point if grid.scheme == "asymmetric" else grid.top
            gains, scales = _sweep(flat[part], low, high, odd=grid.scheme == "bipolar")
            ahead = gains > most[part]
            most[part] = np.where(ahead, gains, most[part])
            found[part] = np.where(ahead, scales, found[part])
            zeros[part] = np.where(ahead, point, zeros[part])
    refit = stored(found.astype(np.float32), dtype).reshape(rows, groups)
    return np.where(most.reshape(rows, groups) > 0, refit, scale), zeros.reshape(rows, groups)


def _sweep(x: np.ndarray, low: int, high: int, *, odd: bool) -> tuple[np.ndarray, np.ndarray]:
    """Largest ``(Σ x·c)² / Σ c²`` over all scales, and its scale, of rows ``(groups, group)``.

    Levels are −low to high; if ``odd``, odd ones only.
    """
    size = np.abs(x)
    reach = np.where(x < 0, low, high)[..., None]
    if odd:
        level = np.arange(1, max(low, high), 2)
        point, along, power = 1.0 / (level + 1), 2.0, 4.0 * (level + 1)
        first_along, first_power = size.sum(axis=1), np.full(len(x), x.shape[1], dtype=np.float64)
    else:
        level = np.arange(max(low, high))
        point, along, power = 1 / (level + 0.5), 1.0, 2.0 * level + 1
        first_along, first_power = np.zeros(len(x)), np.zeros(len(x))
    moves = (level < reach).reshape(len(x), -1)
    points = np.where(moves, (size[..., None] * point).reshape(len(x), -1), -1.0)
    order = np.argsort(-points, axis=1, kind="stable")
    gained = np.broadcast_to(size[..., None] * along, (*size.shape, len(level)))
    spent = np.broadcast_to(power, (*size.shape, len(level)))

    def running(values: np.ndarray, first: np.ndarray) -> np.ndarray:
        values = np.where(moves, values.reshape(len(x), -1), 0.0)
        sums = np.cumsum(np.take_along_axis(values, order, axis=1), axis=1)
        return np.concatenate([first[:, None], first[:, None] + sums], axis=1)

    a, p = running(gained, first_along), running(spent, first_power)
    gains = np.divide(a * a, p, out=np.zeros_like(a), where=p > 0)
    at = gains.argmax(axis=1)[:, None]
    a, p = np.take_along_axis(a, at, axis=1)[:, 0], np.take_along_axis(p, at, axis=1)[:, 0]
    scale = np.divide(a, p, out=np.zeros_like(a), where=p > 0)
    return np.take_along_axis(gains, at, axis=1)[:, 0], scale


def extremes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum over the last axis of a contiguous ``(rows, groups, group)``."""
    return _fold(np.minimum, x), _fold(np.maximum, x)


def absmax(x: np.ndarray) -> np.ndarray:
    """Largest magnitude over the last axis; NaN where there is one."""
    low, high = extremes(x)
    return np.maximum(high, -low)


def _fold(function: np.ufunc, x: np.ndarray) -> np.ndarray:
    """A reduction of short rows by halving: one long loop a step, not one short loop a row."""
    size = x.shape[2]
    if size > 64 or size & (size - 1) or not x.flags.c_contiguous:
        reduced: np.ndarray = function.reduce(x, axis=2)
        return reduced
    flat = x.reshape(-1)
    while size > 1:
        flat = function(flat[0::2], flat[1::2])
        size //= 2
    return flat.reshape(x.shape[:2])


def stored(scale: np.ndarray, dtype: type) -> np.ndarray:
    """Scales as they are stored: never 0, never beyond the type's normal range."""
    limits = np.finfo(dtype)
    scale = np.where(scale == 0, np.float32(1), scale)
    return np.clip(scale, np.float32(limits.tiny), np.float32(limits.max)).astype(dtype)


def check_finite(name: str, x: np.ndarray, row: int, column: int) -> None:
    """That a part of a matrix that begins at ``(row, column)`` is finite.

    Raises:
        ValueError: it is not, with the first place.
    """
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        i, j = (int(at) for at in wrong[0])
        raise ValueError(f"{name}: must be finite, got {x[i, j]} at [{row + i}, {column + j}]")

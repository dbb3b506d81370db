"""What the entries of a table are, as data: one vector of coefficients per entry.

Full tables hold ``Σ u_k·a_k`` for the 0/1 patterns ``u = 1 … 2^g − 1`` (lane 0 is bit 0; pattern 0
is zero and is not stored). Symmetric tables hold ``a_{g−1} + Σ_{k<g−1} (2·u_k − 1)·a_k`` for
``u = 0 … 2^(g−1) − 1``; the other half is their negation (LUT Tensor Core, section 3.1.2). Ternary
tables hold the ``(3^g − 1)/2`` sums whose highest non-zero coefficient is +1.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING

from hw.lazy import np

if TYPE_CHECKING:
    from hw.blocks.lut_core.spec import LutCoreSpec


@cache
def patterns(size: int, form: str) -> np.ndarray:
    """Coefficients ``(entries, size)`` of a table over ``size`` activations.

    Args:
        form: ``full``, ``symmetric`` or ``ternary``.
    """
    if form == "full":
        rows = [[u >> k & 1 for k in range(size)] for u in range(1, 1 << size)]
    elif form == "symmetric":
        rows = [
            [2 * (u >> k & 1) - 1 for k in range(size - 1)] + [1] for u in range(1 << (size - 1))
        ]
    elif form == "ternary":
        rows = []
        for digits in itertools.product((-1, 0, 1), repeat=size):
            leading = next((digit for digit in digits if digit), 0)
            if leading == 1:
                rows.append(list(reversed(digits)))
    else:
        raise ValueError(f"form: must be full, symmetric or ternary, got {form!r}")
    array = np.array(rows, dtype=np.int64)
    array.setflags(write=False)
    return array


def form(spec: LutCoreSpec) -> str:
    """The form of a specification's tables."""
    return "ternary" if spec.ternary else spec.table.form


def group_patterns(spec: LutCoreSpec) -> tuple[np.ndarray, ...]:
    """Coefficients of every table of one row of activations, in the order of the groups."""
    return tuple(patterns(len(group), form(spec)) for group in spec.groups)


def entry_count(spec: LutCoreSpec) -> int:
    """Stored entries of all tables of one row."""
    return sum(len(table) for table in group_patterns(spec))


def quantize(entries: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """Entries to INT8: ``floor(entry / 2^shift + 1/2)``, clipped to [−128, 127]."""
    shift = np.asarray(shift, dtype=np.int64)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    return np.clip((entries + half) >> shift, -128, 127)


def tables(spec: LutCoreSpec, a: np.ndarray, shift: np.ndarray | int) -> list[np.ndarray]:
    """Per group the entries ``(..., entries)`` for activations ``a`` ``(..., K)``."""
    result = []
    for group, table in zip(spec.groups, group_patterns(spec), strict=True):
        entries = a[..., list(group)].astype(np.int64) @ table.T
        result.append(quantize(entries, shift) if spec.quantized else entries)
    return result


def row_sum(spec: LutCoreSpec, a: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """Sum of the all-ones entries ``(...)``: ``Σ a`` if exact, else what the tables make of it."""
    total = np.zeros(a.shape[:-1], dtype=np.int64)
    for group in spec.groups:
        entry = a[..., list(group)].astype(np.int64).sum(axis=-1)
        total += quantize(entry, shift) if spec.quantized else entry
    return total

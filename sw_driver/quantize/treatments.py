"""What is done to both operands of a product before they are quantized, at no change of its value.

- *Hadamard*: both operands are rotated along K, block by block, by an orthonormal Sylvester matrix,
  which spreads outliers over the block (arXiv 2510.25602, section 4).
- *K-sort*: the elements of K are put in the order of the norms of the columns of W, so that those
  of one block are alike (arXiv 2403.20137, section 3: rows of W_k by their norms, and W_q in the
  same order; the scores are unchanged, at no cost while running). A projection that reads the
  residual stream would need the order of the whole stream: there the figure says what an order
  could gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_BLOCK = 1 << 15
"""Elements worked on at a time."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What is done to both operands of a product before they are quantized.

    Attributes:
        hadamard: size of the rotated blocks along K, 0 for none.
        sort: put the elements of K in the order of the norms of W's columns.
    """

    name: str
    hadamard: int = 0
    sort: bool = False

    def fits(self, k: int) -> bool:
        return not self.hadamard or k % self.hadamard == 0

    def apply(self, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(M, K)`` and ``(N, K)`` of the same product."""
        if self.sort:
            norms = np.sqrt(np.einsum("nk,nk->k", w, w, dtype=np.float64))
            order = np.argsort(-norms, kind="stable")
            x, w = x.take(order, axis=1), w.take(order, axis=1)
        if self.hadamard:
            x, w = rotate(x, self.hadamard), rotate(w, self.hadamard)
        return x, w


def treatments(size: int) -> tuple[Treatment, ...]:
    """Without, each by itself, and both; ``size`` of the Hadamard blocks."""
    return (
        Treatment(name="plain"),
        Treatment(name="hadamard", hadamard=size),
        Treatment(name="sort", sort=True),
        Treatment(name="both", hadamard=size, sort=True),
    )


def rotate(x: np.ndarray, size: int) -> np.ndarray:
    """Blocks of ``size`` elements along the last axis times an orthonormal Hadamard matrix.

    Raises:
        ValueError: ``size`` is no power of two, or does not divide the last axis.
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"size: must be a power of two, got {size}")
    if x.shape[-1] % size:
        raise ValueError(f"size: must divide {x.shape[-1]}, got {size}")
    blocks = np.ascontiguousarray(x).reshape(-1, size)
    turned = np.empty(blocks.shape, dtype=np.float32)
    step = max(1, _BLOCK // size)
    for start in range(0, len(blocks), step):
        part = slice(start, start + step)
        # Butterflies on whole rows of the transposed part: element i of every block is one row.
        rows = blocks[part].T.astype(np.float64, order="C")
        half = 1
        while half < size:
            pairs = rows.reshape(size // (2 * half), 2, half, -1)
            both = np.empty_like(pairs)
            np.add(pairs[:, 0], pairs[:, 1], out=both[:, 0])
            np.subtract(pairs[:, 0], pairs[:, 1], out=both[:, 1])
            rows, half = both.reshape(size, -1), 2 * half
        rows *= 1 / math.sqrt(size)
        turned[part] = rows.T
    return turned.reshape(x.shape)

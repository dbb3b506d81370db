"""What a checkpoint says of a tensor before any of its data is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sw_driver.architecture import Storage

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Plain floating types and their bytes."""

MAX_NAME = 512
"""Longest name of a tensor, in letters."""

MAX_RANK = 8
MAX_SIZE = 1 << 48
"""Largest size of a dimension."""


@dataclass(frozen=True, slots=True)
class Region:
    """Data of one type in a file: ``start`` is a position in it, ``size`` in bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor as it is stored.

    Attributes:
        name: what a model calls it; of packed weights the name that they would have in floats.
        shape: logical, matrices ``(N, K)`` unless their class stores them transposed, stacks of
            matrices ``(E, N, K)``.
        storage: the format.
        layout: how ``parts`` are read: ``plain``, ``ggml``, ``gptq``, ``gptq_v2``, ``awq``,
            ``bitnet``, ``bitnet_inverse`` or ``fp8``.
        parts: where the data lies, by what it is.
        block: of ``fp8``, rows and columns that share a factor.
    """

    name: str
    shape: tuple[int, ...]
    storage: Storage
    layout: str
    parts: Mapping[str, Region]
    block: tuple[int, int] = (0, 0)

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in the file, scales and all included."""
        return sum(part.size for part in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.size / self.parameters if self.parameters else 0.0


def printable(name: str) -> bool:
    """Whether a name can be shown: it reaches terminals, files and tables."""
    return bool(name) and len(name) <= MAX_NAME and name.isprintable()

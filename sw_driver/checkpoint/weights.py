"""Weights as a file stores them, in the one form that cores take: codes in groups along K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sw_driver.architecture import Storage


@dataclass(frozen=True, kw_only=True)
class TwoLevel:
    """Scales of a superblock format as they are stored: ``scale = factor · part`` exactly.

    Attributes:
        factor, offset_factor: ``float16`` ``(N, superblocks)``; the latter None without offsets.
        part, offset_part: ``int16`` ``(N, groups)``.
    """

    factor: np.ndarray
    part: np.ndarray
    offset_factor: np.ndarray | None = None
    offset_part: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class CoreOperand:
    """Codes in the encoding of a core, that computes ``o = Σ a·(w − z)`` over a group.

    ``Σ a·(codes − zero) = factor·o + shift·Σ a`` over the same group, exactly.

    Attributes:
        w: ``int64`` ``(N, K)``. z: ``int64`` ``(N, groups)``, None for an encoding without.
        factor: 1, or one half for odd levels. shift: ``float64`` ``(N, groups)``, None for 0.
    """

    w: np.ndarray
    z: np.ndarray | None
    factor: float = 1.0
    shift: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class GroupedWeights:
    """Weights ``(N, K)``; the weight is ``scale · (codes − zero) + offset``.

    Nothing is requantized: codes, scales, zero points and offsets are the stored ones. Integers of
    a format of floats are its values in its smallest step, which ``scale`` takes in.

    Attributes:
        storage: the format.
        group: elements of K that share a scale; the last group may be shorter.
        codes: ``int8`` or ``int16`` ``(N, K)``.
        scale: ``float32`` ``(N, groups)``.
        zero: ``int16`` ``(N, groups)``, None for 0.
        offset: ``float32`` ``(N, groups)``, None for 0.
        order: ``int64`` ``(K,)``, the element of the input that a column of codes belongs to, where
            columns are sorted by group (act-order); None if that is its own number.
        two_level: what the scales of a superblock format are made of.
    """

    storage: Storage
    group: int
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None = None
    offset: np.ndarray | None = None
    order: np.ndarray | None = None
    two_level: TwoLevel | None = None

    @property
    def bits(self) -> int:
        """Width of the codes as integers."""
        return self.storage.integer_bits

    @property
    def signed(self) -> bool:
        """Whether codes are two's complement; else from 0 on."""
        return self.storage.signed

    @property
    def groups(self) -> int:
        return int(self.scale.shape[1])

    def columns(self, index: int) -> slice:
        """The columns of a group."""
        return slice(index * self.group, min((index + 1) * self.group, self.codes.shape[1]))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """``(N, groups)`` to ``(N, K)``."""
        return np.repeat(values, self.group, axis=1)[:, : self.codes.shape[1]]

    def dequantized(self) -> np.ndarray:
        """``float32`` ``(N, K)``, in the order of the input.

        Every product of a code and a scale is exact; where there are offsets their addition rounds
        once. Beyond ``float32`` (MXFP4 alone can be) it is infinite.
        """
        values = self.codes.astype(np.float32)
        whole = values.shape[1] % self.group == 0
        # Of whole groups nothing is spread: each is a row beside its scale.
        cells = values.reshape(len(values), -1, self.group) if whole else values

        def beside(factors: np.ndarray) -> np.ndarray:
            return factors[..., None] if whole else self.spread(factors)

        if self.zero is not None:
            cells -= beside(self.zero.astype(np.float32))
        with np.errstate(over="ignore"):
            cells *= beside(self.scale)
        if self.offset is not None:
            cells += beside(self.offset)
        if self.order is None:
            return values
        result = np.empty_like(values)
        result[:, self.order] = values
        return result

    def operand(self, encoding: str) -> CoreOperand:
        """The codes for a core: ``unsigned``, ``twos_complement``, ``bipolar`` or ``ternary``.

        Raises:
            ValueError: ternary codes were asked of others, or there is no such encoding.
        """
        codes = self.codes.astype(np.int64)
        zero = (
            np.zeros(self.scale.shape, dtype=np.int64)
            if self.zero is None
            else self.zero.astype(np.int64)
        )
        if encoding == "ternary":
            if not self.storage.ternary:
                raise ValueError(f"{self.storage.name} weights are not ternary")
            return CoreOperand(w=codes, z=None)
        half = 2 ** (self.bits - 1)
        # As codes from 0 on, whatever they are stored as: q − z is the same.
        q, z = (codes + half, zero + half) if self.signed else (codes, zero)
        if encoding == "unsigned":
            return CoreOperand(w=q, z=z)
        if encoding == "twos_complement":
            # Stored two's complement has zero point 0 and needs no sum of activations.
            shift = (half - z).astype(np.float64)
            return CoreOperand(w=q - half, z=None, shift=shift if shift.any() else None)
        if encoding == "bipolar":
            top = 2 * half - 1
            return CoreOperand(w=2 * q - top, z=None, factor=0.5, shift=top / 2 - z)
        raise ValueError("encoding must be one of unsigned, twos_complement, bipolar, ternary")


BITNET = Storage(name="BitNet", bits=2, ternary=True)
"""Of weights that are kept in floats and used in three levels."""


def absmean_ternary(w: np.ndarray) -> GroupedWeights:
    """Weights of a model that is trained ternary and kept in floats, as its layers use them.

    One scale a tensor, the mean magnitude, 1e-5 at least (BitNet b1.58, arXiv 2402.17764, equations
    1 to 3).

    Args:
        w: ``float32`` ``(N, K)``.
    """
    factor = np.float32(1) / np.maximum(np.abs(w).mean(dtype=np.float32), np.float32(1e-5))
    codes = np.clip(np.rint(w * factor), -1, 1).astype(np.int8)
    return GroupedWeights(
        storage=BITNET,
        group=w.shape[1],
        codes=codes,
        scale=np.full((len(w), 1), np.float32(1) / factor, dtype=np.float32),
    )


def joined(parts: Sequence[GroupedWeights]) -> GroupedWeights:
    """Rows of one tensor that were read piece by piece."""
    first = parts[0]
    if len(parts) == 1:
        return first

    def stack(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
        found = [array for array in arrays if array is not None]
        return np.concatenate(found) if found else None

    levels = [part.two_level for part in parts if part.two_level is not None]
    two_level = None
    if levels:
        two_level = TwoLevel(
            factor=np.concatenate([level.factor for level in levels]),
            part=np.concatenate([level.part for level in levels]),
            offset_factor=stack([level.offset_factor for level in levels]),
            offset_part=stack([level.offset_part for level in levels]),
        )
    return GroupedWeights(
        storage=first.storage,
        group=first.group,
        codes=np.concatenate([part.codes for part in parts]),
        scale=np.concatenate([part.scale for part in parts]),
        zero=stack([part.zero for part in parts]),
        offset=stack([part.offset for part in parts]),
        order=first.order,
        two_level=two_level,
    )

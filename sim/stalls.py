"""Stall patterns: in which cycles a stream's other side holds back.

A pattern is a cyclic array of bits, one a cycle, 1 where the bench holds back: on an input it does
not offer a new beat (a beat once offered stays offered until it is taken, as the stream rules
demand), on an output it keeps ``ready`` low. Both benches read the same arrays, so that a failure
in one is repeated by the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

# A prime, so that a pattern falls on other beats every time it comes round.
PERIOD = 8191


@dataclass(frozen=True, kw_only=True)
class Stall:
    """How one stream is held back.

    Attributes:
        probability: chance that a stall starts in a free cycle.
        burst: longest stall in cycles; lengths are uniform from 1.
        bits: an explicit cyclic pattern instead, 1 where the stream is held back.
    """

    probability: float = 0.0
    burst: int = 1
    bits: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability < 1.0:
            raise ValueError(f"probability: must lie in [0, 1), got {self.probability}")
        if self.burst < 1:
            raise ValueError(f"burst: must be at least 1, got {self.burst}")
        if self.bits is not None and (not self.bits or all(self.bits)):
            raise ValueError("bits: must hold at least one 0")

    def pattern(self, rng: np.random.Generator) -> np.ndarray | None:
        """The pattern as ``uint8``, or None where the stream is never held back."""
        if self.bits is not None:
            return np.array([1 if bit else 0 for bit in self.bits], dtype=np.uint8)
        if self.probability == 0.0:
            return None
        if self.burst == 1:
            bits = (rng.random(PERIOD) < self.probability).astype(np.uint8)
        else:
            bits = np.zeros(PERIOD, dtype=np.uint8)
            for start in np.flatnonzero(rng.random(PERIOD) < self.probability):
                if not bits[start]:
                    bits[start : start + int(rng.integers(1, self.burst + 1))] = 1
        bits[int(rng.integers(PERIOD))] = 0
        return bits


@dataclass(frozen=True, kw_only=True)
class Stalls:
    """Stalls of a whole run.

    Attributes:
        default: for every stream that ``streams`` does not name.
        streams: by stream name.
    """

    default: Stall = Stall()
    streams: Mapping[str, Stall] = field(default_factory=dict)

    def patterns(self, names: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
        """Per stalled stream its pattern; the same for the same seed on every machine."""
        unknown = sorted(set(self.streams) - set(names))
        if unknown:
            raise ValueError(f"stalls: no stream is named {', '.join(unknown)}")
        found = {}
        for name in names:
            stall = self.streams.get(name, self.default)
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            bits = stall.pattern(rng)
            if bits is not None:
                found[name] = bits
        return found


def light() -> Stalls:
    """A tenth of the cycles of every stream, singly."""
    return Stalls(default=Stall(probability=0.1))


def heavy() -> Stalls:
    """Two thirds of the cycles of every stream."""
    return Stalls(default=Stall(probability=0.67))


def bursts() -> Stalls:
    """Rare stalls of up to 40 cycles."""
    return Stalls(default=Stall(probability=0.04, burst=40))


def starved(name: str) -> Stalls:
    """One stream moves in one cycle of thirteen, the others never wait."""
    return Stalls(streams={name: Stall(bits=(1,) * 12 + (0,))})


def blocked(name: str) -> Stalls:
    """An output is not taken for 150 cycles, then for 20 cycles it is."""
    return Stalls(streams={name: Stall(bits=(1,) * 150 + (0,) * 20)})

"""Rotary position embedding (Su et al., arXiv 2104.09864), and how models stretch it.

Scalings as the `transformers` library (module ``modeling_rope_utils``) defines them: ``linear``,
``llama3``, ``yarn`` (Peng et al., arXiv 2309.00071) and ``longrope`` (arXiv 2402.13753).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SCALINGS = ("default", "linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """How channels of queries and keys are turned by their position.

    Attributes:
        width: channels of a head that are turned, from its first one on; the rest stays.
        theta: base of the wave lengths. scaling: one of :data:`SCALINGS`.
        interleaved: pairs are neighbours ``(2i, 2i + 1)``; else ``(i, i + width/2)``.
        factor: how much longer than ``original`` positions may become.
        low, high: wave lengths of ``original / low`` tokens and more are stretched by ``factor``,
            those of ``original / high`` and less are not (``llama3``); of ``yarn`` ``low`` is its
            ``beta_slow`` and ``high`` its ``beta_fast``.
        truncate: whole channels bound the ramp of ``yarn``.
        short, long: divisors of every frequency, for inputs of up to ``original`` tokens and for
            longer ones (``longrope``). divisors: for inputs of any length.
        magnitude: factor of the turned channels.
    """

    width: int
    theta: float
    scaling: str = "default"
    interleaved: bool = False
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 32.0
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    divisors: tuple[float, ...] = ()
    magnitude: float = 1.0

    def frequencies(self, tokens: int) -> np.ndarray:
        """``float64`` ``(width / 2,)`` in radians a position, of an input of some tokens."""
        frequency = self.theta ** -(np.arange(0, self.width, 2) / self.width)
        if self.divisors:
            frequency = frequency / np.array(self.divisors)
        if self.scaling == "linear":
            return frequency / self.factor
        if self.scaling == "llama3":
            waves = 2 * np.pi / frequency
            share = (self.original / waves - self.low) / (self.high - self.low)
            share = np.clip(share, 0.0, 1.0)
            return (1 - share) * frequency / self.factor + share * frequency
        if self.scaling == "yarn":
            first, last = self._turns(self.high), self._turns(self.low)
            if self.truncate:
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0), min(last, self.width - 1)
            span = last - first or 0.001
            ramp = np.clip((np.arange(self.width // 2) - first) / span, 0.0, 1.0)
            return ramp * frequency / self.factor + (1 - ramp) * frequency
        if self.scaling == "longrope":
            return frequency / np.array(self.long if tokens > self.original else self.short)
        return frequency

    def _turns(self, turns: float) -> float:
        """The channel pair that turns so often within ``original`` positions."""
        found = math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))
        return self.width * found

    def turn(self, x: np.ndarray, start: int, tokens: int) -> np.ndarray:
        """Heads of tokens ``(T, heads, channels)`` turned.

        Args:
            start: position of the first token. tokens: length of the whole input so far.
        """
        if not self.width:
            return x
        places = np.arange(start, start + len(x), dtype=np.float64)
        angles = places[:, None] * self.frequencies(tokens)
        cosine = (np.cos(angles) * self.magnitude).astype(np.float32)[:, None]
        sine = (np.sin(angles) * self.magnitude).astype(np.float32)[:, None]
        half = self.width // 2
        if self.interleaved:
            one, two = slice(0, self.width, 2), slice(1, self.width, 2)
        else:
            one, two = slice(0, half), slice(half, self.width)
        result = x.copy()
        result[..., one] = x[..., one] * cosine - x[..., two] * sine
        result[..., two] = x[..., two] * cosine + x[..., one] * sine
        return result


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """``0.1 · weight · ln(factor) + 1``: what longer inputs take from the scores' spread."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

"""Keys and values of earlier tokens."""

from __future__ import annotations

import numpy as np


class KvCache:
    """What the layers of a decoder keep of the tokens they have seen, in ``float32``.

    A subclass that keeps less of them (quantized, a window) overrides :meth:`extend`: attention
    sees what it returns, whose last rows are the tokens that came last.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def length(self, layer: int = 0) -> int:
        """Tokens that a layer has seen."""
        return len(self._kept[layer][0]) if layer in self._kept else 0

    def extend(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Adds tokens, and returns all of a layer.

        Args:
            k, v: ``(T, kv_heads, channels)``, keys turned by their positions.
        """
        if layer in self._kept:
            before = self._kept[layer]
            k, v = np.concatenate([before[0], k]), np.concatenate([before[1], v])
        self._kept[layer] = (k, v)
        return k, v

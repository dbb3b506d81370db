"""Caches of attention in few bits: keys and values (KIVI), or the layer's input (XQuant).

*KIVI* (arXiv 2402.02750, algorithm 1): keys have outliers in a few channels and are quantized per
channel, in groups along the tokens; values are quantized per token, in groups along the channels;
both asymmetric. A group of keys needs its tokens to be there: the latest ``T mod window`` keys stay
as they are, and ``window`` of them are quantized at a time. Of values the latest ``window`` stay.

*XQuant* (arXiv 2508.10395, section 3): the input ``X`` of the projections is cached, per token in
groups along the channels, and keys and values are computed again: half the bytes where keys and
values are as wide as the input, against ``2 · l · hidden · (width of K and V)`` operations a step.

Bytes are counted as the mapper counts them (docs/mapping.md): codes, and for each group a scale of
16 bits with a zero point of the codes' width; what is kept as it is takes 16 bits an element.
"""

from __future__ import annotations

import numpy as np

from sw_driver.mapper.cache_format import CacheFormat
from sw_driver.mapper.cost import ceil_div
from sw_driver.quantize.integers import QuantizedWeights, quantize_asymmetric

__all__ = ["CacheFormat", "InputCache", "KvCache"]


class _PerToken:
    """Vectors ``(T, vectors, channels)``, the older ones quantized token by token."""

    def __init__(self, name: str, vectors: int, channels: int, form: CacheFormat):
        self.name, self.vectors, self.channels, self.form = name, vectors, channels, form
        self.quantized: list[QuantizedWeights] = []
        self.plain = np.zeros((0, vectors, channels), dtype=np.float32)
        self._decoded: list[np.ndarray] = []
        self.done = 0

    def append(self, x: np.ndarray) -> None:
        held = np.concatenate([self.plain, x])
        old = max(0, len(held) - self.form.window)
        if old:
            flat = held[:old].reshape(-1, self.channels)
            self.quantized.append(quantize_asymmetric(flat, self.form.bits, self.form.group))
            self.done += old
        self.plain = held[old:]

    def numbers(self) -> np.ndarray:
        shape = (-1, self.vectors, self.channels)
        # Of what was decoded once nothing changes any more.
        for part in self.quantized[len(self._decoded) :]:
            self._decoded.append(part.dequantized().reshape(shape))
        return np.concatenate([*self._decoded, self.plain])

    @property
    def bits(self) -> int:
        quantized, plain = self.done * self.vectors, len(self.plain) * self.vectors
        return self.form.per_token_bits(quantized, plain, self.channels)


class _PerChannel:
    """Vectors ``(T, vectors, channels)``, whole windows of them quantized channel by channel."""

    def __init__(self, vectors: int, channels: int, form: CacheFormat):
        form.check_keys()
        self.vectors, self.channels, self.form = vectors, channels, form
        self.quantized: list[QuantizedWeights] = []
        self.plain = np.zeros((0, vectors, channels), dtype=np.float32)
        self._decoded: list[np.ndarray] = []

    def append(self, x: np.ndarray) -> None:
        held = np.concatenate([self.plain, x])
        old = len(held) // self.form.window * self.form.window
        if old:
            columns = held[:old].reshape(old, -1).T
            self.quantized.append(quantize_asymmetric(columns, self.form.bits, self.form.group))
        self.plain = held[old:]

    @property
    def done(self) -> int:
        return sum(part.codes.shape[1] for part in self.quantized)

    def numbers(self) -> np.ndarray:
        shape = (-1, self.vectors, self.channels)
        for part in self.quantized[len(self._decoded) :]:
            self._decoded.append(part.dequantized().T.reshape(shape))
        return np.concatenate([*self._decoded, self.plain])

    @property
    def bits(self) -> int:
        channels = self.vectors * self.channels
        groups = sum(part.scale.shape[1] for part in self.quantized)
        return self.form.per_channel_bits(self.done, groups, len(self.plain), channels)


class _Pairs:
    """Keys and values of the same tokens, each kept in a way of its own."""

    def __init__(self, form: CacheFormat, keys: _PerChannel | _PerToken, values: _PerToken):
        self.form = form
        self._keys, self._values = keys, values
        self.tokens = 0

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """Keys ``(T, heads, key_dim)`` and values of new tokens, one or many."""
        k = _vectors("k", k, self._keys.vectors, self._keys.channels)
        v = _vectors("v", v, self._values.vectors, self._values.channels)
        if len(k) != len(v):
            raise ValueError(f"v: must be of the {len(k)} tokens of k, got {len(v)}")
        self._keys.append(k)
        self._values.append(v)
        self.tokens += len(k)

    def keys(self) -> np.ndarray:
        """``float32`` ``(tokens, heads, key_dim)``, as attention sees them."""
        return self._keys.numbers()

    def values(self) -> np.ndarray:
        """``float32`` ``(tokens, heads, value_dim)``, as attention sees them."""
        return self._values.numbers()

    @property
    def bytes(self) -> int:
        return int(ceil_div(self._keys.bits, 8) + ceil_div(self._values.bits, 8))


class KvCache(_Pairs):
    """Keys per channel and values per token, with a window in full precision.

    Args:
        heads: of keys and values. key_dim, value_dim: channels of a head.
        form: of both; its window holds whole groups.

    Raises:
        ValueError: on construction, if the window does not; in :meth:`append`, if shapes do not
            belong together or a value is not finite.
    """

    def __init__(
        self, heads: int, key_dim: int, form: CacheFormat, *, value_dim: int | None = None
    ):
        values = _PerToken("v", heads, value_dim or key_dim, form)
        super().__init__(form, _PerChannel(heads, key_dim, form), values)

    @property
    def quantized_tokens(self) -> tuple[int, int]:
        """Tokens whose keys, and whose values, are codes."""
        return self._keys.done, self._values.done


class TokenCache(_Pairs):
    """Keys and values per token, each vector of a head in groups along its channels: the cache that
    the mapper counts, with its own scale and zero point for every group.

    Args:
        heads: of keys and values. key_dim, value_dim: channels of a head.
        form: of both; a window may be 0.

    Raises:
        ValueError: in :meth:`append`, as :class:`KvCache`.
    """

    def __init__(
        self, heads: int, key_dim: int, form: CacheFormat, *, value_dim: int | None = None
    ):
        values = _PerToken("v", heads, value_dim or key_dim, form)
        super().__init__(form, _PerToken("k", heads, key_dim, form), values)


class InputCache:
    """The inputs of a layer's projections, from which keys and values are computed again.

    Args:
        hidden: channels of an input. form: per token; a window may be 0.

    Raises:
        ValueError: in :meth:`append`, if a shape is wrong or a value is not finite.
    """

    def __init__(self, hidden: int, form: CacheFormat):
        self.form = form
        self._inputs = _PerToken("x", 1, hidden, form)
        self.tokens = 0

    def append(self, x: np.ndarray) -> None:
        """Inputs ``(T, hidden)`` of new tokens."""
        hidden = self._inputs.channels
        if np.ndim(x) != 2 or np.shape(x)[1] != hidden:
            raise ValueError(f"x: must have the shape (T, {hidden}), got {np.shape(x)}")
        self._inputs.append(_vectors("x", np.asarray(x)[:, None], 1, hidden))
        self.tokens += len(x)

    def inputs(self) -> np.ndarray:
        """``float32`` ``(tokens, hidden)``."""
        return self._inputs.numbers()[:, 0]

    def rematerialised(self, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """Keys, or values, ``(tokens, N)`` of a projection ``w`` ``(N, hidden)``."""
        found = self.inputs() @ w.T
        return found if bias is None else found + bias

    def operations(self, widths: tuple[int, ...]) -> int:
        """Multiplications and additions of one step that computes all tokens' keys and values.

        Args:
            widths: N of the projections: ``(hidden, hidden)`` gives ``4 · tokens · hidden²``.
        """
        return 2 * self.tokens * self._inputs.channels * sum(widths)

    @property
    def bytes(self) -> int:
        return int(ceil_div(self._inputs.bits, 8))


def _vectors(name: str, x: np.ndarray, vectors: int, channels: int) -> np.ndarray:
    x = np.asarray(x, dtype=np.float32)
    if x.ndim != 3 or x.shape[1:] != (vectors, channels) or not len(x):
        raise ValueError(f"{name}: must have the shape (T, {vectors}, {channels}), got {x.shape}")
    if not np.isfinite(x).all():
        place = [int(at) for at in np.argwhere(~np.isfinite(x))[0]]
        raise ValueError(f"{name}: must be finite, got {x[tuple(place)]} at {place}")
    return x

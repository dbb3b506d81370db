"""Activation functions, norms and softmax in float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_erf = np.frompyfunc(math.erf, 1, 1)


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis; ``−inf`` gives 0."""
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    total: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return total


def sigmoid(x: np.ndarray) -> np.ndarray:
    """``1 / (1 + e^−x)``, without overflow."""
    small = np.exp(-np.abs(x))
    result: np.ndarray = np.where(x >= 0, 1, small) / (1 + small)
    return result


def gelu(x: np.ndarray) -> np.ndarray:
    """``x·Φ(x)``, the exact form (Hendrycks and Gimpel, arXiv 1606.08415)."""
    phi = np.asarray(_erf(x * math.sqrt(0.5))).astype(np.float32)
    result: np.ndarray = x * np.float32(0.5) * (1 + phi)
    return result


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """The form with tanh of the same paper."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    result: np.ndarray = np.float32(0.5) * x * (1 + np.tanh(inner))
    return result


def silu(x: np.ndarray) -> np.ndarray:
    """``x · sigmoid(x)``."""
    return x * sigmoid(x)


def relu(x: np.ndarray) -> np.ndarray:
    """``max(x, 0)``."""
    return np.maximum(x, np.float32(0))


def relu2(x: np.ndarray) -> np.ndarray:
    """``max(x, 0)²``."""
    return relu(x) ** 2


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "silu": silu,
    "swish": silu,
    "relu": relu,
    "relu2": relu2,
}
"""By the names that configurations use."""


def rms_norm(x: np.ndarray, weight: np.ndarray | None, eps: float) -> np.ndarray:
    """``x / sqrt(mean(x²) + eps) · weight`` (arXiv 1910.07467)."""
    spread = np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps))
    result: np.ndarray = x / spread
    return result if weight is None else result * weight


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> np.ndarray:
    """``(x − mean) / sqrt(variance + eps) · weight + bias`` (arXiv 1607.06450)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(eps))
    result: np.ndarray = centred / spread
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def capped(x: np.ndarray, cap: float) -> np.ndarray:
    """``cap · tanh(x / cap)``; ``x`` where the cap is 0."""
    if not cap:
        return x
    result: np.ndarray = np.tanh(x / np.float32(cap)) * np.float32(cap)
    return result

"""Specifications that together reach every form of the multiplier array."""

from __future__ import annotations

from typing import Any


def _shape(m: int, n: int, k: int) -> dict[str, int]:
    return {"m": m, "n": n, "k": k}


SWEEP: tuple[dict[str, Any], ...] = (
    {
        "tile": _shape(1, 1, 1),
        "activations": {"bits": 2, "signed": True},
        "weights": {"bits": 1},
        "max_k": 1,
    },
    {"tile": _shape(2, 3, 5), "weights": {"bits": 8}, "addend": True},
    {
        "tile": _shape(1, 2, 3),
        "weights": {"bits": 16},
        "activations": {"bits": 16, "signed": True},
        "pipeline": {"front": 0, "heap": 3},
    },
    {
        "tile": _shape(2, 2, 7),
        "weights": {"encoding": "unsigned", "bits": 4},
        "pipeline": {"front": 1, "heap": 1},
        "addend": True,
    },
    {
        "tile": _shape(3, 1, 6),
        "weights": {"encoding": "bipolar", "bits": 3},
        "activations": {"bits": 7, "signed": False},
    },
    {
        "tile": _shape(2, 2, 9),
        "weights": {"encoding": "ternary"},
        "pipeline": {"front": 1, "heap": 2},
    },
    {
        "tile": _shape(1, 3, 4),
        "weights": {"encoding": "unsigned", "bits": 16},
        "activations": {"bits": 5, "signed": False},
        "max_k": 13,
    },
)

"""Specifications that together reach every form of the bit-serial core."""

from __future__ import annotations

from typing import Any


def _shape(m: int, n: int, k: int) -> dict[str, int]:
    return {"m": m, "n": n, "k": k}


def _formats(a: str, a_bits: int, w: str, w_bits: int) -> dict[str, dict[str, Any]]:
    return {
        "activations": {"encoding": a, "max_bits": a_bits},
        "weights": {"encoding": w, "max_bits": w_bits},
    }


TWOS, PLAIN, ODD = "twos_complement", "unsigned", "bipolar"

SWEEP: tuple[dict[str, Any], ...] = (
    {"tile": _shape(1, 1, 1), **_formats(PLAIN, 1, PLAIN, 1), "max_k": 1},
    {"tile": _shape(1, 1, 2), **_formats(ODD, 1, ODD, 1), "max_k": 2, "addend": True},
    {"tile": _shape(2, 3, 5), **_formats(TWOS, 8, TWOS, 8), "addend": True},
    {
        "tile": _shape(2, 2, 8),
        **_formats(TWOS, 4, PLAIN, 4),
        "pipeline": {"front": 1, "heap": 0},
    },
    {
        "tile": _shape(3, 2, 7),
        **_formats(PLAIN, 3, TWOS, 5),
        "pipeline": {"front": 1, "heap": 2},
        "addend": True,
    },
    {
        "tile": _shape(1, 3, 6),
        **_formats(ODD, 4, ODD, 3),
        "pipeline": {"front": 0, "heap": 1, "placement": "area"},
    },
    {"tile": _shape(2, 2, 9), **_formats(ODD, 2, ODD, 6), "max_k": 40},
    {
        "tile": _shape(2, 3, 4),
        **_formats(TWOS, 5, ODD, 2),
        "pipeline": {"front": 1, "heap": 1},
    },
    {"tile": _shape(1, 2, 11), **_formats(PLAIN, 2, ODD, 3), "addend": True},
    {
        "tile": _shape(1, 2, 3),
        **_formats(PLAIN, 6, PLAIN, 1),
        "pipeline": {"front": 0, "heap": 3},
        "max_k": 13,
    },
)

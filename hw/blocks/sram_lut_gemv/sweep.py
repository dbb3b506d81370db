"""Specifications that together reach every form of the table array."""

from __future__ import annotations

from typing import Any


def _shape(m: int, n: int, k: int) -> dict[str, int]:
    return {"m": m, "n": n, "k": k}


def _formats(a: str, a_bits: int, w: str, w_bits: int) -> dict[str, dict[str, Any]]:
    return {
        "activations": {"encoding": a, "max_bits": a_bits},
        "weights": {"encoding": w, "max_bits": w_bits},
    }


TWOS, PLAIN = "twos_complement", "unsigned"
FRONT = {"pipeline": {"front": 1}}
MEMORY = {"array": {"style": "memory"}}

SWEEP: tuple[dict[str, Any], ...] = (
    {
        "tile": _shape(1, 1, 1),
        **_formats(PLAIN, 1, PLAIN, 1),
        "max_k": 1,
        "reuse": {"capacity": 1},
    },
    {"tile": _shape(4, 2, 2), **_formats(TWOS, 3, TWOS, 3), "reuse": {"capacity": 2}, "max_k": 24},
    {"tile": _shape(4, 3, 3), **_formats(TWOS, 8, TWOS, 8), "reuse": {"capacity": 4}, **FRONT},
    {
        "tile": _shape(6, 2, 3),
        **_formats(PLAIN, 5, PLAIN, 4),
        **MEMORY,
        "reuse": {"capacity": 3},
        "max_k": 100,
    },
    {
        "tile": _shape(3, 2, 4),
        **_formats(TWOS, 16, TWOS, 2),
        **MEMORY,
        **FRONT,
        "reuse": {"capacity": 1},
        "max_k": 64,
    },
    {
        "tile": _shape(2, 2, 5),
        **_formats(TWOS, 4, PLAIN, 6),
        **FRONT,
        "reuse": {"capacity": 2},
        "max_k": 1000,
    },
    {
        "tile": _shape(2, 4, 2),
        **_formats(TWOS, 4, TWOS, 4),
        "reuse": {"capacity": 2},
        "result": {"format": "integer", "bits": 5, "lanes": 2},
        "max_k": 40,
    },
    {
        "tile": _shape(1, 3, 3),
        **_formats(PLAIN, 3, TWOS, 5),
        **FRONT,
        **MEMORY,
        "reuse": {"capacity": 1},
        "result": {"format": "integer", "bits": 8},
        "max_k": 60,
    },
    {
        "tile": _shape(4, 2, 2),
        **_formats(TWOS, 6, PLAIN, 4),
        "reuse": {"capacity": 2},
        "result": {"format": "fp16"},
        "max_k": 512,
    },
    {
        "tile": _shape(2, 3, 1),
        **_formats(TWOS, 8, TWOS, 16),
        **FRONT,
        "reuse": {"capacity": 1},
        "result": {"format": "fp32", "lanes": 3},
        "max_k": 64,
    },
)

"""Specifications that together reach every form of the floating-point core."""

from __future__ import annotations

from typing import Any


def _shape(m: int, n: int, k: int) -> dict[str, int]:
    return {"m": m, "n": n, "k": k}


def _weights(bits: int, encoding: str, group: int) -> dict[str, Any]:
    return {
        "format": "int",
        "bits": bits,
        "encoding": encoding,
        "scale": "fp16",
        "group": group,
    }


RUNNING = {"kind": "running"}
ROUNDED = {"kind": "running", "result": "fp32"}
FP32 = {"kind": "fp32"}

SWEEP: tuple[dict[str, Any], ...] = (
    {
        "tile": _shape(1, 1, 1),
        "activations": {"format": "fp8_e4m3"},
        "weights": {"format": "fp8_e4m3"},
        "window": "exact",
        "accumulator": {"kind": "fixed", "low": -18, "bits": 37},
        "max_k": 1,
    },
    {"tile": _shape(2, 3, 5), "accumulator": FP32, "pipeline": {"front": 1, "heap": 2}},
    {
        "tile": _shape(2, 2, 4),
        "activations": {"format": "bf16"},
        "weights": {"format": "bf16"},
        "window": 24,
        "accumulator": FP32,
        "pipeline": {"front": 0, "heap": 3},
    },
    {
        "tile": _shape(1, 3, 3),
        "activations": {"format": "fp8_e5m2"},
        "weights": {"format": "fp8_e4m3"},
        "window": 9,
        "accumulator": RUNNING,
        "pipeline": {"front": 1, "heap": 1},
    },
    {
        "tile": _shape(2, 1, 7),
        "activations": {"format": "fp16"},
        "weights": {"format": "fp8_e5m2"},
        "window": 11,
        "accumulator": ROUNDED,
        "max_k": 300,
    },
    {
        "tile": _shape(1, 2, 2),
        "window": "exact",
        "accumulator": {"kind": "fixed", "low": -48, "bits": 96},
        "pipeline": {"front": 0, "heap": 4},
        "max_k": 64,
    },
    {
        "tile": _shape(2, 2, 4),
        "weights": _weights(4, "unsigned", 8),
        "accumulator": FP32,
        "pipeline": {"front": 1, "heap": 3},
    },
    {
        "tile": _shape(1, 2, 6),
        "activations": {"format": "bf16"},
        "weights": _weights(8, "unsigned", 3),
        "accumulator": RUNNING,
        "pipeline": {"front": 0, "heap": 5},
    },
    {
        "tile": _shape(1, 2, 4),
        "activations": {"format": "fp8_e4m3"},
        "weights": _weights(2, "twos_complement", 4),
        "window": 20,
        "accumulator": FP32,
    },
    {
        "tile": _shape(1, 1, 2),
        "weights": _weights(1, "twos_complement", 1),
        "accumulator": {"kind": "fixed", "low": -20, "bits": 59},
        "pipeline": {"front": 0, "heap": 2},
        "max_k": 40,
    },
)

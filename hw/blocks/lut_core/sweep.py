"""Specifications that together reach every form of the LUT core."""

from __future__ import annotations

from typing import Any


def _shape(m: int, n: int, k: int) -> dict[str, int]:
    return {"m": m, "n": n, "k": k}


SWEEP: tuple[dict[str, Any], ...] = (
    # The least there is.
    {
        "tile": _shape(1, 1, 1),
        "activations": {"bits": 2, "signed": False},
        "weights": {"encoding": "unsigned", "max_bits": 1},
        "table": {"group": 1},
        "max_k": 1,
    },
    # Serial planes, every encoding, full and symmetric, odd shapes.
    {"tile": _shape(2, 3, 7), "weights": {"encoding": "unsigned"}, "addend": True},
    {
        "tile": _shape(1, 2, 5),
        "weights": {"encoding": "twos_complement", "max_bits": 8},
        "table": {"group": 3},
        "addend": True,
        "pipeline": {"front": 1, "heap": 1},
    },
    {
        "tile": _shape(2, 2, 6),
        "weights": {"encoding": "bipolar", "max_bits": 3},
        "activations": {"bits": 5, "signed": False},
        "pipeline": {"front": 0, "heap": 2},
    },
    {
        "tile": _shape(3, 1, 9),
        "weights": {"encoding": "unsigned", "max_bits": 5},
        "table": {"group": 4, "form": "symmetric"},
        "pipeline": {"front": 1, "heap": 0},
        "addend": True,
    },
    {
        "tile": _shape(1, 3, 8),
        "weights": {"encoding": "twos_complement", "max_bits": 2},
        "table": {"group": 2, "form": "symmetric"},
        "activations": {"bits": 16, "signed": True},
    },
    {
        "tile": _shape(2, 2, 13),
        "weights": {"encoding": "bipolar", "max_bits": 4},
        "table": {"group": 6, "form": "symmetric"},
        "pipeline": {"front": 1, "heap": 3},
        "addend": True,
    },
    # Planes side by side, and two at a time of five.
    {
        "tile": _shape(2, 3, 5),
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "planes": "parallel",
        "addend": True,
        "pipeline": {"front": 0, "heap": 1},
    },
    {
        "tile": _shape(1, 2, 6),
        "weights": {"encoding": "twos_complement", "max_bits": 8},
        "planes": "parallel",
        "activations": {"bits": 2, "signed": True},
    },
    {
        "tile": _shape(2, 2, 4),
        "weights": {"encoding": "unsigned", "max_bits": 5},
        "planes": 2,
        "pipeline": {"front": 1, "heap": 2},
        "max_k": 37,
    },
    {
        "tile": _shape(1, 2, 7),
        "weights": {"encoding": "twos_complement", "max_bits": 7},
        "planes": 3,
        "table": {"group": 5},
        "activations": {"bits": 3, "signed": False},
    },
    {
        "tile": _shape(2, 1, 3),
        "weights": {"encoding": "bipolar", "max_bits": 2},
        "planes": "parallel",
        "table": {"group": 1},
    },
    # Quantized entries.
    {
        "tile": _shape(2, 2, 8),
        "weights": {"encoding": "unsigned", "max_bits": 3},
        "table": {"group": 4, "entries": "int8"},
        "addend": True,
    },
    {
        "tile": _shape(1, 3, 6),
        "weights": {"encoding": "bipolar", "max_bits": 2},
        "table": {"group": 3, "form": "symmetric", "entries": "int8"},
        "activations": {"bits": 11, "signed": True},
        "pipeline": {"front": 1, "heap": 1},
    },
    # Ternary: two planes, five trits a byte, tables from the port.
    {
        "tile": _shape(2, 3, 8),
        "weights": {"encoding": "ternary"},
        "pipeline": {"front": 1, "heap": 1},
        "addend": True,
    },
    {
        "tile": _shape(1, 2, 12),
        "weights": {"encoding": "ternary", "packing": "base3"},
        "table": {"group": 3},
    },
    {
        "tile": _shape(2, 2, 6),
        "weights": {"encoding": "unsigned", "max_bits": 2},
        "table": {"group": 2, "form": "symmetric", "source": "port"},
        "pipeline": {"front": 1, "heap": 0},
    },
    # Floats to a running exponent: all that is kept, what is dropped, guard bits, every form.
    {
        "tile": _shape(2, 3, 4),
        "activations": {"format": "fp16", "bits": 12},
        "weights": {"encoding": "unsigned", "max_bits": 3},
        "pipeline": {"front": 2, "heap": 0},
        "max_k": 40,
    },
    {
        "tile": _shape(1, 1, 1),
        "activations": {"format": "fp16", "bits": 2},
        "weights": {"encoding": "unsigned", "max_bits": 1},
        "table": {"group": 1},
        "max_k": 1,
    },
    {
        "tile": _shape(2, 2, 5),
        "activations": {"format": "bf16", "bits": 8, "guard": 3},
        "weights": {"encoding": "twos_complement", "max_bits": 4},
        "table": {"group": 3},
        "pipeline": {"front": 1, "heap": 2},
        "max_k": 60,
    },
    {
        "tile": _shape(1, 2, 6),
        "activations": {"format": "fp8_e4m3", "bits": 6},
        "weights": {"encoding": "bipolar", "max_bits": 5},
        "table": {"group": 4, "form": "symmetric"},
        "planes": 2,
        "pipeline": {"front": 2, "heap": 1},
        "max_k": 40,
    },
    {
        "tile": _shape(2, 2, 3),
        "activations": {"format": "fp8_e5m2", "bits": 16, "guard": 8},
        "weights": {"encoding": "ternary"},
        "pipeline": {"front": 0, "heap": 1},
        "max_k": 30,
    },
    {
        "tile": _shape(3, 1, 4),
        "activations": {"format": "fp16", "bits": 11},
        "weights": {"encoding": "unsigned", "max_bits": 2},
        "table": {"form": "symmetric"},
        "planes": "parallel",
        "pipeline": {"front": 1, "heap": 0},
        "max_k": 40,
    },
    {
        "tile": _shape(1, 2, 4),
        "activations": {"format": "fp16", "bits": 9, "guard": 1},
        "weights": {"encoding": "twos_complement", "max_bits": 3},
        "table": {"form": "symmetric"},
        "pipeline": {"front": 0, "heap": 0},
        "max_k": 36,
    },
    # To a given one.
    {
        "tile": _shape(2, 3, 4),
        "activations": {"format": "fp16", "bits": 16, "exponent": "given"},
        "weights": {"encoding": "bipolar", "max_bits": 3},
        "pipeline": {"front": 1, "heap": 1},
        "max_k": 40,
    },
    {
        "tile": _shape(2, 2, 10),
        "activations": {"format": "bf16", "bits": 7, "exponent": "given"},
        "weights": {"encoding": "ternary", "packing": "base3"},
        "pipeline": {"front": 2, "heap": 2},
        "max_k": 40,
    },
    # To the format's largest.
    {
        "tile": _shape(2, 2, 4),
        "activations": {"format": "fp8_e4m3", "exponent": "exact"},
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "pipeline": {"front": 1, "heap": 0},
        "max_k": 64,
    },
    {
        "tile": _shape(1, 2, 3),
        "activations": {"format": "fp8_e5m2", "exponent": "exact"},
        "weights": {"encoding": "twos_complement", "max_bits": 2},
        "planes": "parallel",
        "pipeline": {"front": 0, "heap": 1},
        "max_k": 33,
    },
)

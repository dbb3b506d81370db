"""Specifications that together reach every form of a bank's unit."""

from __future__ import annotations

from typing import Any

_MAC = {"block": "mac_core", "activations": {"bits": 8}, "weights": {"bits": 8}, "max_k": 512}

SWEEP: tuple[dict[str, Any], ...] = (
    # One step, one accumulator, nothing but ReLU.
    {
        "column_bits": 64,
        "unit": {
            "arithmetic": {
                "block": "mac_core",
                "activations": {"bits": 4},
                "weights": {"bits": 4},
                "max_k": 16,
            },
            "accumulators": 1,
            "accumulator_bits": 16,
            "activation": {"segments": 0},
        },
    },
    # INT8, a table of one column.
    {
        "column_bits": 64,
        "unit": {
            "arithmetic": {**_MAC, "max_k": 64},
            "accumulator_bits": 24,
            "activation": {"segments": 2, "segment_log2": 12},
        },
    },
    # BF16, a table of two columns.
    {
        "column_bits": 128,
        "unit": {
            "arithmetic": {
                "block": "fp_core",
                "activations": {"format": "bf16"},
                "weights": {"format": "bf16"},
                "pipeline": {"heap": 2},
                "max_k": 128,
            },
            "accumulators": 4,
            "activation": {"segments": 8, "segment_log2": -1},
        },
    },
    # FP8 in a running sum, rounded once; columns as wide as they are.
    {
        "unit": {
            "arithmetic": {
                "block": "fp_core",
                "activations": {"format": "fp8_e4m3"},
                "weights": {"format": "fp8_e5m2"},
                "window": 20,
                "accumulator": {"kind": "running", "result": "fp32"},
                "max_k": 256,
            },
            "activation": {"segments": 8, "segment_log2": 3},
        },
    },
    # Tables in place of multipliers: serial planes, which repeat the broadcast.
    {
        "column_bits": 64,
        "unit": {
            "arithmetic": {
                "block": "lut_core",
                "activations": {"bits": 4},
                "weights": {"encoding": "twos_complement", "max_bits": 2},
                "max_k": 256,
                "pipeline": {"heap": 1},
            },
            "activation": {"segments": 4, "segment_log2": 4, "fraction": 3},
        },
    },
    # Tables, parallel planes, symmetric.
    {
        "column_bits": 64,
        "unit": {
            "arithmetic": {
                "block": "lut_core",
                "activations": {"bits": 6},
                "weights": {"encoding": "bipolar", "max_bits": 4},
                "planes": "parallel",
                "table": {"group": 3, "form": "symmetric"},
                "max_k": 64,
            },
            "accumulators": 8,
            "accumulator_bits": 48,
            "activation": {"segments": 2, "segment_log2": 10, "fraction": 15},
        },
    },
    # Planes on both sides.
    {
        "column_bits": 64,
        "unit": {
            "arithmetic": {
                "block": "bitserial_core",
                "activations": {"encoding": "twos_complement", "max_bits": 3},
                "weights": {"encoding": "twos_complement", "max_bits": 2},
                "max_k": 128,
                "pipeline": {"heap": 1},
            },
            "activation": {"segments": 16, "segment_log2": 0, "fraction": 0},
        },
    },
)

"""Specifications that together reach every form of a channel."""

from __future__ import annotations

from typing import Any

_FAST = {
    "nRCDRD": 4,
    "nRCDRDMAC": 6,
    "nRCDRDAF": 9,
    "nRCDRDCP": 7,
    "nRCDWR": 3,
    "nRP": 3,
    "nRAS": 6,
    "nRC": 10,
    "nCL": 5,
    "nCCDS": 1,
    "nCCDL": 2,
    "nWR": 4,
    "nRTP": 2,
    "nRRD": 2,
    "nRFC": 20,
    "nREFI": 150,
}
"""A table that is quick to simulate, so that refreshes come often."""

SWEEP: tuple[dict[str, Any], ...] = (
    # AiM's table; INT8 multipliers, integers element by element.
    {
        "geometry": {"groups": 2, "banks": 2, "rows": 8, "columns": 8, "column_bits": 64},
        "unit": {
            "arithmetic": {
                "block": "mac_core",
                "activations": {"bits": 8},
                "weights": {"bits": 8},
                "max_k": 64,
            },
            "activation": {"segments": 4, "segment_log2": 12},
        },
        "buffer_words": 16,
        "elementwise": {"format": "int8", "shift": 4},
    },
    # A quick table; no table of functions, no unit element by element, wide accumulators.
    {
        "timing": _FAST,
        "geometry": {"groups": 2, "banks": 2, "rows": 5, "columns": 4, "column_bits": 64},
        "unit": {
            "arithmetic": {
                "block": "mac_core",
                "activations": {"bits": 16},
                "weights": {"bits": 16},
                "max_k": 16,
            },
            "accumulators": 4,
            "accumulator_bits": 40,
            "activation": {"segments": 0},
        },
        "buffer_words": 8,
        "elementwise": {"format": "none"},
        "refresh_postpone": 0,
        "read_depth": 1,
    },
    # BF16 throughout, with a table; few places for reads.
    {
        "timing": {**_FAST, "nCWL": 2, "nWTR": 6, "nCCDL": 3},
        "geometry": {"groups": 2, "banks": 1, "rows": 8, "columns": 4, "column_bits": 64},
        "unit": {
            "arithmetic": {
                "block": "fp_core",
                "activations": {"format": "bf16"},
                "weights": {"format": "bf16"},
                "pipeline": {"heap": 1},
                "max_k": 64,
            },
            "activation": {"segments": 4, "segment_log2": 0},
        },
        "buffer_words": 16,
        "refresh_postpone": 2,
        "read_depth": 3,
    },
    # Tables in place of multipliers: activations of several words, two passes.
    {
        "timing": _FAST,
        "geometry": {"groups": 1, "banks": 2, "rows": 8, "columns": 8, "column_bits": 64},
        "unit": {
            "arithmetic": {
                "block": "lut_core",
                "activations": {"bits": 4},
                "weights": {"encoding": "twos_complement", "max_bits": 2},
                "max_k": 512,
            },
            "activation": {"segments": 2, "segment_log2": 8, "fraction": 4},
        },
        "buffer_words": 32,
        "elementwise": {"format": "int16", "shift": 2},
    },
    # Planes on both sides, a bank a column command at a time.
    {
        "timing": {**_FAST, "nCCDL": 1},
        "geometry": {"groups": 2, "banks": 2, "rows": 6, "columns": 16, "column_bits": 64},
        "unit": {
            "arithmetic": {
                "block": "bitserial_core",
                "activations": {"encoding": "twos_complement", "max_bits": 3},
                "weights": {"encoding": "bipolar", "max_bits": 2},
                "max_k": 256,
            },
            "accumulators": 1,
            "activation": {"segments": 0},
        },
        "buffer_words": 16,
        "elementwise": {"format": "fp16"},
    },
)

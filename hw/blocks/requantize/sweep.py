"""Specifications that reach every form of requantization."""

from __future__ import annotations

from typing import Any

_FULL = {"clip": "full"}
_NONE = {"format": "none"}

SWEEP: tuple[dict[str, Any], ...] = (
    {"tile": {"m": 1, "n": 1}, "max_beats": 8},
    {"tile": {"m": 2, "n": 3}, **_FULL, "zero_point": True},
    {"tile": {"m": 2, "n": 2}, "input": "int32"},
    {
        "tile": {"m": 3, "n": 1},
        "input": "int32",
        "target": "uint8",
        **_FULL,
        "zero_point": True,
        "scale": {"format": "e8m0", "per": "tensor"},
    },
    {"tile": {"m": 1, "n": 4}, "input": "fp16", "scale": {"format": "fp32", "per": "tensor"}},
    {"tile": {"m": 1, "n": 2}, "input": "bf16", "target": "uint8", **_FULL, "scale": _NONE},
    {"tile": {"m": 1, "n": 2}, "target": "fp16", "scale": _NONE},
    {"tile": {"m": 1, "n": 3}, "target": "bf16", "scale": _NONE, "overflow": "nonsaturating"},
    {"tile": {"m": 2, "n": 2}, "target": "fp8_e4m3"},
    {
        "tile": {"m": 2, "n": 1},
        "target": "fp8_e5m2",
        "scale": {"format": "e8m0"},
        "overflow": "nonsaturating",
    },
    {"tile": {"m": 1, "n": 2}, "input": "int32", "target": "fp16", "overflow": "nonsaturating"},
    {"tile": {"m": 1, "n": 2}, "input": "int32", "target": "bf16", "scale": _NONE},
    {"tile": {"m": 1, "n": 4}, "input": "fp16", "target": "fp8_e4m3", "scale": _NONE},
    {"tile": {"m": 1, "n": 1}, "input": "bf16", "target": "fp16", "scale": {"format": "e8m0"}},
)

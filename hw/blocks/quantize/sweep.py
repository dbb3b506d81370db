"""Specifications that together reach every form of the quantizer."""

from __future__ import annotations

from typing import Any

SWEEP: tuple[dict[str, Any], ...] = (
    {"group": 32, "lanes": 8},
    {"target": "mxint8", "lanes": 8},
    {"length": "job", "group": 24, "lanes": 4, "integers": {"bits": 4, "scale": "fp32"}},
    {"group": 1, "lanes": 1, "integers": {"bits": 2}, "pipeline": {"digits": 1}},
    {"input": "fp32", "group": 6, "lanes": 3, "integers": {"bits": 16, "scale": "fp32"},
     "pipeline": {"digits": 5}},
    {"input": "bf16", "group": 10, "lanes": 5, "integers": {"bits": 3, "scale": "fp32"}},
    {"input": "fp32", "group": 8, "lanes": 8, "integers": {"bits": 6}, "pipeline": {"digits": 3}},
    {"input": "bf16", "group": 12, "lanes": 2, "length": "job", "pipeline": {"digits": 32}},
    {"input": "fp32", "target": "mxint4", "lanes": 16, "rule": "ceil"},
    {"input": "fp32", "target": "mxfp8_e4m3", "lanes": 4},
    {"target": "mxfp8_e4m3", "lanes": 2, "rule": "ceil"},
    {"target": "mxfp8_e5m2", "lanes": 32},
    {"input": "bf16", "target": "mxfp6_e2m3", "lanes": 8, "rule": "ceil"},
    {"input": "bf16", "target": "mxfp4", "lanes": 16},
    {"input": "fp32", "target": "bfp", "group": 9, "lanes": 3, "integers": {"bits": 12},
     "rule": "ceil"},
    {"target": "bfp", "group": 16, "lanes": 4, "integers": {"bits": 2, "exponent_bits": 5}},
    {"input": "bf16", "target": "bfp", "group": 8, "lanes": 2, "rule": "ceil",
     "integers": {"bits": 11, "exponent_bits": 6}},
    {"target": "nvfp4", "group": 16, "lanes": 16},
    {"input": "fp32", "target": "nvfp4", "group": 16, "lanes": 4, "pipeline": {"digits": 3}},
    {"input": "bf16", "target": "nvint4", "group": 16, "lanes": 8, "pipeline": {"digits": 1}},
)  # fmt: skip

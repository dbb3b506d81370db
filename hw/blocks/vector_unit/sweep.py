"""Specifications that reach every form of the vector unit."""

from __future__ import annotations

from typing import Any

SWEEP: tuple[dict[str, Any], ...] = (
    # The least: one lane, no buffer, no second operands.
    {"functions": ["silu"], "lanes": 1, "max_length": 3},
    # Everything.
    {"lanes": 2, "max_length": 40},
    {"functions": ["add"], "lanes": 1, "max_length": 9},
    {"functions": ["reduce"], "lanes": 4, "max_length": 50},
    {"functions": ["softmax"], "lanes": 4, "max_length": 64, "format": "fp16",
     "internal": {"significand": 18}},
    {"functions": ["layer_norm", "add"], "lanes": 2, "max_length": 37, "format": "fixed"},
    {"functions": ["rms_norm", "rotary", "silu"], "lanes": 8, "max_length": 96, "format": "fp16",
     "internal": {"significand": 20}},
    {"functions": ["gelu", "gelu_tanh", "silu"], "lanes": 4, "max_length": 256},
    {"lanes": 4, "max_length": 48, "format": "fixed", "fixed": {"bits": 12, "fraction": 7},
     "internal": {"significand": 14}},
    {"functions": ["softmax", "layer_norm", "gelu"], "lanes": 16, "max_length": 200,
     "internal": {"significand": 24}},
    {"functions": ["rotary"], "lanes": 2, "max_length": 12, "internal": {"significand": 12}},
)  # fmt: skip

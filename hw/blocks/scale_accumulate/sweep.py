"""Specifications that reach every form of scale-and-accumulate."""

from __future__ import annotations

from typing import Any

SWEEP: tuple[dict[str, Any], ...] = (
    # The least: one output, one group, no other scale.
    {
        "tile": {"m": 1, "n": 1},
        "partial_bits": 2,
        "activation_scale": {"format": "none"},
        "lanes": 1,
        "max_groups": 1,
    },
    # Zero points, a scale a row, a bias: AWQ.
    {
        "tile": {"m": 2, "n": 3},
        "partial_bits": 12,
        "zero_point_bits": 4,
        "row_sum_bits": 10,
        "bias": "fp16",
        "lanes": 2,
        "max_groups": 20,
    },
    # Powers of two on both sides, every group: MX.
    {
        "tile": {"m": 2, "n": 4},
        "partial_bits": 20,
        "weight_scale": "e8m0",
        "activation_scale": {"format": "e8m0", "per": "group"},
        "lanes": 8,
        "max_groups": 16,
    },
    # NVFP4: two scales of E4M3 a group, two tensors' FP32 factors multiplied into one.
    {
        "tile": {"m": 1, "n": 8},
        "partial_bits": 16,
        "weight_scale": "ue4m3",
        "activation_scale": {"format": "ue4m3", "per": "group"},
        "tensor_scale": True,
        "bias": "fp32",
        "lanes": 2,
        "max_groups": 16,
    },
    # Every FP32 factor at once, one lane, partial sums longer than a mantissa.
    {
        "tile": {"m": 3, "n": 2},
        "partial_bits": 28,
        "weight_scale": "bf16",
        "activation_scale": {"format": "fp32", "per": "job"},
        "tensor_scale": True,
        "bias": "fp32",
        "lanes": 1,
        "max_groups": 10,
    },
    # Bias alone; scales per group in FP16; wide scales of weights.
    {
        "tile": {"m": 3, "n": 3},
        "partial_bits": 26,
        "weight_scale": "fp32",
        "activation_scale": {"format": "none"},
        "bias": "fp32",
        "lanes": 3,
        "max_groups": 10,
    },
    {
        "tile": {"m": 2, "n": 2},
        "partial_bits": 18,
        "zero_point_bits": 2,
        "row_sum_bits": 12,
        "activation_scale": {"format": "fp16", "per": "group"},
        "lanes": 4,
        "max_groups": 9,
    },
    # Partial sums of floating activations, alone and with everything that can be beside them.
    {
        "tile": {"m": 2, "n": 3},
        "partial_bits": 20,
        "partial_exponent_bits": 7,
        "activation_scale": {"format": "none"},
        "lanes": 2,
        "max_groups": 12,
    },
    {
        "tile": {"m": 2, "n": 2},
        "partial_bits": 14,
        "partial_exponent_bits": 9,
        "weight_scale": "bf16",
        "activation_scale": {"format": "e8m0", "per": "group"},
        "tensor_scale": True,
        "bias": "fp32",
        "lanes": 4,
        "max_groups": 9,
    },
    # The widest product, which takes a stage more.
    {
        "tile": {"m": 2, "n": 2},
        "partial_bits": 26,
        "activation_scale": {"format": "fp32", "per": "group"},
        "tensor_scale": True,
        "lanes": 2,
        "max_groups": 9,
    },
)

"""Specifications that together reach every form of the core for block-scaled operands."""

from __future__ import annotations

from typing import Any


def _shape(m: int, n: int, k: int) -> dict[str, int]:
    return {"m": m, "n": n, "k": k}


def _bfp(block: int, mantissa: int, exponent: int) -> dict[str, Any]:
    return {
        "format": "bfp",
        "block": block,
        "mantissa_bits": mantissa,
        "exponent_bits": exponent,
    }


def _both(form: str | dict[str, Any]) -> dict[str, Any]:
    operand = {"format": form} if isinstance(form, str) else form
    return {"activations": operand, "weights": operand}


def _fp32(**more: Any) -> dict[str, Any]:
    return {"accumulator": {"kind": "fp32", **more}}


def _running(**more: Any) -> dict[str, Any]:
    return {"accumulator": {"kind": "running", **more}}


def _fixed(low: int, bits: int) -> dict[str, Any]:
    return {"accumulator": {"kind": "fixed", "low": low, "bits": bits}}


SWEEP: tuple[dict[str, Any], ...] = (
    {"tile": _shape(1, 1, 8), **_both(_bfp(8, 2, 5)), "max_k": 8, **_running(guard=0)},
    {"tile": _shape(1, 1, 32), **_both("mxint8"), **_fp32(), "max_k": 512},
    {"tile": _shape(2, 2, 32), **_both("mxint4"), **_running(), "pipeline": {"heap": 1}},
    {
        "tile": _shape(1, 1, 32),
        **_both("mxfp8_e4m3"),
        **_fp32(),
        "pipeline": {"front": 1, "heap": 2},
    },
    {
        "tile": _shape(1, 1, 32),
        **_both("mxfp8_e5m2"),
        **_running(result="fp32", guard=-24),
        "pipeline": {"front": 0, "heap": 1},
    },
    {"tile": _shape(2, 2, 32), **_both("mxfp4"), **_running(guard=5), "max_k": 96},
    {
        "tile": _shape(1, 1, 32),
        "activations": {"format": "mxfp8_e4m3"},
        "weights": {"format": "mxfp4"},
        **_running(result="fp32"),
        "pipeline": {"front": 1, "heap": 1, "placement": "area"},
    },
    {
        "tile": _shape(1, 1, 32),
        "activations": {"format": "mxint8"},
        "weights": {"format": "mxfp6_e3m2"},
        **_fixed(-60, 128),
    },
    {
        "tile": _shape(1, 1, 32),
        "activations": {"format": "mxfp6_e2m3"},
        "weights": {"format": "mxint6"},
        **_fp32(),
        "pipeline": {"front": 1, "heap": 0},
    },
    {"tile": _shape(2, 3, 16), **_both("nvfp4"), **_fp32(), "max_k": 160},
    {
        "tile": _shape(2, 2, 16),
        **_both("nvint4"),
        **_fixed(-18, 96),
        "pipeline": {"front": 1, "heap": 2, "placement": "area"},
        "max_k": 1024,
    },
    {"tile": _shape(1, 1, 64), **_both(_bfp(64, 4, 8)), **_running(result="fp32")},
    {"tile": _shape(1, 1, 10), **_both(_bfp(10, 12, 6)), **_fp32(), "pipeline": {"heap": 2}},
    {"tile": _shape(2, 3, 9), **_both(_bfp(9, 5, 5)), **_fixed(-40, 75), "max_k": 90},
    {"tile": _shape(3, 2, 8), **_both(_bfp(8, 3, 8)), **_fp32(), "max_k": 80},
)

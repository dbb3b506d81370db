"""Number formats: what a code means, as frozen data with exact numpy functions.

Golden models, specifications and the driver share them; nothing here knows of hardware. Scalars
are in :mod:`hw.formats.scalar`, block-scaled formats in :mod:`hw.formats.block`. The tables
``FLOAT_FORMATS`` and ``BLOCK_FORMATS`` find a format by its name.
"""

from __future__ import annotations

from hw.formats.block import (
    BFP12,
    BFP16,
    BLOCK_FORMATS,
    MXFP4,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8_E4M3,
    MXFP8_E5M2,
    MXINT4,
    MXINT6,
    MXINT8,
    NVFP4,
    NVINT4,
    BlockFormat,
    Quantized,
    ScaleRule,
    bfp,
)
from hw.formats.scalar import (
    BF16,
    E8M0,
    FLOAT_FORMATS,
    FP4_E2M1,
    FP6_E2M3,
    FP6_E3M2,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FP32,
    UE4M3,
    Fields,
    FloatFormat,
    IntegerFormat,
    Overflow,
    Specials,
    exponent_format,
)

__all__ = [
    "BF16",
    "BFP12",
    "BFP16",
    "BLOCK_FORMATS",
    "E8M0",
    "FLOAT_FORMATS",
    "FP4_E2M1",
    "FP6_E2M3",
    "FP6_E3M2",
    "FP8_E4M3",
    "FP8_E5M2",
    "FP16",
    "FP32",
    "MXFP4",
    "MXFP6_E2M3",
    "MXFP6_E3M2",
    "MXFP8_E4M3",
    "MXFP8_E5M2",
    "MXINT4",
    "MXINT6",
    "MXINT8",
    "NVFP4",
    "NVINT4",
    "UE4M3",
    "BlockFormat",
    "Fields",
    "FloatFormat",
    "IntegerFormat",
    "Overflow",
    "Quantized",
    "ScaleRule",
    "Specials",
    "bfp",
    "exponent_format",
]

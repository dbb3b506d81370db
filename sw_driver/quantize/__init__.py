"""Quantizers: integers, block formats and floats, caches, and treatments before them.

::

    from sw_driver.quantize import quantize_blocks, quantize_symmetric

    w4 = quantize_symmetric(w, 4, 128, clip="mse")  # codes, scales; or "channel", "tensor"
    mx = quantize_blocks(w, BLOCK_FORMATS["mxfp4"])
    print(w4.dequantized(), mx.dequantized())

Integers are in :mod:`sw_driver.quantize.integers`, the formats of ``hw.formats`` in
:mod:`sw_driver.quantize.blocks`, KV caches in :mod:`sw_driver.quantize.cache`, rotations and orders
in :mod:`sw_driver.quantize.treatments`. ``python -m sw_driver.quantize.speed`` measures all.
"""

from __future__ import annotations

from sw_driver.quantize.blocks import QuantizedBlocks, encode, quantize_blocks
from sw_driver.quantize.clipping import Scheme
from sw_driver.quantize.integers import (
    SCHEMES,
    Clip,
    Group,
    QuantizedActivations,
    QuantizedWeights,
    quantize_activations,
    quantize_asymmetric,
    quantize_bipolar,
    quantize_symmetric,
    quantize_ternary,
    reinterpret,
)

__all__ = [
    "SCHEMES",
    "Clip",
    "Group",
    "QuantizedActivations",
    "QuantizedBlocks",
    "QuantizedWeights",
    "Scheme",
    "encode",
    "quantize_activations",
    "quantize_asymmetric",
    "quantize_bipolar",
    "quantize_blocks",
    "quantize_symmetric",
    "quantize_ternary",
    "reinterpret",
]

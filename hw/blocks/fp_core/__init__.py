"""Floating-point dot products."""

from hw.block import Block, Design
from hw.blocks.fp_core import golden, timing
from hw.blocks.fp_core.spec import FpCoreSpec
from hw.blocks.fp_core.sweep import SWEEP


def _build(spec: FpCoreSpec) -> Design:
    from hw.blocks.fp_core import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="fp_core",
    kind="gemm",
    summary="FP16, BF16 and FP8 dot products, and integer weights dequantized to FP16",
    source="IEEE 754-2019; alignment in a window as tensor cores do (Fasi et al., 2021)",
    spec=FpCoreSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

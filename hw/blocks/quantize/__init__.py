"""Quantizer from floating point to integers and block formats."""

from hw.block import Block, Design
from hw.blocks.quantize import golden, timing
from hw.blocks.quantize.spec import QuantizeSpec
from hw.blocks.quantize.sweep import SWEEP


def _build(spec: QuantizeSpec) -> Design:
    from hw.blocks.quantize import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="quantize",
    kind="support",
    summary="floating-point rows to integers, BFP, MX or NV codes with one scale a group",
    source="OCP Microscaling Formats 1.0; INT against FP block formats, arXiv 2510.25602",
    spec=QuantizeSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

"""Requantization: wide results into the next operator's narrow format."""

from hw.block import Block, Design
from hw.blocks.requantize import golden, timing
from hw.blocks.requantize.spec import RequantizeSpec
from hw.blocks.requantize.sweep import SWEEP


def _build(spec: RequantizeSpec) -> Design:
    from hw.blocks.requantize import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="requantize",
    kind="support",
    summary="FP32 or INT32 results, scaled, into INT8 or a narrower float, rounded once",
    source="OCP 8-bit Floating Point 1.0, conversion; symmetric clip: arXiv 2510.25602",
    spec=RequantizeSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

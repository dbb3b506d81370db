"""Group scales in hardware: integer partial sums into FP32 results."""

from hw.block import Block, Design
from hw.blocks.scale_accumulate import golden, timing
from hw.blocks.scale_accumulate.spec import ScaleAccumulateSpec
from hw.blocks.scale_accumulate.sweep import SWEEP


def _build(spec: ScaleAccumulateSpec) -> Design:
    from hw.blocks.scale_accumulate import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="scale_accumulate",
    kind="support",
    summary="integer partial sums of groups along K, times their scales, into FP32",
    source="group scales as in AWQ, arXiv 2306.00978, section 2; operations of IEEE 754-2019",
    spec=ScaleAccumulateSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

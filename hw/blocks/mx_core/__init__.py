"""Dot products of block-scaled operands."""

from hw.block import Block, Design
from hw.blocks.mx_core import golden, timing
from hw.blocks.mx_core.spec import MxCoreSpec
from hw.blocks.mx_core.sweep import SWEEP


def _build(spec: MxCoreSpec) -> Design:
    from hw.blocks.mx_core import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="mx_core",
    kind="gemm",
    summary="dot products of block-scaled operands, exact within a block (MX, NV, BFP)",
    source="OCP Microscaling Formats 1.0; arXiv 2510.25602; arXiv 2403.20137",
    spec=MxCoreSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

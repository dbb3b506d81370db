"""Bit-serial core."""

from hw.block import Block, Design
from hw.blocks.bitserial_core import golden, timing
from hw.blocks.bitserial_core.spec import BitserialCoreSpec
from hw.blocks.bitserial_core.sweep import SWEEP


def _build(spec: BitserialCoreSpec) -> Design:
    from hw.blocks.bitserial_core import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="bitserial_core",
    kind="gemm",
    summary="population counts of products of one-bit planes of both operands",
    source="FlexQ, arXiv 2508.04405; bipolar-INT, arXiv 2409.17870",
    spec=BitserialCoreSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

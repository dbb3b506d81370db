"""Table array of weight-subset sums."""

from hw.block import Block, Design
from hw.blocks.sram_lut_gemv import golden, timing
from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
from hw.blocks.sram_lut_gemv.sweep import SWEEP


def _build(spec: SramLutGemvSpec) -> Design:
    from hw.blocks.sram_lut_gemv import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="sram_lut_gemv",
    kind="gemm",
    summary="tables of weight-subset sums in an SRAM array, read by activation planes of a batch",
    source="SAIL, arXiv 2509.25853",
    spec=SramLutGemvSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

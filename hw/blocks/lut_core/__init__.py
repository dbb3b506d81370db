"""LUT tensor core."""

from hw.block import Block, Design
from hw.blocks.lut_core import golden, timing
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.blocks.lut_core.sweep import SWEEP


def _build(spec: LutCoreSpec) -> Design:
    from hw.blocks.lut_core import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="lut_core",
    kind="gemm",
    summary="sums of activations in shared tables, looked up by weight bits",
    source="LUT Tensor Core, arXiv 2408.06003; T-MAC, arXiv 2407.00088",
    spec=LutCoreSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

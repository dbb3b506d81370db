"""Table generator of the LUT tensor core, on its own."""

from hw.block import Block, Design
from hw.blocks.lut_tables import golden, timing
from hw.blocks.lut_tables.spec import LutTablesSpec


def _build(spec: LutTablesSpec) -> Design:
    from hw.blocks.lut_tables import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="lut_tables",
    kind="support",
    summary="tables of activation sums, to be fused behind another operator",
    source="LUT Tensor Core, arXiv 2408.06003, section 3.1 (precompute as an operator)",
    spec=LutTablesSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=(),
)

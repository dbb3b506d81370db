"""Vector unit: softmax, norms, activation functions and element-wise work beside a GEMM core."""

from hw.block import Block, Design
from hw.blocks.vector_unit import golden, timing
from hw.blocks.vector_unit.spec import VectorUnitSpec
from hw.blocks.vector_unit.sweep import SWEEP


def _build(spec: VectorUnitSpec) -> Design:
    from hw.blocks.vector_unit import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="vector_unit",
    kind="support",
    summary="softmax, norms, GELU, SiLU, rotary embedding and sums of rows, by multiply-add only",
    source="PIM-GPT's companion ASIC, arXiv 2310.09385, section III-C",
    spec=VectorUnitSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

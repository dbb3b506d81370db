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
    sweep=(
        {"tile": {"m": 1, "k": 1}, "table": {"group": 1}},
        {"tile": {"m": 2, "k": 7}, "table": {"group": 3, "entries": "int8"}},
        {"tile": {"m": 3, "k": 8}, "table": {"group": 4, "form": "symmetric"}},
        {
            "tile": {"m": 1, "k": 11},
            "encoding": "bipolar",
            "table": {"group": 6, "entries": "int8"},
            "activations": {"bits": 16, "signed": False},
        },
        {"tile": {"m": 2, "k": 5}, "encoding": "ternary", "table": {"group": 3}},
    ),
)

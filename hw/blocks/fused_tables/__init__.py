"""Tables of the LUT tensor core straight from floating-point rows."""

from typing import Any

from hw.block import Block, Design
from hw.blocks.fused_tables import golden, timing
from hw.blocks.fused_tables.spec import FusedTablesSpec


def _build(spec: FusedTablesSpec) -> Design:
    from hw.blocks.fused_tables import rtl

    return rtl.build(spec)


def _form(m: int, k: int, bits: int, **table: Any) -> dict[str, Any]:
    return {"tile": {"m": m, "k": k}, "activations": {"bits": bits}, "table": table}


SWEEP: tuple[dict[str, Any], ...] = (
    _form(2, 4, 8, group=2),
    {**_form(1, 3, 4, group=3, entries="int8"), "input": "bf16", "multiplier": "bf16"},
    {**_form(1, 1, 8, group=1), "gain": False},
    {**_form(2, 3, 16, group=2, form="symmetric"), "input": "fp32"},
    {**_form(3, 5, 2, group=3), "encoding": "ternary", "input": "bf16", "multiplier": "fp16"},
    {
        **_form(1, 6, 6, group=4, entries="int8"),
        "encoding": "bipolar",
        "input": "fp32",
        "gain": False,
    },
)
"""Every input, multiplier, kind of table and an odd shape of each."""

BLOCK = Block(
    name="fused_tables",
    kind="support",
    summary="normalise, quantize and table generation in one, for a lut_core with tables at a port",
    source="LUT Tensor Core, arXiv 2408.06003, section 3.1 (precompute fused with normalization)",
    spec=FusedTablesSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

"""Multiplier array."""

from hw.block import Block, Design
from hw.blocks.mac_core import golden, timing
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.blocks.mac_core.sweep import SWEEP


def _build(spec: MacCoreSpec) -> Design:
    from hw.blocks.mac_core import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="mac_core",
    kind="gemm",
    summary="Booth multipliers, one carry-save heap and one carry-propagate addition an output",
    source="the array that LUT Tensor Core, FlexQ and others compare with",
    spec=MacCoreSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

"""The MAC unit beside a DRAM bank."""

from hw.block import Block, Design
from hw.blocks.pim_bank import golden, timing
from hw.blocks.pim_bank.spec import PimBankSpec
from hw.blocks.pim_bank.sweep import SWEEP


def _build(spec: PimBankSpec) -> Design:
    from hw.blocks.pim_bank import rtl

    return rtl.build(spec)


BLOCK = Block(
    name="pim_bank",
    kind="support",
    summary="a DRAM bank's MAC unit: a core fed by columns and a broadcast, accumulators",
    source="bank units of GDDR6 PIM as in PIM-GPT, arXiv 2310.09385; any core inside",
    spec=PimBankSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

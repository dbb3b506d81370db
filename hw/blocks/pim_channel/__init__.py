"""A DRAM channel with a MAC unit beside every bank."""

from hw.block import Block, Design
from hw.blocks.pim_channel import golden, timing
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.blocks.pim_channel.sweep import SWEEP


def _build(spec: PimChannelSpec) -> Design:
    from hw.blocks.pim_channel import rtl

    return rtl.build(spec)


def _bench(spec: PimChannelSpec) -> Design:
    from hw.blocks.pim_channel import bench

    return bench.build(spec)


BLOCK = Block(
    name="pim_channel",
    kind="support",
    summary="a DRAM channel of such banks: order decoder, sequencer, refresh, global buffer",
    source="PIM-GPT, arXiv 2310.09385; timing of SK hynix AiM as the open AiM simulator has it",
    spec=PimChannelSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
    bench=_bench,
)

"""What is simulated: the emitted Verilog, its streams, and the waivers of its lint."""

from __future__ import annotations

from collections.abc import Sequence

from hw.block import block
from hw.spec import BlockSpec
from hw.streams import Stream
from rtl_gen import build
from rtl_gen.waivers import WAIVERS


def streams(spec: BlockSpec) -> tuple[Stream, ...]:
    """Every port of a specification's block, in the order of the manifest."""
    return tuple(block(spec.block).golden.streams(spec))


def design_verilog(spec: BlockSpec) -> str:
    """The emitted Verilog of a specification, elaborated at most once per version of the sources.

    Raises:
        ToolError: elaboration failed.
    """
    return build.verilog(spec)


def waivers() -> str:
    """Text of the Verilator control file that every build ships, for any file."""
    return WAIVERS


def names(items: Sequence[Stream], direction: str) -> tuple[str, ...]:
    """Names of the streams of one direction."""
    return tuple(item.name for item in items if item.direction == direction)

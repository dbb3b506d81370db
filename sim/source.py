"""The ports of what is simulated, and what stands around it."""

from __future__ import annotations

from collections.abc import Sequence

from hw.block import block
from hw.spec import BlockSpec
from hw.streams import Stream


def streams(spec: BlockSpec) -> tuple[Stream, ...]:
    """Every stream of a specification's block, in the order of the manifest."""
    return tuple(block(spec.block).golden.streams(spec))


def observed(spec: BlockSpec) -> tuple[Stream, ...]:
    """Streams that the bench around a block shows besides: always taken, of no known length."""
    return tuple(getattr(block(spec.block).golden, "observed", lambda _: ())(spec))


def testbench(spec: BlockSpec, verilog: str) -> tuple[str, str]:
    """The text that is simulated, and its top module: the block, with its bench if it has one."""
    bench = block(spec.block).bench
    if bench is None:
        return verilog, top(spec)
    from rtl_gen.emit import design_verilog

    return f"{verilog}\n{design_verilog(bench(spec), top(spec))}", top(spec)


def top(spec: BlockSpec) -> str:
    """The top module of what is simulated."""
    return spec.name if block(spec.block).bench is None else f"{spec.name}_bench"


def names(items: Sequence[Stream], direction: str) -> tuple[str, ...]:
    """Names of the streams of one direction."""
    return tuple(item.name for item in items if item.direction == direction)

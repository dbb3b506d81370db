"""The ports of what is simulated."""

from __future__ import annotations

from collections.abc import Sequence

from hw.block import block
from hw.spec import BlockSpec
from hw.streams import Stream


def streams(spec: BlockSpec) -> tuple[Stream, ...]:
    """Every port of a specification's block, in the order of the manifest."""
    return tuple(block(spec.block).golden.streams(spec))


def names(items: Sequence[Stream], direction: str) -> tuple[str, ...]:
    """Names of the streams of one direction."""
    return tuple(item.name for item in items if item.direction == direction)

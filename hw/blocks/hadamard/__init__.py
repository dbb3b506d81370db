"""Hadamard rotation of integers."""

from typing import Any

from hw.block import Block, Design
from hw.blocks.hadamard import golden, timing
from hw.blocks.hadamard.spec import HadamardSpec


def _build(spec: HadamardSpec) -> Design:
    from hw.blocks.hadamard import rtl

    return rtl.build(spec)


SWEEP: tuple[dict[str, Any], ...] = (
    {"size": 16},
    {"size": 4, "bits": 3, "signs": "job", "shift": 1, "registers": 1},
    {"size": 2, "bits": 2, "shift": 2},
    {"size": 2, "bits": 5, "signs": "job"},
    {"size": 32, "bits": 8, "signs": "job", "shift": 3, "registers": 2},
    {"size": 8, "bits": 16, "shift": 5, "registers": 2},
    {"size": 128, "bits": 4, "registers": 6},
    {"size": 64, "bits": 6, "signs": "job", "shift": 6, "registers": 1},
)
"""Every size but 128 twice, with and without signs, shifts and registers."""

BLOCK = Block(
    name="hadamard",
    kind="support",
    summary="Hadamard rotation of integers by butterflies, random signs by job",
    source="NVINT4 with a rotation of the block, arXiv 2510.25602; J. J. Sylvester, 1867",
    spec=HadamardSpec,
    build=_build,
    golden=golden,
    timing=timing,
    sweep=SWEEP,
)

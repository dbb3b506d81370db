"""What a block is, and how blocks are found.

A block is one folder ``hw/blocks/<name>/`` whose ``__init__`` exports one ``BLOCK``. Discovery
walks the folder; adding a block edits no other file. ``spec``, ``golden`` and ``timing`` are plain
Python and numpy; only :attr:`Block.build` imports Amaranth, and only when it is called.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from hw.errors import Problem, SpecError
from hw.spec import BlockSpec
from hw.streams import Stream

if TYPE_CHECKING:
    import numpy as np

    Beats = Mapping[str, Mapping[str, "np.ndarray"]]


class Golden(Protocol):
    """The reference of a block: exact integer mathematics in numpy, no trick of the RTL.

    ``work`` is plain data of the block's own kind: one unit that a bench can try and a driver can
    ask for (for a GEMM core one job with its operands).
    """

    def streams(self, spec: Any) -> tuple[Stream, ...]:
        """Every port of the block."""

    def random_work(self, spec: Any, rng: np.random.Generator, *, size: str) -> Any:
        """Corner-heavy random work; ``size`` is ``"minimum"``, ``"small"`` or ``"large"``."""

    def beats(self, spec: Any, work: Any) -> Beats:
        """Per input stream and field the values of every beat, ``(beats, *shape)``."""

    def expected(self, spec: Any, work: Any) -> Beats:
        """Per output stream and field the values of every beat."""

    def explain(self, spec: Any, work: Any, stream: str, field: str, index: tuple[int, ...]) -> str:
        """The inputs of one element of the expected output, for a failure message."""

    def coverage(self, spec: Any, work: Any) -> Iterator[str]:
        """Names of the functional coverage points that this work hits."""

    def coverage_points(self, spec: Any) -> tuple[str, ...]:
        """Every point that a full verification has to hit."""


class Timing(Protocol):
    """Cycles in closed form, equal to the RTL's."""

    def cycles(self, spec: Any, works: Sequence[Any]) -> int:
        """Cycles from the first input transfer to the last output transfer, both counted, of
        works offered back to back on streams that never stall."""


@dataclass(frozen=True)
class Design:
    """What a build gives to emission: components to elaborate and Verilog that is there already.

    Attributes:
        top: the component that becomes the top module.
        parts: components that ``top`` instantiates by name, elaborated once each.
        library: Verilog source texts of the leaf modules that are instantiated by name.
    """

    top: Any
    parts: Mapping[str, Any] = field(default_factory=dict)
    library: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Block:
    """One generator: specification, hardware, reference and cycles.

    Attributes:
        kind: ``gemm`` for a core that keeps the contract of ``hw.gemm``, else ``support``.
        sweep: specifications (without ``block`` and ``name``) that together reach every form of the
            generator: odd shapes, the least, a large one, every encoding and option.
        bench: what stands around the block in simulation, where it has ports beside its streams
            (``golden.wires``): a design that instantiates the block by its name and has its
            streams, and those of ``golden.observed``, which show what happens at the other ports
            and are never held back.
    """

    name: str
    kind: str
    summary: str
    source: str
    spec: type[BlockSpec]
    build: Callable[[Any], Design]
    golden: Golden
    timing: Timing
    sweep: Sequence[Mapping[str, Any]] = ()
    bench: Callable[[Any], Design] | None = None


@cache
def blocks() -> Mapping[str, Block]:
    """Every block by name, in alphabetical order."""
    package = importlib.import_module("hw.blocks")
    found = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda item: item.name):
        found[module.name] = importlib.import_module(f"hw.blocks.{module.name}").BLOCK
    return found


def block(name: str) -> Block:
    """The block of that name.

    Raises:
        SpecError: there is none; the message lists those that are.
    """
    if name not in _names():
        raise SpecError([Problem(("block",), f"must be one of {', '.join(_names())}", name)])
    return importlib.import_module(f"hw.blocks.{name}").BLOCK


@cache
def _names() -> tuple[str, ...]:
    """Names of the blocks, in alphabetical order; none of them is imported for that."""
    package = importlib.import_module("hw.blocks")
    return tuple(sorted(item.name for item in pkgutil.iter_modules(package.__path__)))


def spec_from_dict(data: Mapping[str, Any]) -> BlockSpec:
    """A specification from plain data; ``data["block"]`` says which block's.

    Raises:
        SpecError: with every broken rule.
    """
    if not isinstance(data, Mapping):
        raise SpecError([Problem((), "must be a mapping of fields", data)])
    if "block" not in data:
        raise SpecError([Problem(("block",), "is required")])
    return block(data["block"]).spec(**data)

"""Reference of the table generator: entries and sums as ``hw.blocks.lut_core.tables`` defines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hw.blocks.lut_core import golden as core
from hw.blocks.lut_tables.spec import LutTablesSpec
from hw.integers import random_operand
from hw.lazy import np
from hw.streams import Stream

LENGTHS = {"minimum": (1, 1), "small": (2, 8), "large": (32, 64)}


@dataclass(frozen=True, kw_only=True)
class TableWork:
    """Beats of activations ``a`` ``(beats, M, K)`` and the shift of their entries ``(beats,)``."""

    a: np.ndarray
    shift: np.ndarray


def streams(spec: LutTablesSpec) -> tuple[Stream, ...]:
    """``i_a`` and ``o``."""
    return core.activation_stream(spec.core), core.table_stream(spec.core, "o", "out")


def random_work(spec: LutTablesSpec, rng: np.random.Generator, *, size: str = "small") -> TableWork:
    """Corner-heavy random beats."""
    if size not in LENGTHS:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    low, high = LENGTHS[size]
    beats = int(rng.integers(low, high + 1))
    a = random_operand(
        rng, spec.activations.low, spec.activations.high, (beats, spec.tile.m, spec.tile.k)
    )
    return TableWork(a=a, shift=rng.integers(0, spec.core.exact_entry_bits, size=beats))


def beats(spec: LutTablesSpec, work: TableWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats."""
    values = {"a": work.a}
    if spec.core.quantized:
        values["entry_shift"] = work.shift
    return {"i_a": values}


def expected(spec: LutTablesSpec, work: TableWork) -> dict[str, dict[str, np.ndarray]]:
    """Output beats."""
    shift = work.shift if spec.core.quantized else np.zeros(len(work.a), dtype=np.int64)
    return {"o": core.table_beats(spec.core, work.a, shift)}


def explain(
    spec: LutTablesSpec, work: TableWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The activations behind an entry."""
    beat, row = index[0], index[1]
    return f"shift={int(work.shift[beat])} a[{row},:]={work.a[beat, row].tolist()}"


def coverage(spec: LutTablesSpec, work: TableWork) -> Iterator[str]:
    """Coverage points of one work."""
    if work.a.min() == spec.activations.low:
        yield "a=lowest"
    if work.a.max() == spec.activations.high:
        yield "a=highest"
    if spec.core.quantized:
        for shift in np.unique(work.shift):
            yield f"entry_shift={int(shift)}"


def coverage_points(spec: LutTablesSpec) -> tuple[str, ...]:
    """Every coverage point."""
    shifts = range(spec.core.exact_entry_bits) if spec.core.quantized else ()
    return ("a=lowest", "a=highest", *(f"entry_shift={shift}" for shift in shifts))

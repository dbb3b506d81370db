"""Beats on their way into a model and out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hw.streams import Stream


@dataclass(frozen=True)
class Packed:
    """Beats of an input as bytes.

    Attributes:
        rows: ``uint8`` ``(rows, nbytes)`` as :meth:`hw.streams.Stream.pack` gives them.
        index: ``int32``, the row of every beat, where beats repeat; None for the rows in order.
    """

    rows: np.ndarray
    index: np.ndarray | None = None

    @property
    def beats(self) -> int:
        return len(self.rows if self.index is None else self.index)

    def dense(self) -> np.ndarray:
        """``(beats, nbytes)``."""
        return self.rows if self.index is None else self.rows[self.index]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run gave.

    Attributes:
        streams: ports of the block.
        status: one of the module's constants; ``failure`` says it in words.
        failure: None if everything expected came and every stream rule held.
        violation: cycle of the failure, or None.
        failing_stream: the stream that broke a rule, or None.
        packed: per output stream ``uint8`` ``(beats, nbytes)``.
        output_cycles: per output stream the cycle of every transfer.
        accepted: beats transferred, by input stream.
        input_cycles: per input stream the cycle of every transfer.
        total_cycles: cycles simulated after reset.
        first_input, last_output: cycles of these transfers, or None if there were none.
        before_reset: what happened before a reset in mid-job, if one was asked for.
    """

    streams: tuple[Stream, ...]
    status: int
    failure: str | None
    violation: int | None
    failing_stream: str | None
    packed: Mapping[str, np.ndarray]
    output_cycles: Mapping[str, np.ndarray]
    accepted: Mapping[str, int]
    total_cycles: int
    first_input: int | None
    last_output: int | None
    before_reset: Run | None = None
    input_cycles: Mapping[str, np.ndarray] = field(default_factory=dict)
    _unpacked: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    @cached_property
    def cycles(self) -> int:
        """Cycles from the first input transfer to the last output transfer, both counted."""
        if self.first_input is None or self.last_output is None:
            return 0
        return self.last_output - self.first_input + 1

    @property
    def outputs(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Per output stream and field ``int64`` ``(beats, *shape)``."""
        if not self._unpacked:
            for item in self.streams:
                if item.direction == "out":
                    self._unpacked[item.name] = item.unpack(self.packed[item.name])
        return self._unpacked


def pack(item: Stream, values: Mapping[str, Any] | np.ndarray | Packed | None) -> Packed:
    """Beats of one input stream as bytes; None is no beat."""
    if values is None:
        return Packed(np.zeros((0, item.nbytes), dtype=np.uint8))
    if isinstance(values, Mapping):
        return Packed(item.pack(values))
    packed = values if isinstance(values, Packed) else Packed(np.asarray(values))
    rows = packed.rows
    if rows.ndim != 2 or rows.shape[1] != item.nbytes or rows.dtype != np.uint8:
        raise ValueError(
            f"{item.name}: packed beats must be uint8 (beats, {item.nbytes}), "
            f"got {rows.dtype} {rows.shape}"
        )
    return packed

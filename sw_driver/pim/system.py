"""A PIM system: channels whose banks multiply, and vector units for everything else.

The description is a YAML file like a block's, read by the same reader, so that every error comes
with its line. The channels are those of ``pim_channel``, the vector units those of ``vector_unit``:
their own rules hold, under the names ``channel`` and ``vector_unit``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hw.block import spec_from_dict
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.blocks.vector_unit import timing as vector_timing
from hw.blocks.vector_unit.spec import SLOTS, Function, VectorUnitSpec
from hw.errors import Problem, SpecError
from hw.spec import BlockSpec
from rtl_gen.errors import InputError
from rtl_gen.specfile import load_as

SYSTEMS = Path(__file__).resolve().parent.parent / "systems"

VECTOR_BITS = 16
"""Width of an element outside the banks: vectors, biases, parameters of norms."""

NEEDED: tuple[Function, ...] = ("softmax", "layer_norm", "add", "reduce")
"""Functions of every model; an activation comes with them."""


class PimSystem(BlockSpec):
    """Channels, vector units and what lies between them."""

    block: Literal["pim_system"] = "pim_system"
    clock_mhz: float = Field(1000.0, gt=0, le=10_000, description="clock of the vector units, MHz")
    channels: int = Field(8, ge=1, le=64, description="DRAM channels, each with its own orders")
    link_cycles: int = Field(
        16,
        ge=0,
        le=65536,
        description="command clocks from a channel's port to a vector unit, and back",
    )
    channel: dict[str, Any] = Field(
        default_factory=dict, description="fields of pim_channel but block, name and clock_mhz"
    )
    vector_units: int = Field(2, ge=1, le=64, description="vector units; rows are shared out")
    vector_unit: dict[str, Any] = Field(
        default_factory=dict, description="fields of vector_unit but block, name and clock_mhz"
    )

    @cached_property
    def dram(self) -> PimChannelSpec:
        """One channel."""
        given, timing = dict(self.channel), self.channel.get("timing", {})
        tck = timing.get("tck_ns", 0.5) if isinstance(timing, dict) else None
        if isinstance(tck, (int, float)) and tck > 0:
            given["clock_mhz"] = 1000 / tck
        spec = spec_from_dict({**given, "block": "pim_channel", "name": f"{self.name}_channel"})
        assert isinstance(spec, PimChannelSpec)  # noqa: S101  (the block's own class)
        return spec

    @cached_property
    def vector(self) -> VectorUnitSpec:
        """One vector unit."""
        given = {**self.vector_unit, "clock_mhz": self.clock_mhz}
        spec = spec_from_dict({**given, "block": "vector_unit", "name": f"{self.name}_vector"})
        assert isinstance(spec, VectorUnitSpec)  # noqa: S101  (the block's own class)
        return spec

    @property
    def banks(self) -> int:
        """Banks of a channel."""
        return self.dram.geometry.total_banks

    @property
    def step(self) -> int:
        """Elements of K in a column: a K step of a bank's unit."""
        return self.dram.bank.core.tile.k

    @property
    def step_words(self) -> int:
        """Words of the global buffer that a step's activations take."""
        return self.dram.bank.operand_words

    @property
    def most_steps(self) -> int:
        """Steps of a dot product that the buffer holds, and a unit takes."""
        most = self.dram.bank.core.max_k_steps
        return min(self.dram.buffer_words // self.step_words, most)

    @property
    def vector_column(self) -> int:
        """16-bit elements of a column."""
        return self.dram.geometry.column_bits // VECTOR_BITS

    @property
    def weight_bits(self) -> int:
        """Bits that a weight takes in a column."""
        return self.dram.geometry.column_bits // self.step

    @property
    def activation_bits(self) -> int:
        """Bits that an activation takes in the buffer."""
        return self.step_words * self.dram.geometry.column_bits // self.step

    @property
    def capacity(self) -> int:
        """Bytes of all channels."""
        geometry = self.dram.geometry
        bits = geometry.bank_columns * geometry.column_bits * geometry.total_banks
        return self.channels * bits // 8

    @property
    def command_mhz(self) -> float:
        """The channels' command clock."""
        return 1000 / self.dram.timing.tck_ns

    def rules(self) -> Iterator[Problem]:
        yield from super().rules()
        broken = [*self._inner("channel", "pim_channel"), *self._inner("vector_unit")]
        yield from broken
        if broken:
            return
        if len(self.dram.bank.passes) > 1:
            rule = "must take a K step in one pass: a column then holds whole weights"
            which = f"{self.dram.bank.core.block} with {len(self.dram.bank.passes)}"
            yield Problem(("channel", "unit", "arithmetic"), rule, which)
        missing = [name for name in NEEDED if name not in self.vector.functions]
        if missing:
            rule = f"must have {', '.join(missing)} for a decode step"
            yield Problem(("vector_unit", "functions"), rule, list(self.vector.functions))
        port = getattr(self.vector.port, "bits", VECTOR_BITS)
        if port != VECTOR_BITS:
            rule = f"must have elements of {VECTOR_BITS} bits, as columns have them"
            yield Problem(("vector_unit", "fixed", "bits"), rule, port)

    def _inner(self, field: str, name: str | None = None) -> Iterator[Problem]:
        """What a part breaks of its own rules, and of what it may say."""
        given = getattr(self, field)
        own = [key for key in ("block", "name", "clock_mhz") if key in given]
        for key in own:
            rule = "is the system's own"
            if key == "clock_mhz":
                rule = (
                    "follows from channel.timing.tck_ns"
                    if field == "channel"
                    else "is the system's own: clock_mhz of the root"
                )
            yield Problem((field, key), rule, given[key])
        if own:
            return
        kind = PimChannelSpec if name else VectorUnitSpec
        try:
            _ = self.dram if name else self.vector
        except SpecError as error:
            for item in error.problems:
                rule = item.rule
                if rule == "unknown field" and len(item.path) == 1:
                    near = difflib.get_close_matches(str(item.path[0]), kind.model_fields, n=1)
                    rule = f"must be a field of {name or field}"
                    rule += f" (did you mean {near[0]}?)" if near else ""
                yield Problem((field, *item.path), rule, item.value)

    def vector_cycles(self, function: Function, rows: int, length: int) -> int:
        """Cycles of a vector unit for ``rows`` rows, or of several that share them.

        Rows are shared out; of one row, or of a sum of rows, elements are where a function takes
        them one by one. Jobs are as long as a row may be and follow one another. First input to
        last output, by the unit's own closed form.

        Raises:
            InputError: a row is longer than the unit's.
        """
        spec, units = self.vector, self.vector_units
        if function in ("softmax", "layer_norm", "rms_norm"):
            if length > spec.max_length:
                raise InputError(
                    f"{self.name}: vector_unit.max_length: must be at least {length} for "
                    f"{function} over {length} elements, got {spec.max_length}"
                )
            rows, jobs = -(-rows // units), [length]
        else:
            share = -(-length // units)
            whole, rest = divmod(share, spec.max_length)
            jobs = [spec.max_length] * whole + ([rest] if rest else [])
        total = sum(vector_timing.job_cycles(spec, function, rows, size) for size in jobs)
        tail = (-(-jobs[-1] // spec.lanes) - 1) % SLOTS
        return vector_timing.OVERHEAD + total + 1 + tail

    def commands(self, vector_cycles: int) -> int:
        """Command clocks that some cycles of the vector units take, rounded up."""
        return math.ceil(vector_cycles * self.command_mhz / self.clock_mhz - 1e-9)


def shipped_systems() -> tuple[str, ...]:
    """Names of the systems of this kind that come with this package."""
    found = sorted(SYSTEMS.glob("*.yaml"))
    kind = "block: pim_system"
    return tuple(
        file.stem for file in found if kind in file.read_text(encoding="utf-8").splitlines()
    )


def load_system(system: str | Path) -> PimSystem:
    """A system by the name of a shipped one, or by its YAML file.

    Raises:
        InputError: there is none of that name; the file is malformed, one line per problem.
    """
    path = Path(system)
    if not path.is_file():
        name = str(system)
        if name in shipped_systems():
            return load_as(PimSystem, SYSTEMS / f"{name}.yaml")
        if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
            shipped = ", ".join(shipped_systems())
            raise InputError(
                f"system: must be a YAML file or a shipped name, got {name!r}; shipped: {shipped}"
            )
    return load_as(PimSystem, path)

"""The MAC unit beside a DRAM bank, as a group of fields: whose arithmetic, how many accumulators.

The arithmetic is a GEMM core of this project whose tile is 1 × 1 × k, so that a column of the bank
is one step's weights. :meth:`PimUnit.core` makes its specification, :meth:`PimUnit.problems` says
what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import Field

from hw.block import block, spec_from_dict
from hw.errors import Problem, SpecError
from hw.gemm import GemmSpec, Job
from hw.spec import Part

ARITHMETICS = ("bitserial_core", "fp_core", "lut_core", "mac_core")
"""Blocks whose operands a column and a broadcast can carry."""

ENTRY_BITS = 32
"""An entry of an activation function's table: a slope and an offset of 16 bits each."""


class Activation(Part):
    """The piecewise linear function behind the accumulators: ``slope · x + offset`` by segment."""

    segments: int = Field(
        16, ge=0, le=256, description="segments of the table, a power of two; 0: no table"
    )
    segment_log2: int = Field(
        0, ge=-16, le=30, description="width of a segment: 2 to this power (integers: 0 or more)"
    )
    fraction: int = Field(
        8, ge=0, le=15, description="integers: bits of a slope below the point; floats: no meaning"
    )


class PimUnit(Part):
    """Arithmetic, accumulators and activation function of a bank's unit."""

    arithmetic: dict[str, Any] = Field(
        default_factory=lambda: {
            "block": "fp_core",
            "activations": {"format": "bf16"},
            "weights": {"format": "bf16"},
            "pipeline": {"heap": 2},
        },
        description="the core that multiplies: block (bitserial_core, fp_core, lut_core or "
        "mac_core) and its fields but name, clock and tile",
    )
    accumulators: int = Field(2, ge=1, le=16, description="accumulators, a power of two")
    accumulator_bits: int = Field(
        32, ge=16, le=48, description="width of an accumulator; 32 for FP32"
    )
    activation: Activation = Field(
        default_factory=Activation, description="the activation function"
    )

    def problems(
        self, path: tuple[str | int, ...], *, name: str, clock_mhz: float, column_bits: int
    ) -> Iterator[Problem]:
        """Every rule that the unit breaks; ``path`` leads to it."""
        yield from self._accumulator_problems(path)
        at = (*path, "arithmetic")
        which = self.arithmetic.get("block")
        if which not in ARITHMETICS:
            yield Problem((*at, "block"), f"must be one of {', '.join(ARITHMETICS)}", which)
            return
        taken = [key for key in ("name", "clock_mhz", "tile", "memory") if key in self.arithmetic]
        for key in taken:
            rule = "is the unit's own" if key != "tile" else "follows from the column: 1 × 1 × k"
            yield Problem((*at, key), rule, self.arithmetic[key])
        if taken:
            return
        try:
            core = self.core(name, clock_mhz, column_bits)
        except SpecError as error:
            yield from (
                Problem((*at, *item.path), item.rule, item.value) for item in error.problems
            )
            return
        yield from self._fit_problems(at, core, column_bits)
        yield from self._activation_problems(path, core, column_bits)

    def _accumulator_problems(self, path: tuple[str | int, ...]) -> Iterator[Problem]:
        if self.accumulators & (self.accumulators - 1):
            yield Problem((*path, "accumulators"), "must be a power of two", self.accumulators)

    def _fit_problems(
        self, at: tuple[str | int, ...], core: GemmSpec, column_bits: int
    ) -> Iterator[Problem]:
        which = core.block
        streams = {item.name: item for item in block(which).golden.streams(core)}
        if set(streams) != {"i_job", "i_a", "i_w", "o"}:
            rule = "must have the streams i_job, i_a, i_w and o alone: a column and a broadcast"
            yield Problem((*at, "block"), rule, f"{which} with {', '.join(streams)}")
            return
        for side, name in (("i_a", "a"), ("i_w", "w")):
            beside = [item.name for item in streams[side].fields if item.name != name]
            if beside:
                rule = (
                    f"must have no operand beside its {name}, which columns hold alone: "
                    f"{', '.join(beside)} would have to come with {side}"
                )
                yield Problem((*at, "block"), rule, which)
        weights = streams["i_w"].width
        if weights > column_bits:
            rule = (
                f"must take at most the {column_bits} bits of a column in a step, takes {weights}"
            )
            yield Problem((*at, "block"), rule, which)
        if core.weight_encoding == "ternary":
            rule = "must let every code be a weight, which ternary does not"
            yield Problem((*at, "weights", "encoding"), rule, core.weight_encoding)
        if core.pipeline.front:
            rule = "must be 0: a column and its operand are taken together"
            yield Problem((*at, "pipeline", "front"), rule, core.pipeline.front)
        if core.max_weight_bits % core.planes_per_cycle:
            rule = f"must divide the {core.max_weight_bits} bits of a weight"
            yield Problem((*at, "planes"), rule, core.planes_per_cycle)
        fp32 = is_fp32(core)
        if not fp32 and not core.summable:
            rule = "must give integers or FP32: accumulators add what it gives"
            yield Problem((*at, "block"), rule, f"{which} with {', '.join(_names(core))}")
        if fp32 and self.accumulator_bits != 32:
            yield Problem((*at[:-1], "accumulator_bits"), "must be 32", self.accumulator_bits)
        if not fp32 and core.summable and self.accumulator_bits < core.result_bits:
            rule = f"must be at least {core.result_bits}, the width of a result"
            yield Problem((*at[:-1], "accumulator_bits"), rule, self.accumulator_bits)

    def _activation_problems(
        self, path: tuple[str | int, ...], core: GemmSpec, column_bits: int
    ) -> Iterator[Problem]:
        at, form = (*path, "activation"), self.activation
        entries = column_bits // ENTRY_BITS
        if form.segments & (form.segments - 1) or 0 < form.segments < max(2, entries):
            rule = f"must be 0 or a power of two that fills columns of {entries} entries"
            yield Problem((*at, "segments"), rule, form.segments)
        if form.segments and not is_fp32(core):
            reach = form.segment_log2 + form.segments.bit_length() - 1
            if form.segment_log2 < 0 or reach > self.accumulator_bits:
                rule = (
                    f"must be 0 to {self.accumulator_bits - form.segments.bit_length() + 1}: the "
                    f"segments lie within an accumulator of {self.accumulator_bits} bits"
                )
                yield Problem((*at, "segment_log2"), rule, form.segment_log2)

    def core(self, name: str, clock_mhz: float, column_bits: int) -> GemmSpec:
        """The specification of the core inside a unit called ``name``.

        Raises:
            SpecError: what the core says of its fields.
        """
        import json

        return _core(json.dumps(self.arithmetic, sort_keys=True), name, clock_mhz, column_bits)


@cache
def _core(arithmetic: str, name: str, clock_mhz: float, column_bits: int) -> GemmSpec:
    import json

    given = json.loads(arithmetic)
    # The width of a weight in a column does not depend on how many there are.
    one = spec_from_dict(
        {**given, "name": f"{name}_core", "clock_mhz": clock_mhz, "tile": {"m": 1, "n": 1, "k": 1}}
        | _small_table(given)
    )
    if not isinstance(one, GemmSpec):
        raise SpecError([Problem(("block",), "must be a GEMM core", given["block"])])
    k = min(512, max(1, column_bits // one.planes_per_cycle))
    found = spec_from_dict(
        {
            **given,
            "name": f"{name}_core",
            "clock_mhz": clock_mhz,
            "tile": {"m": 1, "n": 1, "k": k},
        }
    )
    assert isinstance(found, GemmSpec)  # noqa: S101  (the same block)
    return found


def _small_table(given: dict[str, Any]) -> dict[str, Any]:
    """What makes a specification of one element right, where tables need more of them."""
    if given.get("block") != "lut_core" or not isinstance(given.get("table", {}), dict):
        return {}
    return {"table": {**given.get("table", {}), "group": 1}}


def is_fp32(core: GemmSpec) -> bool:
    """Whether a core's results are FP32 codes."""
    sums = getattr(core, "sums", None)
    return sums is not None and bool(sums.fp32)


def _names(core: GemmSpec) -> list[str]:
    return [item.name for item in core.results]


def passes(core: GemmSpec) -> tuple[tuple[int, int], ...]:
    """Which part of the operands each pass of a job takes: blocks of A and of W, ``k_steps`` each.

    Cores that take weight planes in turn repeat their activations and find the passes of W one
    after another. A core of planes on both sides finds plane ``i`` of A and plane ``j`` of W in the
    blocks of those numbers, and takes the pairs by ``i + j``, highest first.
    """
    count = core.job_passes(Job(k_steps=1, weight_bits=core.max_weight_bits))
    if core.block != "bitserial_core":
        return tuple((0, index) for index in range(count))
    a, w = core.activation_width, core.max_weight_bits
    return tuple(
        (i, total - i)
        for total in range(a + w - 2, -1, -1)
        for i in range(total + 1)
        if i < a and total - i < w
    )

"""What a core needs beside it: the units that quantize its activations and scale its results.

A core alone leaves work to others that papers seldom charge. Here it is charged: units sized so
that the core never waits for them, as specifications of this project's own blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hw.block import block, spec_from_dict
from hw.formats import BlockFormat, FloatFormat
from hw.gemm import GemmSpec
from hw.spec import BlockSpec
from rtl_gen.errors import InputError
from sw_driver.mapper.core import Core, core_of
from sw_driver.runner.operands import NARROW, recoding, scaled_outside, scheme_for

LAYER = 4096
"""Rows and columns of the weight matrix that the units are sized for."""


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A unit beside a core, and why it is there."""

    purpose: str
    spec: BlockSpec


def companions(
    spec: GemmSpec, *, bits: int, group: int, activation_bits: int | None = None
) -> tuple[Companion, ...]:
    """The units beside a core for a square layer of :data:`LAYER`.

    Results without their groups' scales, integers with an exponent a row among them, are scaled
    group by group: their unit has to take a group's ``M × N`` results in the cycles that the core
    takes for a group. Where weights' codes are shifted to fit the core, it takes rows' sums into
    account; what makes those is not charged. Activations are quantized from FP16 once a layer and
    used for every tile of columns: their unit has to make a tile's rows in the cycles that the
    core takes for a row of tiles.

    Args:
        bits: width of the weights. group: elements of K that share a scale of integers.
        activation_bits: width of the activations, where jobs choose it.

    Raises:
        InputError: no unit takes such short groups as fast as the core makes them.
    """
    core = core_of(spec, activation_bits)
    start, slope = core.job_cycles[bits - 1]
    a_format = spec.operand_formats[0]
    found = []
    if _scales_charged(spec, core, bits):
        cycles = start + -(-group // core.k) * slope
        scales = _make(
            spec,
            "scale_accumulate",
            tile={"m": core.m, "n": core.n},
            **partial_sums(spec, *_recoding(core, bits), group),
            activation_scale=_row_scales(a_format),
            lanes=lanes_for(core.m * core.n, cycles),
            max_groups=-(-LAYER // group),
        )
        timing: Any = block(scales.block).timing
        interval = timing.constants(scales)["group_interval"]
        if interval > cycles:
            least = ((interval - start - 1) // slope) * core.k + 1
            raise InputError(
                f"group: must be at least {least} for {core.name} at W{bits}, whose results are "
                f"scaled outside at a group in {interval} cycles, got {group}"
            )
        found.append(Companion(purpose="scales", spec=scales))
    steps = -(-LAYER // core.k)
    cycles = -(-LAYER // core.n) * (start + steps * slope)
    rate = core.m * LAYER / cycles
    fields = _target(a_format, core.activation_bits, group)
    if fields is not None:
        lanes = next(n for n in range(1, group + 1) if fields["group"] % n == 0 and n >= rate)
        found.append(
            Companion(
                purpose="quantizer",
                spec=_make(spec, "quantize", input="fp16", lanes=lanes, **fields),
            )
        )
    return tuple(found)


def uncharged(spec: GemmSpec, bits: int) -> tuple[str, ...]:
    """Purposes that a core needs a unit for which is not among :func:`companions`."""
    core, a_format = core_of(spec), spec.operand_formats[0]
    found = []
    if not core.own_scales and not _scales_charged(spec, core, bits):
        found.append("scales")  # of results that the core rounds, or with row sums of floats
    if isinstance(a_format, FloatFormat) and a_format.width <= NARROW:
        found.append("quantizer")  # floats of eight bits with a scale a row
    return tuple(found)


def _scales_charged(spec: GemmSpec, core: Core, bits: int) -> bool:
    """Whether a companion applies the groups' scales: row sums of floats are made by none."""
    return scaled_outside(spec) and (spec.summable or not _recoding(core, bits)[1])


def partial_sums(spec: GemmSpec, factor: int, offset: int, group: int) -> dict[str, int]:
    """What ``scale_accumulate`` has to know of a core's results.

    Args:
        factor, offset: of the weights' encoding, see :class:`sw_driver.runner.operands.Operand`.
        group: elements of K that share a scale.
    """
    widths = {field.name: field.width for field in spec.results}
    found = {
        # A doubled sum is the same wires one place up.
        "partial_bits": widths["o"] + (factor - 1).bit_length(),
        "partial_exponent_bits": widths.get("exponent", 0),
    }
    if offset:
        # As wide as any row of such activations needs, and of one width for all products.
        top = group << (core_of(spec).activation_bits - 1)
        found["zero_point_bits"] = abs(offset).bit_length()
        found["row_sum_bits"] = min(32, max(2, top.bit_length() + 1))
    return found


def _recoding(core: Core, bits: int) -> tuple[int, int]:
    """``factor`` and ``offset`` of weights that the quantizer makes for a core."""
    return recoding(scheme_for(core.encoding, bits), bits, core.encoding)


def _row_scales(form: Any) -> Mapping[str, str]:
    """Scales of a row of activations: integers have them by groups, narrow floats by rows."""
    if form is None:
        return {"format": "fp16", "per": "group"}
    if form.width <= NARROW:
        return {"format": "fp32", "per": "job"}
    return {"format": "none"}


def _target(form: Any, activation_bits: int, group: int) -> Mapping[str, Any] | None:
    """What the quantizer makes; None where activations are taken as they come."""
    if form is None:
        # The quantizer makes no single bits; its least is charged for them.
        integers = {"bits": max(2, activation_bits), "scale": "fp16"}
        return {"target": "int", "group": group, "integers": integers}
    if isinstance(form, BlockFormat):
        if form.name.startswith("bfp"):
            bits = getattr(form.element, "bits", 0)
            integers = {"bits": bits, "exponent_bits": form.scale.exponent_bits}
            return {"target": "bfp", "group": form.block, "integers": integers}
        fields: dict[str, Any] = {"target": form.name, "group": form.block}
        # The scale's quotient is what is slow; latency is nothing here.
        return {**fields, "pipeline": {"digits": 1}} if form.name.startswith("nv") else fields
    return None


def lanes_for(outputs: int, cycles: int) -> int:
    """The fewest lanes that divide the outputs and work through them in so many cycles."""
    return next(n for n in range(1, outputs + 1) if outputs % n == 0 and outputs // n <= cycles)


def _make(core: GemmSpec, name: str, **fields: Any) -> BlockSpec:
    return spec_from_dict({"block": name, "name": name, "clock_mhz": core.clock_mhz, **fields})

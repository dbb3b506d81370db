"""Weights as a checkpoint stores them, as operands of a core: nothing is quantized again.

A core of integers multiplies with the stored codes in its own encoding; scales, offsets and what
the encoding shifts are applied outside, a group at a time. A core that has its own scales takes
weights of its own format with the scales beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hw.formats import BlockFormat, FloatFormat
from hw.formats.block import Quantized
from hw.gemm import GemmSpec
from hw.integers import IntegerGemmSpec
from sim.gemm import tile
from sw_driver.checkpoint.weights import GroupedWeights
from sw_driver.mapper.core import core_of
from sw_driver.mapper.mapping import takes
from sw_driver.quantize import QuantizedBlocks
from sw_driver.runner.operands import (
    Fields,
    Prepared,
    block_product,
    float_rows,
    integer_rows,
    values,
)


def takes_stored(spec: GemmSpec, weights: GroupedWeights) -> bool:
    """Whether a core multiplies with weights as they are stored.

    It does if the mapper says so (:func:`sw_driver.mapper.mapping.takes`), but for cores that
    convert exact sums themselves: they have no place for what a stored encoding shifts.
    """
    return takes(core_of(spec), weights.storage) and not spec.job_operands


def stored_bits(spec: GemmSpec, weights: GroupedWeights) -> int:
    """The width of a job: that of the codes, or the core's narrowest if that is more."""
    return max(weights.bits, spec.weight_widths[0])


def prepare_stored(
    spec: GemmSpec, x: np.ndarray, weights: GroupedWeights, activation_bits: int | None = None
) -> Prepared:
    """A product with stored weights for a core.

    Args:
        x: ``(M, K)``. weights: ``(N, K)``.
        activation_bits: width of integer activations, where jobs choose it; the widest if None.

    Raises:
        ValueError: the core cannot take them.
    """
    if not takes_stored(spec, weights):
        raise ValueError(f"{spec.name}: cannot take weights stored as {weights.storage.name}")
    if weights.order is not None:
        # Columns sorted by group (act-order): the input goes along.
        x = x[:, weights.order]
    a_format, w_format = spec.operand_formats
    if isinstance(a_format, BlockFormat) and isinstance(w_format, BlockFormat):
        return block_product(spec, a_format, x, _blocks(w_format, weights))
    if not isinstance(spec, IntegerGemmSpec):
        raise ValueError(f"{spec.name}: operands of {spec.block} are not stored weights")
    if isinstance(a_format, FloatFormat):
        a = float_rows(a_format, x)
    else:
        a = integer_rows(spec, x, activation_bits, x.shape[1])
    operand = weights.operand(spec.weight_encoding)
    bits = stored_bits(spec, weights)
    w, z, shift = operand.w, operand.z, operand.shift
    if z is not None:
        # A zero point outside of what the core holds, as some files have: the rest is a shift.
        inside = np.clip(z, 0, 2**bits - 1)
        if not np.array_equal(inside, z):
            shift = (inside - z).astype(np.float64) + (0 if shift is None else shift)
            z = inside
    plans = []
    for g in range(weights.groups):
        columns = weights.columns(g)
        extra = {}
        if getattr(spec, "quantized", False):
            extra["entry_shift"] = np.array(max(0, getattr(spec, "exact_entry_bits", 8) - 8))
        plans.append(
            tile(
                spec,
                a.codes[:, columns],
                w[:, columns],
                z=None if z is None else z[:, g],
                weight_bits=bits,
                activation_bits=activation_bits,
                extra=extra,
            )
        )
    scale = weights.scale.astype(np.float32)

    def finish(results: Sequence[Fields]) -> np.ndarray:
        output = np.zeros((len(a.codes), len(w)), dtype=np.float32)
        for g, fields in enumerate(results):
            exact = operand.factor * values(spec, fields)
            sums = a.numbers[:, weights.columns(g)].sum(axis=1, keepdims=True)
            if shift is not None:
                exact = exact + shift[:, g] * sums
            output += exact.astype(np.float32) * scale[:, g]
            if weights.offset is not None:
                output += sums.astype(np.float32) * weights.offset[:, g]
        return output * a.factor(0)

    exact = weights.dequantized()
    return Prepared(
        quantizer=f"{weights.storage.name} as stored",
        groups=weights.groups,
        plans=tuple(plans),
        a=a.values,
        w=(exact if weights.order is None else exact[:, weights.order]).astype(np.float64),
        finish=finish,
    )


def _blocks(form: BlockFormat, weights: GroupedWeights) -> QuantizedBlocks:
    """Codes and scales of a block format; the checkpoint's integers are E2M1 in halves."""
    if not isinstance(form.element, FloatFormat) or weights.group != form.block:
        raise ValueError(f"{form.name}: blocks of {form.block}, got groups of {weights.group}")
    elements = form.element.encode(weights.codes / 2.0).astype(np.int64)
    scales = form.scale.encode(weights.scale * 2.0).astype(np.int64)
    return QuantizedBlocks(form=form, codes=Quantized(elements, scales, None))

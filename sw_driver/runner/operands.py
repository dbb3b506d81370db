"""Real matrices as operands of a core: quantized, laid out as GEMMs, and put together again.

What a core takes follows from its specification alone: integers with scales outside of it, codes of
a floating format, or blocks with scales that travel with them (``GemmSpec.operand_formats``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hw.block import block
from hw.formats import FP16, FP32, BlockFormat, FloatFormat
from hw.gemm import GemmSpec
from hw.integers import IntegerGemmSpec
from sim.gemm import GemmPlan, tile
from sw_driver.mapper.core import core_of
from sw_driver.quantize import (
    SCHEMES,
    Clip,
    QuantizedBlocks,
    QuantizedWeights,
    Scheme,
    quantize_activations,
    quantize_blocks,
)

Fields = Mapping[str, np.ndarray]

NARROW = 8
"""Bits of a float that needs a scale beside it to hold a row of activations."""


@dataclass(frozen=True, kw_only=True)
class Operand:
    """Quantized weights as a core takes them: ``Σ a·codes' = factor·o + offset·Σ a``.

    Attributes:
        w: integers ``(N, K)`` that the core multiplies with. z: ``(N, groups)`` or None.
        factor, offset: undo the encoding where the core's differs from the quantizer's.
    """

    w: np.ndarray
    z: np.ndarray | None
    factor: int = 1
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class Groups:
    """What turns partial sums ``o`` into numbers: ``scale · (factor·o + offset·Σ a)``.

    Attributes:
        scale: ``(N, G)``, of the weights, ``float16``.
        a_scale: ``(M, 1)`` ``float32``, or None where activations have no scale.
        factor, offset: of the weights' encoding, see :class:`Operand`.
        row_sums: ``(M, G)`` integers, the sums of activations over a group.
    """

    scale: np.ndarray
    a_scale: np.ndarray | None
    factor: int
    offset: int
    row_sums: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """``x·wᵀ`` as GEMMs of a core, one after the other.

    Attributes:
        quantizer: in a few words.
        groups: scale groups along K that the GEMMs are split by.
        plans: the GEMMs.
        a, w: the operands' values after quantization, ``(M, K)`` and ``(N, K)`` ``float64``.
        finish: every GEMM's results by field, put together, to ``(M, N)`` ``float32``.
        scales: what ``finish`` applies outside of the core, where that is a scale a group.
    """

    quantizer: str
    groups: int
    plans: tuple[GemmPlan, ...]
    a: np.ndarray
    w: np.ndarray
    finish: Callable[[Sequence[Fields]], np.ndarray]
    scales: Groups | None = None


def scheme_for(encoding: str, bits: int) -> Scheme:
    """The quantizer for a core's encoding: of one bit ±1, which has the least error."""
    if encoding == "ternary":
        return "ternary"
    if encoding == "bipolar" or bits == 1:
        return "bipolar"
    return "asymmetric" if encoding == "unsigned" else "symmetric"


def recoding(scheme: Scheme, bits: int, encoding: str) -> tuple[int, int]:
    """``factor`` and ``offset`` of :class:`Operand`: 1 and 0 but for bipolar codes elsewhere."""
    if scheme != "bipolar" or encoding not in ("unsigned", "twos_complement"):
        return 1, 0
    # q' = 2q − (2^B − 1): the codes q go to the core, the rest is a sum of activations. In two's
    # complement they are shifted by 2^(B−1).
    return 2, (1 - 2**bits if encoding == "unsigned" else 1)


def scaled_outside(spec: GemmSpec) -> bool:
    """Whether the groups' scales are applied to a core's results by a unit beside it."""
    if core_of(spec).own_scales:
        return False
    return spec.summable or any(field.name == "exponent" for field in spec.results)


def operand_for(weights: QuantizedWeights, encoding: str) -> Operand:
    """Weights in a core's encoding.

    Raises:
        ValueError: the encoding cannot hold them.
    """
    codes = weights.codes.astype(np.int64)
    if weights.scheme == "bipolar" and encoding in ("unsigned", "twos_complement"):
        factor, offset = recoding(weights.scheme, weights.bits, encoding)
        q = (codes + 2**weights.bits - 1) // 2
        if encoding == "unsigned":
            zero = np.zeros(weights.scale.shape, dtype=np.int64)
            return Operand(w=q, z=zero, factor=factor, offset=offset)
        return Operand(w=q - 2 ** (weights.bits - 1), z=None, factor=factor, offset=offset)
    if weights.scheme == "asymmetric" and encoding == "unsigned" and weights.zero is not None:
        return Operand(w=codes, z=weights.zero.astype(np.int64))
    if weights.scheme == "ternary" and encoding == "unsigned":
        return Operand(w=codes + 1, z=np.ones(weights.scale.shape, dtype=np.int64))
    if (weights.scheme, encoding) in (
        ("symmetric", "twos_complement"),
        ("ternary", "twos_complement"),
        ("ternary", "ternary"),
        ("bipolar", "bipolar"),
    ):
        return Operand(w=codes, z=None)
    raise ValueError(f"{weights.scheme} weights do not fit the {encoding} encoding")


def rounds(spec: GemmSpec) -> bool:
    """Whether a core rounds inside: then its own reference is the only one."""
    return not spec.summable or bool(getattr(spec, "quantized", False))


def reference(spec: GemmSpec, plan: GemmPlan) -> dict[str, np.ndarray]:
    """What a GEMM gives: exact integers are the plain product, without its tiles."""
    if not rounds(spec):
        return {"o": plan.product()}
    return plan.assemble(plan.expected())


def product(spec: GemmSpec, x: np.ndarray, w: np.ndarray, *, bits: int, group: int) -> np.ndarray:
    """``x·wᵀ`` ``(M, N)`` as a core computes it, by its reference; as :func:`prepare` otherwise."""
    made = prepare(spec, x, w, bits=bits, group=group)
    return made.finish([reference(spec, plan) for plan in made.plans])


def values(spec: GemmSpec, fields: Fields) -> np.ndarray:
    """Results ``(…, M, N)`` as numbers, ``float64``: what the block's reference says of them."""
    golden: Any = block(spec.block).golden
    made = getattr(golden, "values", None)
    return fields["o"].astype(np.float64) if made is None else np.asarray(made(spec, fields))


def prepare(
    spec: GemmSpec,
    x: np.ndarray,
    w: np.ndarray,
    *,
    bits: int,
    group: int,
    activation_bits: int | None = None,
    grouped: bool = False,
    clip: Clip = "absmax",
) -> Prepared:
    """A product of real matrices for a core.

    Args:
        x: ``(M, K)``. w: ``(N, K)``.
        bits: width of integer weights; of floating and block formats the only one.
        group: elements of K that share a scale of integer weights.
        activation_bits: width of integer activations, where jobs choose it; the widest if None.
        grouped: integer activations have a scale for each group, too, instead of one a row.
        clip: how far the codes of integer weights reach, see :mod:`sw_driver.quantize.integers`.

    Raises:
        ValueError: the core cannot take such operands.
    """
    a_format, w_format = spec.operand_formats
    if isinstance(a_format, BlockFormat) and isinstance(w_format, BlockFormat):
        return _blocks(spec, a_format, w_format, x, w)
    if isinstance(a_format, FloatFormat) and isinstance(w_format, FloatFormat):
        return _floats(spec, a_format, w_format, x, w)
    if isinstance(a_format, FloatFormat) and "w_scale" in spec.further:
        return _dequantized(spec, a_format, x, w, bits, clip)
    if isinstance(spec, IntegerGemmSpec) and w_format is None:
        if isinstance(a_format, FloatFormat):
            rows = float_rows(a_format, x)
        else:
            rows = integer_rows(spec, x, activation_bits, group if grouped else x.shape[1])
        if spec.job_operands:
            return _converted(spec, rows, w, bits, group, activation_bits, clip)
        return _integers(spec, rows, w, bits, group, activation_bits, clip)
    raise ValueError(f"{spec.name}: operands of {spec.block} cannot be quantized here")


def _blocks(
    spec: GemmSpec, a_format: BlockFormat, w_format: BlockFormat, x: np.ndarray, w: np.ndarray
) -> Prepared:
    """Block-scaled operands: scales go with the elements, tensor scales are a factor outside."""
    return block_product(spec, a_format, x, quantize_blocks(whole_blocks(w, w_format), w_format))


def block_product(
    spec: GemmSpec, a_format: BlockFormat, x: np.ndarray, weights: QuantizedBlocks
) -> Prepared:
    """A product with weights in the core's block format; activations are brought into theirs."""
    w_format = weights.form
    a, b = quantize_blocks(whole_blocks(x, a_format), a_format).codes, weights.codes
    plan = tile(spec, a.elements, b.elements, extra={"a_scale": a.scales, "w_scale": b.scales})
    factor = 1.0
    for scale in (a.tensor_scale, b.tensor_scale):
        factor *= 1.0 if scale is None else float(FP32.decode(scale))

    def finish(results: Sequence[Fields]) -> np.ndarray:
        (fields,) = results
        found: np.ndarray = (values(spec, fields) * factor).astype(np.float32)
        return found

    names = dict.fromkeys((a_format.name, w_format.name))
    return Prepared(
        quantizer=" × ".join(names),
        groups=1,
        plans=(plan,),
        a=a_format.dequantize(*a),
        w=w_format.dequantize(*b),
        finish=finish,
    )


def whole_blocks(x: np.ndarray, form: BlockFormat) -> np.ndarray:
    """A matrix with zeros behind its rows up to whole blocks; they change neither scale nor sum."""
    missing = -x.shape[1] % form.block
    return np.pad(x, ((0, 0), (0, missing))) if missing else x


@dataclass(frozen=True)
class Rows:
    """Codes of rows, what they stand for, and their factors: one a row, or one a row and group.

    ``scale`` is ``(M, 1)`` or ``(M, groups)``; the last group may be shorter than ``group``.
    ``scaled`` is False for formats whose rows need no factor: it is 1.
    """

    codes: np.ndarray
    numbers: np.ndarray
    scale: np.ndarray
    group: int
    scaled: bool = True

    @property
    def values(self) -> np.ndarray:
        """``float64`` ``(M, K)``."""
        width = self.numbers.shape[1]
        scale = np.repeat(self.scale.astype(np.float64), self.group, axis=1)[:, :width]
        product: np.ndarray = self.numbers * scale
        return product

    def factor(self, group: int) -> np.ndarray:
        """``(M, 1)``: the factors of a group of weights."""
        column = group if self.scale.shape[1] > 1 else 0
        return self.scale[:, column : column + 1]


def float_rows(form: FloatFormat, x: np.ndarray) -> Rows:
    """Rows in a floating format; narrow ones are scaled to its largest value, row by row."""
    scale = np.ones(len(x), dtype=np.float32)
    scaled = form.width <= NARROW
    if scaled:
        scale = (np.abs(x).max(axis=1) / form.max).astype(np.float32)
        scale[scale == 0] = 1
    codes = form.encode(x / scale[:, None].astype(np.float64), overflow="saturate")
    return Rows(codes.astype(np.int64), form.decode(codes), scale[:, None], x.shape[1], scaled)


def integer_rows(spec: IntegerGemmSpec, x: np.ndarray, bits: int | None, group: int) -> Rows:
    """Rows as integers, a scale for each group of their elements."""
    form = spec.activations
    parts = [
        quantize_activations(
            x[:, start : start + group], bits or form.widest, bipolar=form.code == "bipolar"
        )
        for start in range(0, x.shape[1], group)
    ]
    codes = np.concatenate([part.codes for part in parts], axis=1).astype(np.int64)
    scale = np.stack([part.scale for part in parts], axis=1)
    return Rows(codes, codes.astype(np.float64), scale, group)


def _floats(
    spec: GemmSpec, a_format: FloatFormat, w_format: FloatFormat, x: np.ndarray, w: np.ndarray
) -> Prepared:
    """Floating operands; of eight bits with a scale a row of either."""
    a, b = float_rows(a_format, x), float_rows(w_format, w)
    plan = tile(spec, a.codes, b.codes)

    def finish(results: Sequence[Fields]) -> np.ndarray:
        (fields,) = results
        found: np.ndarray = values(spec, fields) * a.scale * b.scale[:, 0]
        return found.astype(np.float32)

    names = dict.fromkeys((a_format.name, w_format.name))
    return Prepared(
        quantizer=" × ".join(names),
        groups=1,
        plans=(plan,),
        a=a.values,
        w=b.values,
        finish=finish,
    )


def _dequantized(
    spec: GemmSpec, form: FloatFormat, x: np.ndarray, w: np.ndarray, bits: int, clip: Clip
) -> Prepared:
    """Integer weights whose scales the core applies itself, before it multiplies."""
    group = spec.further["w_scale"].per
    zeros = "w_zero" in spec.further
    scheme: Scheme = "asymmetric" if zeros else "symmetric"
    weights = SCHEMES[scheme](w, bits, group, clip=clip)
    a = float_rows(form, x)
    extra = {"w_scale": FP16.encode(weights.scale).astype(np.int64)}
    if weights.zero is not None:
        extra["w_zero"] = weights.zero.astype(np.int64)
    plan = tile(spec, a.codes, weights.codes.astype(np.int64), extra=extra)

    def finish(results: Sequence[Fields]) -> np.ndarray:
        (fields,) = results
        found: np.ndarray = values(spec, fields) * a.scale
        return found.astype(np.float32)

    # The core rounds every weight to FP16 once more.
    exact = weights.dequantized()
    return Prepared(
        quantizer=f"W{bits} {scheme}",
        groups=1,
        plans=(plan,),
        a=a.values,
        w=FP16.decode(FP16.encode(exact)),
        finish=finish,
    )


def _integers(
    spec: IntegerGemmSpec,
    a: Rows,
    w: np.ndarray,
    bits: int,
    group: int,
    activation_bits: int | None,
    clip: Clip,
) -> Prepared:
    """Integer weights, one GEMM a scale group; activations are integers of one scale a token, or
    floating."""
    grouped = a.scale.shape[1] > 1
    scheme = scheme_for(spec.weight_encoding, bits)
    weights = SCHEMES[scheme](w, bits, group, clip=clip)
    operand = operand_for(weights, spec.weight_encoding)
    plans = [
        _group_plan(spec, a.codes, operand, weights.columns(g), g, bits, activation_bits)
        for g in range(weights.groups)
    ]

    def finish(results: Sequence[Fields]) -> np.ndarray:
        output = np.zeros((len(a.codes), len(w)), dtype=np.float32)
        for g, fields in enumerate(results):
            exact = operand.factor * values(spec, fields)
            if operand.offset:
                rows = a.numbers[:, weights.columns(g)].sum(axis=1, keepdims=True)
                exact = exact + operand.offset * rows
            part = exact.astype(np.float32) * weights.scale[:, g].astype(np.float32)
            output += part * a.factor(g) if grouped else part
        return output if grouped else output * a.factor(0)

    scales = None
    # Sums of a row of floats, for codes that the encoding shifts, have no unit that makes them.
    if scaled_outside(spec) and not grouped and (spec.summable or not operand.offset):
        sums = [
            a.codes[:, weights.columns(g)].sum(axis=1, keepdims=True) for g in range(weights.groups)
        ]
        scales = Groups(
            scale=weights.scale,
            a_scale=a.scale if a.scaled else None,
            factor=operand.factor,
            offset=operand.offset,
            row_sums=np.concatenate(sums, axis=1),
        )
    return Prepared(
        quantizer=scheme,
        groups=weights.groups,
        plans=tuple(plans),
        a=a.values,
        w=weights.dequantized().astype(np.float64),
        finish=finish,
        scales=scales,
    )


def _converted(
    spec: IntegerGemmSpec,
    a: Rows,
    w: np.ndarray,
    bits: int,
    group: int,
    activation_bits: int | None,
    clip: Clip,
) -> Prepared:
    """Integer operands whose results the core itself converts, a scale group at a time.

    Columns' scales go to the core in FP16; or results are shifted right, as few places as bring the
    largest of a group into the format, and are scaled outside.

    Raises:
        ValueError: the quantizer's codes are not those that the core multiplies with.
    """
    scheme = scheme_for(spec.weight_encoding, bits)
    weights = SCHEMES[scheme](w, bits, group, clip=clip)
    operand = operand_for(weights, spec.weight_encoding)
    if (operand.factor, operand.offset) != (1, 0):
        raise ValueError(
            f"weight_bits: {bits} bit {scheme} weights need a correction of the exact sums, which "
            f"{spec.name} converts; use more bits or exact results"
        )
    scaled = "scale" in spec.further
    plans, factors = [], []
    for g in range(weights.groups):
        columns = weights.columns(g)
        scale = weights.scale[:, g]
        if scaled:
            codes = FP16.encode(scale).astype(np.int64)
            extra, factor = {"scale": codes}, np.ones(len(w))
        else:
            largest = _largest(a.codes[:, columns], operand.w[:, columns], operand.z, g)
            # The largest, rounded up, is still within the format.
            shift = max(0, largest.bit_length() - (spec.result_bits - 1))
            shift += (largest + (1 << shift >> 1)) >> shift >= 1 << (spec.result_bits - 1)
            extra, factor = {"shift": np.array(shift)}, scale.astype(np.float64) * 2.0**shift
        plans.append(
            tile(
                spec,
                a.codes[:, columns],
                operand.w[:, columns],
                z=None if operand.z is None else operand.z[:, g],
                weight_bits=bits,
                activation_bits=activation_bits,
                extra=extra,
            )
        )
        factors.append(factor)

    def finish(results: Sequence[Fields]) -> np.ndarray:
        output = np.zeros((len(a.codes), len(w)), dtype=np.float64)
        for g, fields in enumerate(results):
            output += values(spec, fields) * factors[g] * a.factor(g)
        return output.astype(np.float32)

    exact = weights.dequantized().astype(np.float64)
    if scaled:
        # What the core multiplies with is the scale in FP16.
        rounded = FP16.decode(FP16.encode(weights.scale)) / weights.scale
        exact = exact * np.repeat(rounded, weights.group, axis=1)[:, : w.shape[1]]
    return Prepared(
        quantizer=scheme,
        groups=weights.groups,
        plans=tuple(plans),
        a=a.values,
        w=exact,
        finish=finish,
    )


def _largest(a: np.ndarray, w: np.ndarray, z: np.ndarray | None, g: int) -> int:
    """The largest magnitude of the exact sums of a group."""
    w = w if z is None else w - z[:, g : g + 1]
    return int(np.abs(a @ w.T).max())


def _group_plan(
    spec: IntegerGemmSpec,
    codes: np.ndarray,
    operand: Operand,
    columns: slice,
    g: int,
    bits: int,
    activation_bits: int | None,
) -> GemmPlan:
    extra: dict[str, np.ndarray] = {}
    if getattr(spec, "quantized", False):
        # The shift that brings every entry that can occur into INT8.
        width: int = getattr(spec, "exact_entry_bits", 8)
        extra["entry_shift"] = np.array(max(0, width - 8))
    z = None if operand.z is None else operand.z[:, g]
    return tile(
        spec,
        codes[:, columns],
        operand.w[:, columns],
        z=z,
        weight_bits=bits,
        activation_bits=activation_bits,
        extra=extra,
    )

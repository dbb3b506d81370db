"""Products of a core by its reference, fast enough for whole texts.

What comes out is what :func:`sw_driver.runner.operands.prepare` and the block's golden model give,
bit for bit. Where a core's results are exact integers they are computed by a product in double
precision, which has every integer below 2^53; the first rows of every product go through the golden
model as well and have to be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hw.formats import BlockFormat
from hw.gemm import GemmSpec
from rtl_gen.errors import InputError
from sim.gemm import GemmPlan
from sw_driver.mapper.core import core_of
from sw_driver.quantize import Clip, Scheme
from sw_driver.quantize.treatments import Treatment
from sw_driver.runner.operands import Prepared, prepare, rounds, scheme_for

ROWS = 1024
"""Rows of activations that are multiplied at a time."""

SAMPLE = 2
"""Rows of a product that go through the golden model as well."""

_EXACT = 1 << 53


@dataclass(frozen=True, kw_only=True)
class ProductFormat:
    """A core, and how real matrices become its operands.

    Attributes:
        bits: of integer weights; of floating and block formats the only width.
        group: elements of K that share a scale of integer weights.
        activation_bits: of integer activations, where jobs choose it; the widest if None.
        grouped: integer activations have a scale for each group instead of one a row.
        clip: of integer weights, see :mod:`sw_driver.quantize.integers`.
        treatment: of both operands, before.
    """

    spec: GemmSpec
    bits: int
    group: int
    activation_bits: int | None = None
    grouped: bool = False
    clip: Clip = "absmax"
    treatment: Treatment = field(default_factory=lambda: Treatment(name="plain"))

    @property
    def weight_bits_each(self) -> float:
        """Memory that a weight takes, scales and zero points included."""
        core = core_of(self.spec, self.activation_bits)
        scale = 0.0 if core.own_scales else (16 + core.zero_point * self.bits) / self.group
        return core.step_bits[self.bits - 1] / core.k + scale

    @property
    def activation_bits_each(self) -> float:
        """Memory that an activation takes; scales of rows are not counted."""
        core = core_of(self.spec, self.activation_bits)
        return core.activation_step_bits / core.k

    @property
    def scheme(self) -> Scheme:
        """Of integer weights."""
        if "w_scale" in self.spec.further:
            return "asymmetric" if "w_zero" in self.spec.further else "symmetric"
        return scheme_for(self.spec.weight_encoding, self.bits)

    def prepare(self, x: np.ndarray, w: np.ndarray) -> Prepared:
        """``x·wᵀ`` of ``(M, K)`` and ``(N, K)`` as GEMMs.

        Raises:
            ValueError: the core cannot take such operands.
        """
        x, w = self.treatment.apply(x, w)
        return prepare(
            self.spec,
            x,
            w,
            bits=self.bits,
            group=self.group,
            activation_bits=self.activation_bits,
            grouped=self.grouped,
            clip=self.clip,
        )


def check_operands(form: ProductFormat, k: int) -> None:
    """That a core can take a row of ``k`` elements.

    Raises:
        InputError: it cannot.
    """
    row = np.ones((1, k), dtype=np.float32)
    try:
        form.prepare(row, row)
    except ValueError as error:
        raise InputError(
            f"{form.spec.name}: must take real rows of {k} elements, as they are quantized here: "
            f"{error}"
        ) from None


def product(form: ProductFormat, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """``x·wᵀ`` as the core computes it, ``(M, N)`` ``float32``.

    Args:
        x: ``(M, K)``. Rows do not depend on one another but in formats with a tensor scale, whose
            scale is of all of ``x``: give what goes through the core at once.
        w: ``(N, K)``.

    Raises:
        ValueError: the core cannot take such operands.
        AssertionError: the fast way differs from the golden model.
    """
    a_format = form.spec.operand_formats[0]
    whole = isinstance(a_format, BlockFormat) and a_format.tensor_scale
    rows = len(x) if whole else ROWS
    parts = [
        _part(form, x[start : start + rows], w, start == 0) for start in range(0, len(x), rows)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _part(form: ProductFormat, x: np.ndarray, w: np.ndarray, check: bool) -> np.ndarray:
    made = form.prepare(x, w)
    if rounds(form.spec):
        return made.finish([plan.assemble(plan.expected()) for plan in made.plans])
    results = [{"o": exact_product(plan)} for plan in made.plans]
    if check:
        _check(form, x[:SAMPLE], w, results)
    return made.finish(results)


def exact_product(plan: GemmPlan) -> np.ndarray:
    """:meth:`sim.gemm.GemmPlan.product` ``(M, N)`` ``int64`` in double precision where that is
    exact: no sum of magnitudes reaches 2^53."""
    m, n, k = plan.shape
    a, w = plan.a[:m, :k], plan.w[:n, :k]
    if plan.z is not None:
        w = w - plan.z[:n, None]
    if int(np.abs(a).max()) * int(np.abs(w).max()) * k >= _EXACT:
        return plan.product()
    found: np.ndarray = (a.astype(np.float64) @ w.T.astype(np.float64)).astype(np.int64)
    return found


def _check(
    form: ProductFormat, x: np.ndarray, w: np.ndarray, found: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """That the first rows are those of the golden model."""
    for plan, fast in zip(form.prepare(x, w).plans, found, strict=True):
        golden = plan.assemble(plan.expected())["o"]
        if not np.array_equal(golden, fast["o"][: len(x)]):
            raise AssertionError(f"{form.spec.name}: the exact product is not the golden model's")

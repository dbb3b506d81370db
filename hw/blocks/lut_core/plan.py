"""Widths, constants and corrections of a LUT core: derived once, used by front end and columns.

A step changes the accumulator's ``s = −1 − y`` by ``−D − corr``, where ``D`` is the sum of the
looked-up terms and ``corr`` what turns 0/1 or ±1 planes into the encoding's values (``S`` is the sum
of the activations of the step, ``P`` the planes a cycle, passes most significant first):

==================  ==========================================  =================================
encoding            full tables (0/1 planes), ``y``             symmetric tables (±1 planes), ``2y``
==================  ==========================================  =================================
unsigned            ``−Σ_p 2^p·z_p·S``                          ``Σ_p 2^p·(1 − 2·z_p)·S``
two's complement    first pass ``−2^(P−1)·S``                   ``(2^P − 1)·S``, first less ``2^P·S``
bipolar             ``y = 2H + p``: first ``−2^(P−1)·S``,       none (``y`` itself)
                    last ``+floor((S + carry) / 2)``
ternary             none                                        none
==================  ==========================================  =================================

Signs and complements of the terms leave a negative constant; one correction row takes it in, lifted
by ``2^lift`` so that it is not negative, and ``−2^lift`` stays as ones above bit ``lift``, where the
adder then needs only half adders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hw.blocks.lut_core import golden, tables
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.lib.gemm_shell import Shared

if TYPE_CHECKING:
    from amaranth.hdl import Value


class Plan:
    """Derived facts of a specification.

    Attributes:
        acc_bits: width of an accumulator.
        entry_bits: width of a stored entry.
        entry_signed: whether entries can be negative.
        z_rows: planes whose row is chosen by the column's zero-point bit.
        row: name of the shared correction row, or None.
        lift: exponent of the lifted constant; None where constants stay in the heap.
        shared: the front end's outputs.
    """

    def __init__(self, spec: LutCoreSpec):
        self.spec = spec
        planes = spec.planes_per_cycle
        encoding = spec.weight_encoding
        affine = encoding in ("unsigned", "twos_complement")
        self.folded = spec.symmetric
        self.doubled = spec.symmetric and affine
        self.halved = encoding == "bipolar" and not spec.symmetric
        self.acc_bits = spec.result_bits + self.doubled - self.halved
        self.entry_bits = golden.entry_bits(spec)
        self.entry_signed = self.folded or spec.activations.signed
        self.look_bits = self.entry_bits if self.entry_signed else self.entry_bits - 1
        self.sum_bits = golden.sum_bits(spec)
        self.planes = 1 if spec.ternary else planes
        self.z_rows = tuple(range(planes)) if spec.zero_point else ()
        self.needs_sum = affine or self.halved
        self.multiples = self._multiples()
        self.lift: int | None = None
        self.const = self._constant()
        self.width = 0
        if self.needs_sum:
            self._lift()
        self.shared = self._shared()

    def _multiples(self) -> dict[str, tuple[int, int]]:
        """Shared rows as ``name -> (multiple of S, multiple of floor(S/2))`` in ``−corr``."""
        top = 1 << (self.planes - 1)
        encoding = self.spec.weight_encoding
        if encoding == "unsigned":
            low = -1 if self.folded else 0
            return {"z0_0": (low, 0), "z0_1": (1, 0)}
        if encoding == "twos_complement":
            if self.folded:
                rest = -(2 * top - 1)
                return {"row_middle": (rest, 0), "row_first": (rest + 2 * top, 0)}
            return {"row_middle": (0, 0), "row_first": (top, 0)}
        if self.halved:
            return {
                "row_middle": (0, 0),
                "row_first": (top, 0),
                "row_last": (0, -1),
                "row_only": (top, -1),
            }
        return {}

    def term_constant(self) -> int:
        """What the looked-up terms of one step leave behind (see ``Heap.add``)."""
        top = 1 << (self.look_bits - 1)
        one = -top if self.folded else -(top - 1) if self.entry_signed else -(2 * top - 1)
        return one * len(self.spec.groups) * ((1 << self.planes) - 1)

    def _constant(self) -> int:
        constant = self.term_constant()
        # Gated rows of the higher planes are signed: ``z ? ±S·2^p : …``.
        for plane in self.z_rows[1:]:
            constant -= 1 << (self.sum_bits - 1 + plane + 1)
        if self.halved:
            constant -= 1  # the complemented carry bit
        return constant

    def _lift(self) -> None:
        half = 1 << (self.sum_bits - 1)
        bounds = [
            s * full + (s >> 1) * floor_half
            for full, floor_half in self.multiples.values()
            for s in (-half, half - 1)
        ]
        lift = 0
        while min(bounds) + self.const + (1 << lift) < 0:
            lift += 1
        self.lift = lift
        self.width = (max(bounds) + self.const + (1 << lift)).bit_length()

    @property
    def base(self) -> int:
        """Constant inside the correction row."""
        assert self.lift is not None
        return self.const + (1 << self.lift)

    @property
    def rest(self) -> int:
        """Constant that stays in the heap."""
        return self.const if self.lift is None else -(1 << self.lift)

    def _shared(self) -> Shared:
        spec, rows = self.spec, self.spec.tile.m
        outputs = {"t": rows * tables.entry_count(spec) * self.entry_bits}
        by_pass = {}
        for name in self.multiples:
            outputs[name] = rows * self.width
        for plane in self.z_rows[1:]:
            for choice in ("0", "1"):
                if choice == "1" or self.folded:
                    outputs[f"z{plane}_{choice}"] = rows * (self.sum_bits + 1)
        if "row_middle" in self.multiples:
            if spec.max_passes == 1:
                only = "row_only" if "row_only" in self.multiples else "row_first"
                outputs = {
                    key: width
                    for key, width in outputs.items()
                    if not key.startswith("row_") or key == only
                }
                by_pass = {"row": (only, only, only, only)}
            else:
                last = "row_last" if "row_last" in self.multiples else "row_middle"
                both = "row_only" if "row_only" in self.multiples else "row_first"
                by_pass = {"row": ("row_middle", "row_first", last, both)}
        parity = None
        if self.halved:
            outputs["parity"] = rows
            parity = "parity"
        return Shared(outputs=outputs, by_pass=by_pass, parity=parity)

    def correction(self, name: str, total: Value) -> Value:
        """The named front-end output of one row, from its sum of activations."""
        from amaranth.hdl import Const

        if name == "parity":
            return total[0]
        if name in self.multiples:
            full, floor_half = self.multiples[name]
            value = Const(self.base)
            if full:
                value = value + total * full if full > 0 else value - total * -full
            if floor_half:
                value = value - (total >> 1)
            return value.as_unsigned()[: self.width] if len(value) >= self.width else _extend(
                value, self.width
            )
        choice = name[-1]
        value = total if choice == "1" else -total
        return _extend(value, self.sum_bits + 1)


def _extend(value: Value, width: int) -> Value:
    """Exactly ``width`` bits of a value, sign or zero extended."""
    from amaranth.hdl import Cat

    if len(value) >= width:
        return value.as_unsigned()[:width]
    top = value[-1] if value.shape().signed else 0
    return Cat(value.as_unsigned(), *[top for _ in range(width - len(value))])

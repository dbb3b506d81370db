"""Widths, bounds and corrections of a LUT core: derived once, used by front end and columns.

A step changes the accumulator's ``s = −1 − y`` by ``−D``, ``D`` the sum of the looked-up terms and
of what turns 0/1 or ±1 planes into the encoding's values (``S`` is the sum of the activations of
the step, ``P`` the planes a cycle, passes most significant first):

- unsigned, full tables: ``Σ_k a_k·(u_k − z) = Σ a·u`` where ``z = 0`` and ``−Σ a·ū`` where
  ``z = 1``. The complement ``ū`` is stored, and the plane's sum is negated in the column: a zero
  point costs one XOR a bit of a plane's sum and no ``Σ a`` at all.
- two's complement, full tables: the sign plane is negated, always if all planes come at once, else
  in the first pass.
- bipolar, full tables: ``y = 2H + p``; ``H`` takes ``−2^(P−1)·S`` in the first pass and
  ``floor((S + carry)/2)`` in the last, ``p`` is the parity that is left.
- symmetric tables are ±1 planes: bipolar needs nothing; otherwise the accumulator holds ``2y`` and
  takes ``Σ_p 2^p·(1 − 2·z_p)·S``, for two's complement ``(2^P − 1)·S`` and in the first pass
  ``−S`` instead.
- ternary needs nothing.

Floating activations come out of the front end as integers; where their exponent runs, columns also
get how far to shift what they hold down (``down``, see ``hw.lib.accumulator``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hw.blocks.lut_core import golden, tables
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.integers import weight_magnitude
from hw.lib.accumulator import digits
from hw.lib.gemm_shell import Shared

if TYPE_CHECKING:
    from amaranth.hdl import Value


class Plan:
    """Derived facts of a specification.

    Attributes:
        acc_bits: width of an accumulator.
        entry_bits: width of a stored entry; ``look_bits`` without a sign that never is set.
        negated: planes whose sum is negated at run time, by the column's zero-point bit or, for
            two's complement, in the first pass.
        fixed: planes whose sum is always negative.
        multiples: shared correction rows ``name -> (multiple of S, multiple of floor(S/2))``.
        bounds: smallest and largest sum of one plane's terms.
        down: radices of the digits that accumulators' shifts come in, the lowest digit first.
        moving: bits of an accumulator in a job's first pass, in which alone it is shifted.
        shared: the front end's outputs.
    """

    def __init__(self, spec: LutCoreSpec):
        self.spec = spec
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
        self.planes = 1 if spec.ternary else spec.planes_per_cycle
        self.multi_pass = spec.max_passes > 1
        self.negated: tuple[int, ...] = ()
        self.fixed: tuple[int, ...] = ()
        if not self.folded and encoding == "unsigned":
            self.negated = tuple(range(self.planes))
        elif not self.folded and encoding == "twos_complement":
            top = (self.planes - 1,)
            self.negated, self.fixed = (top, ()) if self.multi_pass else ((), top)
        self.multiples = self._multiples()
        self.bounds = self._bounds()
        self.down = digits(spec.activations.reach) if spec.activations.running else ()
        self.first = encoding == "twos_complement" and bool(self.negated)
        self.shared = self._shared()

    @property
    def moving(self) -> int:
        spec, a = self.spec, self.spec.activations
        weight = weight_magnitude("bipolar", self.planes) if not spec.ternary else 1
        most = spec.max_k_steps * spec.tile.k * a.high * weight
        return min(self.acc_bits, most.bit_length() + 1 + a.guard + self.doubled)

    def _multiples(self) -> dict[str, tuple[int, int]]:
        """Rows of the correction in ``−D``; ``z{p}_{bit}`` are chosen by the zero point."""
        top = 1 << (self.planes - 1)
        encoding = self.spec.weight_encoding
        if self.halved:
            rows = {
                "row_middle": (0, 0),
                "row_first": (top, 0),
                "row_last": (0, -1),
                "row_only": (top, -1),
            }
            return rows if self.multi_pass else {"row": rows["row_only"]}
        if not self.doubled:
            return {}
        if encoding == "unsigned":
            return {f"z_{bit}": (2 * bit - 1, 0) for bit in (0, 1)}
        rest = -(2 * top - 1)
        if not self.multi_pass:
            return {"row": (rest + 2 * top, 0)}
        return {"row_middle": (rest, 0), "row_first": (rest + 2 * top, 0)}

    @property
    def row_bits(self) -> int:
        """Width of a shared correction row, two's complement."""
        half = 1 << (self.sum_bits - 1)
        most = max(
            abs(full) * half + abs(floor_half) * (half // 2 + 1)
            for full, floor_half in self.multiples.values()
        )
        return most.bit_length() + 1

    def _bounds(self) -> tuple[int, int]:
        spec = self.spec
        if spec.quantized:
            low, high = -128 * len(spec.groups), (127 + self.folded) * len(spec.groups)
            return low if self.entry_signed else 0, high
        k = spec.tile.k
        low, high = k * spec.activations.low, k * spec.activations.high
        if self.folded:
            most = max(-low, high)
            return -most, most
        return low, high

    def step_bounds(self) -> tuple[int, int]:
        """Bounds of ``D`` of a whole step, all planes and corrections in."""
        low = high = 0
        for plane in range(self.planes):
            a, b = (value << plane for value in self.bounds)
            if plane in self.negated:
                a, b = min(a, -b), max(b, -a)
            elif plane in self.fixed:
                a, b = -b, -a
            low, high = low + a, high + b
        if self.multiples:
            half = 1 << (self.sum_bits - 1)
            most = max(
                abs(full) * half + abs(floor_half) * (half // 2 + 1)
                for full, floor_half in self.multiples.values()
            )
            if self.spec.zero_point:
                most *= (1 << self.planes) - 1
            low, high = low - most - self.halved, high + most + self.halved
        return low, high

    def _shared(self) -> Shared:
        spec, rows = self.spec, self.spec.tile.m
        outputs = {"t": rows * tables.entry_count(spec) * self.entry_bits}
        for name in self.multiples:
            outputs[name] = rows * self.row_bits
        by_pass = {}
        if "row_middle" in self.multiples:
            last = "row_last" if self.halved else "row_middle"
            only = "row_only" if self.halved else "row_first"
            by_pass = {"row": ("row_middle", "row_first", last, only)}
        if self.halved:
            outputs["parity"] = rows
        late, fields = self._floating()
        return Shared(
            outputs=outputs | late | fields,
            by_pass=by_pass,
            parity="parity" if self.halved else None,
            late=tuple(late),
            rows={name: name for name in fields},
            begins=self.spec.activations.floating,
        )

    def _floating(self) -> tuple[dict[str, int], dict[str, int]]:
        """Outputs for the accumulators, and for the fields of results that a row shares."""
        rows = self.spec.tile.m
        late = {"down": rows * sum(self.down)} if self.down else {}
        return late, {item.name: item.bits for item in self.spec.results if len(item.shape) == 1}

    def correction(self, name: str, total: Value) -> Value:
        """The named front-end output of one row, from its sum of activations."""
        from amaranth.hdl import Const

        if name == "parity":
            return total[0]
        full, floor_half = self.multiples[name]
        value: Value = Const(0)
        if full:
            value = value + total * full if full > 0 else value - total * -full
        if floor_half:
            value = value - (total >> 1)
        return fit(value, self.row_bits)


def fit(value: Value, width: int) -> Value:
    """Exactly ``width`` bits of a value, sign or zero extended."""
    from amaranth.hdl import Cat

    if len(value) >= width:
        return value.as_unsigned()[:width]
    top = value[-1] if value.shape().signed else 0
    return Cat(value.as_unsigned(), *[top for _ in range(width - len(value))])

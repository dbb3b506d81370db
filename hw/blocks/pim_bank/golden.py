"""Reference of a bank's unit: operations in their order, on accumulators.

- ``mac``: the core's own result of its operands (its golden model), which replaces an accumulator
  or is added to it: integers modulo ``2^accumulator_bits``, FP32 rounded once, to nearest even.
- ``bias``: 16 bits into an accumulator: a two's complement integer, or BF16 as FP32.
- ``activate``: identity; ReLU, which is +0 where the sign is set; or a table's line, ``slope · x +
  offset`` of the segment of ``x``, whose entries come by columns, the offset in the upper half:

  - integers: segment ``floor(x / 2^segment_log2)``, ``floor(slope · x / 2^fraction) + offset``,
    slope and offset of 16 bits, two's complement, the sum modulo ``2^accumulator_bits``;
  - FP32: segment ``floor(x · 2^−segment_log2)``, ``fl(fl(slope · x) + offset)``, both BF16.

  Segments count from ``−segments / 2``; what lies outside goes by the line of the end.
- ``read``: the accumulator.

Every NaN that an addition or a multiplication makes is 0x7FC00000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hw.block import block
from hw.blocks.pim_bank import operands
from hw.blocks.pim_bank.spec import PimBankSpec
from hw.formats import BF16, FP32
from hw.gemm import Job
from hw.integers import wrap
from hw.lazy import np
from hw.streams import Stream, StreamField

KINDS = ("mac", "bias", "activate", "read")
IDENTITY, RELU, TABLE = 0, 1, 2
QUIET = 0x7FC00000

WAITING = ("i_a", "i_w")
"""Inputs that are ready only when an operation asks for them."""


@dataclass(frozen=True, kw_only=True)
class BankOp:
    """One operation.

    Attributes:
        kind: one of :data:`KINDS`.
        keep: mac: add to the accumulator.
        function: activate: which.
        bias: 16 bits.
        operand: mac: rows of activations, ``(columns, operand_words · column_bits / 32)``.
        column: mac: rows of weights; activate: the table; ``(columns, column_bits / 32)``.
    """

    kind: str
    accumulator: int = 0
    keep: bool = False
    function: int = 0
    bias: int = 0
    operand: np.ndarray | None = None
    column: np.ndarray | None = None

    def columns(self, spec: PimBankSpec) -> int:
        """Columns that the operation takes."""
        return 0 if self.column is None else len(self.column)


@dataclass(frozen=True, kw_only=True)
class BankWork:
    """Operations; what they read was written by one of them before, and the last is a read."""

    ops: tuple[BankOp, ...]


def streams(spec: PimBankSpec) -> tuple[Stream, ...]:
    """``i_op``, ``i_a``, ``i_w``, ``o``."""
    steps = max(1, (spec.core.max_k_steps - 1).bit_length())
    op = (
        StreamField(name="kind", width=2, doc="0 mac, 1 bias, 2 activate, 3 read"),
        StreamField(name="accumulator", width=spec.accumulator_index_bits, doc="which"),
        StreamField(name="keep", width=1, doc="mac: 1 to add to the accumulator"),
        StreamField(name="function", width=2, doc="activate: 0 identity, 1 ReLU, 2 table"),
        StreamField(name="k_steps_m1", width=steps, doc="mac: K steps less one"),
        StreamField(name="bias", width=16, doc="bias: two's complement, or BF16"),
    )
    words = spec.column_bits // operands.WORD
    a = StreamField(
        name="a",
        width=operands.WORD,
        shape=(spec.operand_words * words,),
        doc="activations of a step as the core's i_a has them, then zeros",
    )
    w = StreamField(
        name="w",
        width=operands.WORD,
        shape=(words,),
        doc="a column: weights of a step as the core's i_w has them, or entries of a table",
    )
    bits = spec.unit.accumulator_bits
    o = StreamField(
        name="o",
        width=bits,
        signed=not spec.fp32,
        doc="FP32" if spec.fp32 else "two's complement",
    )
    return (
        Stream(name="i_op", direction="in", doc="operations", fields=op),
        Stream(name="i_a", direction="in", doc="broadcast, a beat a column of a mac", fields=(a,)),
        Stream(name="i_w", direction="in", doc="columns", fields=(w,)),
        Stream(name="o", direction="out", doc="accumulators that are read", fields=(o,)),
    )


class Accumulators:
    """The state of a unit. Integers are values, FP32 codes; None holds nothing yet."""

    def __init__(self, spec: PimBankSpec):
        self.spec = spec
        self.values: list[int | None] = [None] * spec.unit.accumulators

    def read(self, index: int) -> int:
        """An accumulator. ``ValueError``: nothing has been written to it."""
        value = self.values[index]
        if value is None:
            raise ValueError(f"accumulator {index}: is read before it is written")
        return value

    def bias(self, index: int, code: int) -> None:
        """16 bits into an accumulator."""
        self.values[index] = code << 16 if self.spec.fp32 else code - ((code >> 15) << 16)

    def mac(self, index: int, keep: bool, operand: np.ndarray, column: np.ndarray) -> None:
        """The core's result, added or put in."""
        result = dot(self.spec, operand, column)
        if keep:
            result = add(self.spec, self.read(index), result)
        self.values[index] = result

    def activate(self, index: int, function: int, column: np.ndarray | None) -> None:
        """A function of an accumulator."""
        x = self.read(index)
        if function == RELU:
            negative = x >> 31 if self.spec.fp32 else x < 0
            self.values[index] = 0 if negative else x
        elif function == TABLE:
            if column is None:
                raise ValueError("activate: a table is required")
            self.values[index] = line(self.spec, x, column)


def dot(spec: PimBankSpec, operand: np.ndarray, column: np.ndarray) -> int:
    """What the core gives for rows of operands: its own golden model."""
    work = operands.work(spec, operand, column)
    return int(block(spec.core.block).golden.expected(spec.core, work)["o"]["o"].reshape(-1)[0])


def add(spec: PimBankSpec, x: int, y: int) -> int:
    """The sum of two accumulators."""
    if not spec.fp32:
        return int(wrap(np.array(x + y), spec.unit.accumulator_bits))
    with np.errstate(invalid="ignore"):
        return _code(FP32.decode(np.array(x)) + FP32.decode(np.array(y)))


def _code(value: np.ndarray) -> int:
    """FP32 of a ``float64`` that is exact, or rounded to 53 bits of a sum of two FP32 numbers."""
    return QUIET if np.isnan(value) else int(FP32.encode(value))


def segment(spec: PimBankSpec, x: int) -> int:
    """Which entry of the table an accumulator goes by; of NaN any will do, here the first."""
    form = spec.unit.activation
    half = form.segments // 2
    if spec.fp32:
        value = float(FP32.decode(np.array(x)))
        if np.isnan(value):
            return 0
        scaled = np.floor(np.ldexp(value, -form.segment_log2))
        return int(np.clip(scaled, -half, half - 1)) + half
    return min(max(x >> form.segment_log2, -half), half - 1) + half


def line(spec: PimBankSpec, x: int, table: np.ndarray) -> int:
    """A table's value. ``table``: ``(table_columns, entries)``."""
    entry = int(np.asarray(table).reshape(-1)[segment(spec, x)])
    slope, offset = entry & 0xFFFF, entry >> 16
    if spec.fp32:
        with np.errstate(invalid="ignore", over="ignore"):
            # 24 bits by 8 are exact in float64, and so is what is rounded next, see _code.
            product = _code(FP32.decode(np.array(x)) * BF16.decode(np.array(slope)))
            return _code(FP32.decode(np.array(product)) + BF16.decode(np.array(offset)))
    slope, offset = (value - ((value >> 15) << 16) for value in (slope, offset))
    value = ((slope * x) >> spec.unit.activation.fraction) + offset
    bits = spec.unit.accumulator_bits
    # Python's integers: a product of 48 bits by 16 is none of numpy's.
    return ((value + (1 << bits - 1)) & ((1 << bits) - 1)) - (1 << bits - 1)


def results(spec: PimBankSpec, work: BankWork) -> list[int]:
    """What the reads of a work give."""
    state = Accumulators(spec)
    found = []
    for op in work.ops:
        if op.kind == "read":
            found.append(state.read(op.accumulator))
        elif op.kind == "bias":
            state.bias(op.accumulator, op.bias)
        elif op.kind == "activate":
            state.activate(op.accumulator, op.function, op.column)
        else:
            if op.operand is None or op.column is None:
                raise ValueError("mac: operands are required")
            state.mac(op.accumulator, op.keep, op.operand, op.column)
    return found


def beats(spec: PimBankSpec, work: BankWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats."""
    words = spec.column_bits // operands.WORD
    passes = len(spec.passes)

    def stacked(parts: list[np.ndarray], width: int) -> np.ndarray:
        return np.concatenate([np.zeros((0, width), dtype=np.int64), *parts])

    ops = work.ops
    return {
        "i_op": {
            "kind": np.array([KINDS.index(op.kind) for op in ops]),
            "accumulator": np.array([op.accumulator for op in ops]),
            "keep": np.array([int(op.keep) for op in ops]),
            "function": np.array([op.function for op in ops]),
            "k_steps_m1": np.array(
                [op.columns(spec) // passes - 1 if op.kind == "mac" else 0 for op in ops]
            ),
            "bias": np.array([op.bias for op in ops]),
        },
        "i_a": {
            "a": stacked(
                [op.operand for op in ops if op.operand is not None], spec.operand_words * words
            )
        },
        "i_w": {"w": stacked([op.column for op in ops if op.column is not None], words)},
    }


def expected(spec: PimBankSpec, work: BankWork) -> dict[str, dict[str, np.ndarray]]:
    """A beat a read."""
    return {"o": {"o": np.array(results(spec, work), dtype=np.int64)}}


# Stimulus ------------------------------------------------------------

STEPS = {"minimum": (1, 1), "small": (1, 4), "large": (20, 40)}


def random_work(spec: PimBankSpec, rng: np.random.Generator, *, size: str = "small") -> BankWork:
    """Corner-heavy random operations. ``size``: ``minimum``, ``small`` or ``large``."""
    if size not in STEPS:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    ops: list[BankOp] = []
    written: set[int] = set()
    count = 1 if size == "minimum" else int(rng.integers(2, 8))
    for _ in range(count):
        accumulator = int(rng.integers(spec.unit.accumulators))
        kind = rng.choice(("mac", "mac", "mac", "bias", "activate", "read"))
        if accumulator not in written and kind in ("activate", "read"):
            kind = "mac"
        if kind == "mac":
            keep = accumulator in written and bool(rng.integers(2))
            ops.append(random_mac(spec, rng, accumulator, keep=keep, size=size))
        elif kind == "bias":
            ops.append(BankOp(kind="bias", accumulator=accumulator, bias=random_bias(spec, rng)))
        elif kind == "read":
            ops.append(BankOp(kind="read", accumulator=accumulator))
        else:
            ops.append(random_function(spec, rng, accumulator))
        written.add(accumulator)
    ops.append(BankOp(kind="read", accumulator=accumulator))
    return BankWork(ops=tuple(ops))


def random_mac(
    spec: PimBankSpec,
    rng: np.random.Generator,
    accumulator: int,
    *,
    keep: bool = False,
    size: str = "small",
    k_steps: int | None = None,
) -> BankOp:
    """A dot product of corner-heavy operands."""
    core = spec.core
    low, high = STEPS[size]
    if k_steps is None:
        most = min(core.max_k_steps, high)
        k_steps = int(rng.integers(min(low, most), most + 1))
    golden = block(core.block).golden
    job = Job(k_steps=k_steps, weight_bits=core.max_weight_bits)
    found = golden.beats(core, golden.random_operands(core, rng, job))  # type: ignore[attr-defined]
    a, w = spec.core_streams["i_a"], spec.core_streams["i_w"]
    return BankOp(
        kind="mac",
        accumulator=accumulator,
        keep=keep,
        operand=operands.rows(a, dict(found["i_a"]), spec.operand_words * spec.column_bits),
        column=operands.rows(w, dict(found["i_w"]), spec.column_bits),
    )


def random_bias(spec: PimBankSpec, rng: np.random.Generator) -> int:
    """16 bits, corner-heavy."""
    if spec.fp32:
        return int(BF16.random_codes(rng, 1)[0])
    return int(rng.choice([0, 1, 0x7FFF, 0x8000, 0xFFFF, int(rng.integers(1 << 16))]))


def random_table(spec: PimBankSpec, rng: np.random.Generator) -> np.ndarray:
    """Entries of a table, ``(table_columns, entries)``."""
    shape = (spec.table_columns, spec.entries)
    if spec.fp32:
        finite = bool(rng.integers(4))
        slope, offset = (BF16.random_codes(rng, shape, finite=finite) for _ in range(2))
        return slope.astype(np.int64) | offset.astype(np.int64) << 16
    return rng.integers(0, 1 << 32, size=shape)


def random_function(spec: PimBankSpec, rng: np.random.Generator, accumulator: int) -> BankOp:
    """An activation."""
    function = int(rng.integers(3 if spec.table_columns else 2))
    return BankOp(
        kind="activate",
        accumulator=accumulator,
        function=function,
        column=random_table(spec, rng) if function == TABLE else None,
    )


def corner_works(spec: PimBankSpec, rng: np.random.Generator) -> tuple[BankWork, ...]:
    """Values on both sides of every border of a segment, and at the ends, through the table."""
    if not spec.table_columns:
        return ()
    form = spec.unit.activation
    half = form.segments // 2
    works = []
    for border in range(-half - 1, half + 2):
        ops: list[BankOp] = []
        for nudge in (-1, 0, 1):
            if spec.fp32:
                code = int(BF16.encode(np.array(np.ldexp(float(border), form.segment_log2))))
                bias = (code + nudge) & 0xFFFF
            else:
                bias = ((border << form.segment_log2) + nudge) & 0xFFFF
            table = random_table(spec, rng)
            ops += [
                BankOp(kind="bias", bias=bias),
                BankOp(kind="activate", function=TABLE, column=table),
                BankOp(kind="read"),
            ]
        works.append(BankWork(ops=tuple(ops)))
    return tuple(works)


def explain(
    spec: PimBankSpec, work: BankWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The operations up to a read."""
    words: list[str] = []
    reads = 0
    for op in work.ops:
        text = f"{op.kind} {op.accumulator}"
        if op.kind == "mac":
            text += f"{' keep' if op.keep else ''} of {op.columns(spec)} columns"
        elif op.kind == "bias":
            text += f" {op.bias:#06x}"
        elif op.kind == "activate":
            text += f" function {op.function}"
        words.append(text)
        if op.kind == "read":
            if reads == index[0]:
                break
            reads += 1
    return "; ".join(words)


def coverage(spec: PimBankSpec, work: BankWork) -> Iterator[str]:
    """Coverage points of one work; see :func:`coverage_points`."""
    state = Accumulators(spec)
    for op in work.ops:
        yield f"op={op.kind}"
        index = op.accumulator
        if op.kind == "bias":
            state.bias(index, op.bias)
        elif op.kind == "activate":
            yield f"function={('identity', 'relu', 'table')[op.function]}"
            if op.function == TABLE:
                yield f"segment={_region(spec, segment(spec, state.read(index)))}"
            state.activate(index, op.function, op.column)
        elif op.kind == "mac" and op.operand is not None and op.column is not None:
            yield f"keep={int(op.keep)}"
            state.mac(index, op.keep, op.operand, op.column)
        value = state.read(index)
        yield "sign=negative" if (value >> 31 if spec.fp32 else value < 0) else "sign=positive"


def _region(spec: PimBankSpec, index: int) -> str:
    last = spec.unit.activation.segments - 1
    return {0: "first", last: "last"}.get(index, "inner")


def coverage_points(spec: PimBankSpec) -> tuple[str, ...]:
    """Every coverage point."""
    points = [f"op={kind}" for kind in KINDS]
    points += ["keep=0", "keep=1", "function=identity", "function=relu"]
    points += ["sign=negative", "sign=positive"]
    if spec.table_columns:
        points += ["function=table", "segment=first", "segment=last"]
        points += ["segment=inner"] if spec.unit.activation.segments > 2 else []
    return tuple(points)

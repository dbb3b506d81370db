"""Monitors of a core's arithmetic: for all operands of a job the result is ``Σ a·w``.

The operands of one job are constants of the monitor that may be anything (``anyconst``). The
reference multiplies and adds them as the encodings of ``hw.gemm`` define their values; it knows no
table, digit, plane or heap. Beside it the same operands are packed into beats as the streams of the
golden models document, and offered to the design. While a stream is not valid its payload is noise.
When the result is due, the timing models say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hw.block import block
from hw.blocks.bitserial_core.spec import BitserialCoreSpec
from hw.blocks.lut_core import golden as lut_golden
from hw.blocks.lut_core import tables
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.gemm import GemmWork, Job, activation_bits, passes
from hw.integers import Encoding, IntegerGemmSpec
from hw.lazy import np
from hw.streams import Stream
from rtl_gen.errors import InputError
from sim.formal.prove import Monitor
from sim.formal.rules import footer, header
from sim.source import streams


@dataclass(frozen=True, kw_only=True)
class Code:
    """How operands are held and what they are worth, for one encoding and width.

    Attributes:
        bits: width of a held code.
        value: Verilog of the value of code ``{w}`` with zero point ``{z}``, both of ``bits`` bits.
        valid: Verilog of what codes are, or "" if all are.
    """

    bits: int
    value: str
    valid: str = ""


def code(encoding: Encoding, bits: int) -> Code:
    """The codes of an encoding, after the table in ``hw.gemm.weight_codes``."""
    match encoding:
        case "unsigned":
            return Code(bits=bits, value="$signed({{1'b0, {w}}}) - $signed({{1'b0, {z}}})")
        case "twos_complement":
            return Code(bits=bits, value="$signed({w})")
        case "bipolar":
            # 2u − (2^B − 1)
            value = f"$signed({{{{1'b0, {{w}}, 1'b0}}}}) - {bits + 2}'sd{2**bits - 1}"
            return Code(bits=bits, value=value)
        case "ternary":
            return Code(bits=2, value="$signed({w})", valid="{w} != 2'b10")


def _extended(spec: IntegerGemmSpec, weight: str, value: str, bits: int, width: int) -> str:
    """A code of ``width`` bits of the same value."""
    if width == bits:
        return weight
    if spec.weight_encoding == "bipolar":
        # (value + 2^width − 1) / 2, the value odd: drop the lowest bit of the sum.
        return f"({value} + {width + 2}'sd{2**width - 1}) >>> 1"
    if spec.weight_encoding == "unsigned":
        return f"{{{width - bits}'d0, {weight}}}"
    return f"{{{{{width - bits}{{{weight}[{bits - 1}]}}}}, {weight}}}"


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a job's operands lie in beats.

    Of activations the codes are ``a_<m>_<k>``, of weights ``x_<n>_<k>``, of zero points ``z_<n>``.

    Attributes:
        operands: beats of the activations' side, one of each step of each pass, in order.
        weights: the same of ``i_w``.
        width: bits of ``x`` and ``z``; what a job's codes are extended to.
        assumed: what has to hold of the codes for a job that leaves out planes.
    """

    operands: list[str]
    weights: list[str]
    width: int
    assumed: list[str]


def _lut_weights(spec: IntegerGemmSpec, job: Job) -> list[str]:
    """Beats of ``i_w`` of a LUT core, see ``hw.blocks.lut_core.golden.weight_stream``.

    Values are ``v_<n>_<k>``.
    """
    assert isinstance(spec, LutCoreSpec)  # noqa: S101  (told by the table PACKING)
    n, k, planes = spec.tile.n, spec.tile.k, spec.planes_per_cycle
    width = _pass_bits(spec, job)
    beats = []
    for first in range(width - planes, -1, -planes) if not spec.ternary else [0]:
        for step in range(job.k_steps):
            bits: list[str] = []
            for column in range(n):
                codes = [f"x_{column}_{step * k + lane}" for lane in range(k)]
                if spec.weights.packing == "base3":
                    bits += _base3(codes)
                elif spec.ternary:
                    bits += [b for x in codes for b in (f"({x} != 0)", f"{x}[1]")]
                else:
                    chosen = range(first, first + planes)
                    bits += _planes(spec, codes, f"z_{column}", chosen, width)
            if spec.zero_point:
                bits += [f"z_{c}[{first + p}]" for c in range(n) for p in range(planes)]
            beats.append(f"{{{', '.join(reversed(bits))}}}")
    return beats


def _pass_bits(spec: IntegerGemmSpec, job: Job) -> int:
    """Bits of the codes that the passes over the weights' planes take."""
    if spec.weight_encoding == "ternary":
        return 2
    return passes(spec, job.weight_bits) * spec.planes_per_cycle


def _planes(spec: LutCoreSpec, codes: list[str], z: str, chosen: range, width: int) -> list[str]:
    """One column's bits, lane by lane and plane by plane, folded as the core wants them."""
    rows = []
    for plane in chosen:
        row = [f"{x}[{plane}]" for x in codes]
        if spec.symmetric:
            if spec.weight_encoding == "twos_complement" and plane == width - 1:
                row = [f"(~{bit})" for bit in row]
            for group in spec.groups:
                top = row[group[-1]]
                for lane in group[:-1]:
                    # The half of the table that is not stored is looked up by the complement.
                    row[lane] = f"({row[lane]} ^ ~{top})"
                row[group[-1]] = f"(~{top})"
        elif spec.zero_point:
            row = [f"({bit} ^ {z}[{plane}])" for bit in row]
        rows.append(row)
    return [rows[p][lane] for lane in range(len(codes)) for p in range(len(rows))]


def _base3(codes: list[str]) -> list[str]:
    """Bytes ``Σ (t + 1)·3^i``; lanes beyond the last are zeros."""
    found = []
    for index in range(0, len(codes), 5):
        trits = [f"$signed({x}) + 8'sd1" for x in codes[index : index + 5]]
        trits += ["8'sd1"] * (5 - len(trits))
        found.append(" + ".join(f"({trit}) * 8'sd{3**i}" for i, trit in enumerate(trits)))
    return [f"byte8({total})" for total in found]


def _mac_weights(spec: IntegerGemmSpec, job: Job) -> list[str]:
    """Beats of ``i_w`` of a multiplier array: codes in two's complement or as they are."""
    n, k = spec.tile.n, spec.tile.k
    beats = []
    for step in range(job.k_steps):
        words = [f"x_{c}_{step * k + lane}" for c in range(n) for lane in range(k)]
        words += [f"z_{c}" for c in range(n)] if spec.zero_point else []
        beats.append(f"{{{', '.join(reversed(words))}}}")
    return beats


def _lut_operand(spec: IntegerGemmSpec, step: int) -> str:
    """One beat of ``i_a``, or of ``i_t`` with the tables of those activations."""
    assert isinstance(spec, LutCoreSpec)  # noqa: S101  (told by the table PACKING)
    m, k = spec.tile.m, spec.tile.k
    lanes = [[f"a_{row}_{step * k + lane}" for lane in range(k)] for row in range(m)]
    if spec.table.source == "internal":
        words = [lane for row in lanes for lane in row]
        if spec.quantized:
            # Entries that fit INT8 are exact under a shift of zero.
            words.append(f"{spec.shift_bits}'d0")
        return f"{{{', '.join(reversed(words))}}}"
    words = []
    bits = lut_golden.entry_bits(spec)
    for row in lanes:
        for group, patterns in zip(spec.groups, tables.group_patterns(spec), strict=True):
            words += [
                f"entry{bits}("
                + " ".join(
                    f"{'+' if sign > 0 else '-'} {_signed(spec, row[lane])}"
                    for lane, sign in zip(group, pattern, strict=True)
                    if sign
                )
                + ")"
                for pattern in patterns
            ]
    if spec.needs_sum:
        total = lut_golden.sum_bits(spec)
        for row in lanes:
            words.append(f"entry{total}({' + '.join(_signed(spec, lane) for lane in row)})")
    return f"{{{', '.join(reversed(words))}}}"


def _mac_operand(spec: IntegerGemmSpec, step: int) -> str:
    m, k = spec.tile.m, spec.tile.k
    words = [f"a_{row}_{step * k + lane}" for row in range(m) for lane in range(k)]
    return f"{{{', '.join(reversed(words))}}}"


def _by_weights(
    operand: Callable[[IntegerGemmSpec, int], str],
    weights: Callable[[IntegerGemmSpec, Job], list[str]],
) -> Callable[[IntegerGemmSpec, Job], Packing]:
    """Packing of a core whose passes repeat the activations."""

    def packing(spec: IntegerGemmSpec, job: Job) -> Packing:
        steps = [operand(spec, step) for step in range(job.k_steps)]
        return Packing(
            operands=steps * passes(spec, job.weight_bits),
            weights=weights(spec, job),
            width=_pass_bits(spec, job),
            assumed=[],
        )

    return packing


def _by_pairs(spec: IntegerGemmSpec, job: Job) -> Packing:
    """One plane of A and one of W a pass, by ``i + j`` from the highest, then by ``i``.

    See ``hw.blocks.bitserial_core.golden``: a plane of unsigned weights is ``w_j XOR z_j``.
    """
    assert isinstance(spec, BitserialCoreSpec)  # noqa: S101  (told by the table PACKING)
    m, n, k = spec.tile.m, spec.tile.n, spec.tile.k
    a_mask, w_mask = spec.job_planes(job)

    def weight(column: int, index: int, plane: int) -> str:
        bit = f"x_{column}_{index}[{plane}]"
        return f"({bit} ^ z_{column}[{plane}])" if spec.zero_point else bit

    pairs = sorted(
        ((i, j) for i in _bits(a_mask) for j in _bits(w_mask)), key=lambda p: (-sum(p), p[0])
    )
    operands, weights = [], []
    for i, j in pairs:
        for step in range(job.k_steps):
            lanes = range(step * k, (step + 1) * k)
            a = [f"a_{row}_{index}[{i}]" for row in range(m) for index in lanes]
            w = [weight(column, index, j) for column in range(n) for index in lanes]
            w += [f"z_{column}[{j}]" for column in range(n)] if spec.zero_point else []
            operands.append(f"{{{', '.join(reversed(a))}}}")
            weights.append(f"{{{', '.join(reversed(w))}}}")
    # Planes that are left out are zero throughout.
    depth = range(job.k_steps * k)
    absent = [plane for plane in range(activation_bits(spec, job)) if not a_mask >> plane & 1]
    assumed = [f"a_{row}_{index}[{i}] == 0" for row in range(m) for index in depth for i in absent]
    absent = [plane for plane in range(job.weight_bits) if not w_mask >> plane & 1]
    assumed += [f"{weight(c, index, j)} == 0" for c in range(n) for index in depth for j in absent]
    return Packing(operands=operands, weights=weights, width=job.weight_bits, assumed=assumed)


def _bits(mask: int) -> list[int]:
    return [index for index in range(mask.bit_length()) if mask >> index & 1]


PACKING: Mapping[type, Callable[[IntegerGemmSpec, Job], Packing]] = {
    LutCoreSpec: _by_weights(_lut_operand, _lut_weights),
    MacCoreSpec: _by_weights(_mac_operand, _mac_weights),
    BitserialCoreSpec: _by_pairs,
}
"""Per core how a job's activations and weights lie in beats."""


def _signed(spec: IntegerGemmSpec, lane: str) -> str:
    """An activation of integers."""
    return (
        f"$signed({lane})"
        if spec.activations.code == "twos_complement"
        else f"$signed({{1'b0, {lane}}})"
    )


def _activation(spec: IntegerGemmSpec, lane: str, bits: int) -> str:
    """The value of an activation's code of that width."""
    if spec.activations.code == "bipolar":
        return code("bipolar", bits).value.format(w=lane)
    return _signed(spec, lane)


def _functions(spec: IntegerGemmSpec) -> str:
    """Functions that give sums a width of their own inside a concatenation."""
    text = "function [7:0] byte8(input [7:0] value); byte8 = value; endfunction\n"
    if isinstance(spec, LutCoreSpec) and spec.table.source == "port":
        for bits in sorted({lut_golden.entry_bits(spec), lut_golden.sum_bits(spec)}):
            text += (
                f"function [{bits - 1}:0] entry{bits}(input signed [{bits - 1}:0] value);"
                f" entry{bits} = value; endfunction\n"
            )
    return text


def product_rules(spec: IntegerGemmSpec, job: Job, *, stalls: bool = False) -> Monitor:
    """One job from reset: for all operands the exact result, in the very cycle that is foretold.

    Args:
        job: its shape; what it multiplies is free.
        stalls: every stream may stall in every cycle; then the cycle of the result is not checked.

    Raises:
        InputError: how the core packs its operands is not known here.
    """
    if type(spec) not in PACKING:
        raise InputError(f"{spec.block}: its packing is not described in sim.formal.datapath")
    packed = PACKING[type(spec)](spec, job)
    ports = {stream.name: stream for stream in streams(spec)}
    operand = next(name for name in ports if name in ("i_a", "i_t"))
    m, n, k = spec.tile.m, spec.tile.n, spec.tile.k
    depth, a_bits = job.k_steps * k, activation_bits(spec, job)
    held = code(spec.weight_encoding, job.weight_bits)
    width = packed.width
    beats = {
        "i_job": [_job_beat(ports["i_job"], spec, job)],
        operand: packed.operands,
        "i_w": packed.weights,
    }
    if spec.addend:
        beats["i_c"] = [_words("c", m, n)] if job.accumulate else []

    inputs = [f"input [{ports[name].width - 1}:0] noise_{name}" for name in beats]
    if stalls:
        inputs += [f"input stall_{name}" for name in (*beats, "o")]
    text = [header(spec.name, tuple(ports.values()), driven=True, extra=inputs), _functions(spec)]
    text.append("always @* assume(rst == !started);\n")

    # Operands: free, and the same in every cycle.
    registers = {f"a_{row}_{i}": a_bits for row in range(m) for i in range(depth)}
    registers |= {f"w_{column}_{i}": held.bits for column in range(n) for i in range(depth)}
    if spec.zero_point:
        registers |= {f"q_{column}": held.bits for column in range(n)}
    if job.accumulate:
        registers |= {f"c_{row}_{c}": spec.result_bits for row in range(m) for c in range(n)}
    for name, bits in registers.items():
        text.append(f"(* keep, anyconst *) reg [{bits - 1}:0] {name};\n")
    value_bits = held.bits + 2
    for column in range(n):
        if spec.zero_point:
            extended = _extended(spec, f"q_{column}", "", held.bits, width)
            text.append(f"wire [{width - 1}:0] z_{column} = {extended};\n")
        for i in range(depth):
            w = f"w_{column}_{i}"
            names = {"w": w, "z": f"q_{column}"}
            value = f"v_{column}_{i}"
            text.append(
                f"wire signed [{value_bits - 1}:0] {value} = {held.value.format(**names)};\n"
            )
            extended = _extended(spec, w, value, held.bits, width)
            text.append(f"wire [{width - 1}:0] x_{column}_{i} = {extended};\n")
            if held.valid:
                text.append(f"always @* assume({held.valid.format(**names)});\n")

    text += [f"always @* assume({rule});\n" for rule in packed.assumed]

    # Beats in their order; an index a stream counts those that were taken.
    ready = {name: f"{name}__ready" for name in beats}
    for name, words in beats.items():
        bits = ports[name].width
        count = len(words).bit_length() + 1
        stall = f" & ~stall_{name}" if stalls else ""
        text.append(f"reg [{count - 1}:0] n_{name} = 0;\n")
        text.append(f"assign {name}__valid = started & n_{name} < {len(words)}{stall};\n")
        text += [f"wire [{bits - 1}:0] {name}_{i} = {word};\n" for i, word in enumerate(words)]
        chosen = f"noise_{name}"
        for i in range(len(words) - 1, -1, -1):
            chosen = f"n_{name} == {i} ? {name}_{i} : {chosen}"
        text.append(
            f"assign {name}__payload = {name}__valid ? ({chosen}) : noise_{name};\n"
            f"always @(posedge clk) if ({name}__valid & {ready[name]}) n_{name} <= n_{name} + 1;\n"
        )
    text.append(f"assign o__ready = {'~stall_o' if stalls else '1'};\n")

    # The reference, wide enough for every sum of these operands.
    wide = spec.result_bits + 2
    product_bits = a_bits + 1 + value_bits
    for row in range(m):
        for column in range(n):
            terms = []
            for i in range(depth):
                term = f"p_{row}_{column}_{i}"
                a = _activation(spec, f"a_{row}_{i}", a_bits)
                text.append(
                    f"wire signed [{product_bits - 1}:0] {term} = ({a}) * v_{column}_{i};\n"
                )
                terms.append(term)
            if job.accumulate:
                terms.append(f"$signed(c_{row}_{column})")
            text.append(
                f"wire signed [{wide - 1}:0] reference_{row}_{column} = {' + '.join(terms)};\n"
            )
    # Without an addend the result is the number itself, else its two's complement.
    compared = spec.result_bits if job.accumulate else wide
    for row in range(m):
        for column in range(n):
            low = (row * n + column) * spec.result_bits
            text.append(
                f"wire signed [{spec.result_bits - 1}:0] o_{row}_{column} ="
                f" o__payload[{low + spec.result_bits - 1}:{low}];\n"
                f"wire signed [{compared - 1}:0] got_{row}_{column} = o_{row}_{column};\n"
                f"wire signed [{compared - 1}:0] want_{row}_{column} = reference_{row}_{column};\n"
                f"(* keep *) wire ok_product_{row}_{column} = ~started | ~o__valid |"
                f" got_{row}_{column} == want_{row}_{column};\n"
            )
    checks = {
        f"product_{row}_{column}": f"o[{row},{column}] is Σ a[{row},k]·w[{column},k]"
        for row in range(m)
        for column in range(n)
    }
    due = _due(spec, job)
    text.append(
        "reg [7:0] now = 0;\n"
        "reg delivered = 0;\n"
        "always @(posedge clk) begin\n"
        "  now <= now + 1;\n"
        "  if (started & o__valid & o__ready) delivered <= 1;\n"
        "end\n"
        "(* keep *) reg witness = 0;\n"
        "always @(posedge clk) if (delivered) witness <= 1;\n"
    )
    if stalls:
        text.append("(* keep *) wire ok_once = ~delivered | ~o__valid;\n")
        checks["once"] = "one result, not two"
    else:
        text.append(f"(* keep *) wire ok_cycle = ~started | o__valid == (now == {due});\n")
        checks["cycle"] = f"the result is there in cycle {due} after reset, in no other"
    text.append(footer(list(checks)))
    return Monitor(
        text="".join(text),
        checks=checks,
        witness="witness",
        witness_by=due + 4,
        streams=tuple(ports.values()),
        shown=(
            *registers,
            *(f"want_{row}_{column}" for row in range(m) for column in range(n)),
        ),
    )


def due_cycles(spec: IntegerGemmSpec, job: Job, *, slack: int = 1) -> int:
    """Cycles of a proof: reset, the job, and ``slack`` more."""
    return 1 + _due(spec, job) + slack


def _due(spec: IntegerGemmSpec, job: Job) -> int:
    """Cycles of a job that nothing stalls, as the core's timing model says."""
    timing: Any = block(spec.block).timing
    none = np.zeros(0, dtype=np.int64)
    return int(timing.cycles(spec, [GemmWork(job=job, a=none, w=none)]))


def _job_beat(stream: Stream, spec: IntegerGemmSpec, job: Job) -> str:
    values: dict[str, Any] = {
        "k_steps_m1": job.k_steps - 1,
        **spec.job_values(job),
        "accumulate": int(job.accumulate),
    }
    words = [f"{field.width}'d{values[field.name]}" for field in stream.fields]
    return f"{{{', '.join(reversed(words))}}}"


def _words(name: str, rows: int, columns: int) -> str:
    words = [f"{name}_{row}_{column}" for row in range(rows) for column in range(columns)]
    return f"{{{', '.join(reversed(words))}}}"

"""Monitors of one step of a core without extra registers: an induction over steps, hence over jobs.

The monitor keeps, per output, the sum that a job has reached: in every step that fires it adds
``Σ a·d`` of the beats that crossed the ports last, ``d`` the digit of the weight that this pass is
about, and doubles ``P`` times at the start of each pass but the first (``hw.gemm``). Shown is that
the accumulators hold that sum at all times and ``o`` gives it: for jobs of any length, one behind
the other, under any stalls and any resets. That the digits of all passes make the weight,
``Σ 2^(P·pass)·d = w``, is what :mod:`sim.formal.datapath` shows from the first beat to the result.
"""

from __future__ import annotations

from hw.blocks.lut_core.spec import LutCoreSpec
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.integers import IntegerGemmSpec
from hw.streams import Stream
from rtl_gen.errors import InputError
from sim.formal import jobs
from sim.formal.prove import Monitor
from sim.formal.rules import footer, header
from sim.source import streams


def _element(stream: Stream, field: str, index: int) -> str:
    """Bits of element ``index`` of a field, in the copy ``beat_<stream>``."""
    found = next(item for item in stream.fields if item.name == field)
    low = stream.offset(field) + index * found.width
    return f"beat_{stream.name}[{low + found.width - 1}:{low}]"


def _lut_digits(spec: LutCoreSpec, stream: Stream, column: int) -> list[str]:
    """Per lane the digit that a beat of ``i_w`` carries, signed Verilog."""
    k, planes = spec.tile.k, spec.planes_per_cycle
    if spec.weights.packing == "base3":
        raise InputError("step: trits of base3 are shown by the jobs from reset only")
    if spec.ternary:
        found = []
        for lane in range(k):
            base = (column * k + lane) * 2
            one, negative = (_element(stream, "w", base + i) for i in range(2))
            found.append(f"({one} ? ({negative} ? -3'sd1 : 3'sd1) : 3'sd0)")
        return found
    bits = planes + 3
    digits: list[list[str]] = [[] for _ in range(k)]
    for plane in range(planes):
        raw = [_element(stream, "w", (column * k + lane) * planes + plane) for lane in range(k)]
        if spec.symmetric:
            for group in spec.groups:
                top = raw[group[-1]]
                for lane in group[:-1]:
                    raw[lane] = f"({raw[lane]} ^ {top})"
                raw[group[-1]] = f"(~{top})"
        z = _element(stream, "z", column * planes + plane) if spec.zero_point else ""
        if spec.zero_point and not spec.symmetric:
            raw = [f"({bit} ^ {z})" for bit in raw]
        for lane, bit in enumerate(raw):
            unit = f"$signed({{{bits - 1}'d0, {bit}}})"
            if spec.zero_point:
                unit = f"({unit} - $signed({{{bits - 1}'d0, {z}}}))"
            elif spec.weight_encoding == "twos_complement" and plane == planes - 1:
                sign = f"({unit} - {bits}'sd1)" if spec.symmetric else f"(-{unit})"
                unit = f"(is_first_pass ? {sign} : {unit})"
            elif spec.weight_encoding == "bipolar":
                # Of 0/1 planes the first pass takes −2^P and the last gives +1, see below.
                unit = f"({unit} <<< 1)" + ("" if not spec.symmetric else f" - {bits}'sd1")
            digits[lane].append(f"(({unit}) <<< {plane})")
    totals = [" + ".join(parts) for parts in digits]
    if spec.weight_encoding == "bipolar" and not spec.symmetric:
        rest = (
            f" - (is_first_pass ? {bits}'sd{1 << planes} : {bits}'sd0)"
            f" + (is_last_pass ? {bits}'sd1 : {bits}'sd0)"
        )
        totals = [total + rest for total in totals]
    return [f"({total})" for total in totals]


def _mac_digits(spec: IntegerGemmSpec, stream: Stream, column: int) -> list[str]:
    k, bits = spec.tile.k, spec.max_weight_bits
    found = []
    for lane in range(k):
        w = _element(stream, "w", column * k + lane)
        match spec.weight_encoding:
            case "unsigned":
                z = _element(stream, "z", column)
                found.append(f"($signed({{1'b0, {w}}}) - $signed({{1'b0, {z}}}))")
            case "bipolar":
                found.append(f"($signed({{1'b0, {w}, 1'b0}}) - {bits + 2}'sd{2**bits - 1})")
            case _:
                found.append(f"$signed({w})")
    return found


def step_rules(spec: IntegerGemmSpec) -> Monitor:
    """The accumulators hold what the steps so far sum up to, and a result is that sum.

    Raises:
        InputError: the core is neither ``lut_core`` nor ``mac_core``, or it has registers besides
            those of its ports, quantized entries, tables from outside, or weights of five trits a
            byte.
    """
    if not isinstance(spec, LutCoreSpec | MacCoreSpec):
        raise InputError(f"step: the digits of {spec.block} are not described in sim.formal.steps")
    if spec.pipeline.front or spec.pipeline.heap:
        raise InputError("step: needs a pipeline without extra registers")
    if isinstance(spec, LutCoreSpec) and (spec.quantized or spec.table.source == "port"):
        raise InputError("step: needs exact entries made inside")
    ports = streams(spec)
    by_name = {stream.name: stream for stream in ports}
    weights = by_name["i_w"]
    m, n, k = spec.tile.m, spec.tile.n, spec.tile.k
    bits = spec.result_bits
    halved = doubled = False
    if isinstance(spec, LutCoreSpec):
        halved = spec.weight_encoding == "bipolar" and not spec.symmetric
        doubled = spec.symmetric and spec.weight_encoding in ("unsigned", "twos_complement")
    shift = spec.planes_per_cycle

    text = [header(spec.name, ports), jobs.descriptor(spec), jobs.transfers(spec)]
    count = jobs.counter_bits(spec)
    probes = {"fire": 1, "active": 1, "a_full": 1, "w_full": 1, "first_step": 1}
    probes["steps_left"] = probes["k_steps_m1"] = jobs.step_bits(spec)
    probes["passes_left"] = max(1, (spec.max_passes - 1).bit_length())
    if spec.max_passes > 1:
        probes["first_pass"] = 1
    if spec.addend:
        probes["accumulate"] = 1
    nets = {f"p_{name}": name for name in probes}
    text += [f"wire [{width - 1}:0] p_{name};\n" for name, width in probes.items()]

    # Copies of the beats that were taken last.
    for name in ("i_a", "i_w"):
        text.append(
            f"reg [{by_name[name].width - 1}:0] beat_{name};\n"
            f"always @(posedge clk) if (take_{name}) beat_{name} <= {name}__payload;\n"
        )
    text.append(f"wire [{by_name['i_a'].width - 1}:0] p_held;\n")
    nets["p_held"] = "front.held"
    held = []
    for column in range(n):
        for field in weights.fields:
            width = field.bits // n
            low = weights.offset(field.name) + column * width
            probe = f"p_{field.name}_{column}"
            text.append(f"wire [{width - 1}:0] {probe};\n")
            nets[probe] = f"column_{column}.{field.name}_q"
            held.append(f"{probe} == beat_i_w[{low + width - 1}:{low}]")

    # Where the job is: a copy of its own, counted by the steps that fire.
    text.append(
        f"reg [{count - 1}:0] at_step, at_pass, job_last, job_first;\n"
        "reg job_adds;\n"
        "wire is_first_step = at_step == job_last;\n"
        "wire is_first_pass = at_pass == job_first;\n"
        "wire is_last_pass = at_pass == 0;\n"
        "wire is_last_step = at_step == 0;\n"
        "always @(posedge clk) begin\n"
        "  if (p_fire) begin\n"
        "    at_step <= is_last_step ? job_last : at_step - 1;\n"
        "    if (is_last_step) at_pass <= at_pass - 1;\n"
        "  end\n"
        "  if (take_i_job) begin\n"
        "    at_step <= job_k;\n"
        "    job_last <= job_k;\n"
        "    at_pass <= job_passes - 1;\n"
        "    job_first <= job_passes - 1;\n"
        "    job_adds <= job_accumulate;\n"
        "  end\n"
        "end\n"
    )
    same = [
        "p_steps_left == at_step",
        "p_k_steps_m1 == job_last",
        "p_passes_left == at_pass",
        "p_first_step == is_first_step",
        "at_step <= job_last",
        "at_pass <= job_first",
        f"job_first < {spec.max_passes}",
    ]
    if spec.max_passes > 1:
        same.append("p_first_pass == is_first_pass")
    if spec.addend:
        same.append("p_accumulate == job_adds")

    # The sums.
    for column in range(n):
        digits = (
            _lut_digits(spec, weights, column)
            if isinstance(spec, LutCoreSpec)
            else _mac_digits(spec, weights, column)
        )
        for lane, digit in enumerate(digits):
            width = spec.max_weight_bits + 3
            text.append(f"wire signed [{width - 1}:0] d_{column}_{lane} = {digit};\n")
    if halved:
        text.append(f"wire [{m - 1}:0] p_running;\n")
        nets["p_running"] = "running"
    wires: dict[str, str] = {}
    checks: dict[str, str] = {}
    reached = "(o__valid | (p_active & ~(is_first_step & is_first_pass)))"
    for row in range(m):
        for column in range(n):
            terms = []
            for lane in range(k):
                a = _element(by_name["i_a"], "a", row * k + lane)
                a = (
                    f"$signed({a})"
                    if spec.activations.code == "twos_complement"
                    else f"$signed({{1'b0, {a}}})"
                )
                term = f"p_{row}_{column}_{lane}"
                text.append(
                    f"wire signed [{spec.activations.widest + spec.max_weight_bits + 3}:0] {term}"
                    f" = {a} * d_{column}_{lane};\n"
                )
                terms.append(term)
            place = (row * n + column) * bits
            name = f"{row}_{column}"
            c = f"$signed(i_c__payload[{place + bits - 1}:{place}])" if spec.addend else ""
            added = f" + (job_adds & is_first_step & is_last_pass ? {c} : {bits}'sd0)"
            text.append(
                f"reg signed [{bits - 1}:0] sum_{name};\n"
                f"wire signed [{bits - 1}:0] step_{name} = {' + '.join(terms)};\n"
                f"wire signed [{bits - 1}:0] base_{name} = is_first_step ? "
                f"(is_first_pass ? {bits}'sd0 : sum_{name} <<< {shift}) : sum_{name};\n"
                f"always @(posedge clk) if (p_fire) sum_{name} <= base_{name} + step_{name}"
                f"{added if spec.addend else ''};\n"
                f"wire signed [{bits - 1}:0] o_{name} = o__payload[{place + bits - 1}:{place}];\n"
            )
            wires[f"sum_{name}"] = f"~o__valid | o_{name} == sum_{name}"
            checks[f"sum_{name}"] = f"o[{row},{column}] is the sum that the steps reach"
            if halved:
                # Bit 0 is the parity of the last pass, which earlier passes leave open.
                wires[f"h_{name}"] = (
                    f"~{reached} | ((o_{name} ^ sum_{name}) >> 1 == 0 & "
                    f"(o__valid | (is_last_pass & ~is_first_step) ? o_{name}[0] == sum_{name}[0]"
                    f" & (o__valid | p_running[{row}] == o_{name}[0]) : ~sum_{name}[0]))"
                )
            else:
                even = ""
                if doubled:
                    text.append(f"wire [{bits}:0] p_state_{name};\n")
                    nets[f"p_state_{name}"] = f"column_{column}.m{row}_state"
                    even = f" & p_state_{name}[0]"
                wires[f"h_{name}"] = f"~{reached} | (o_{name} == sum_{name}{even})"
    wires |= {
        "h_position": f"~p_active | ({' & '.join(same)})",
        "h_result": "~(o__valid & p_active) | (is_first_step & is_first_pass)",
        "h_fire": "~p_fire | (p_active & p_a_full & p_w_full)",
        "h_a": "~p_a_full | p_held == beat_i_a",
        "h_w": f"~p_w_full | ({' & '.join(held)})",
    }
    helpers = {
        "h_position": "the counters are those of the job",
        "h_result": "a result holds off the next job's first step",
        "h_fire": "a step fires with a job and both operands",
        "h_a": "the operand register holds the beat taken last",
        "h_w": "so do the weights' registers",
    }
    helpers |= {name: "an accumulator" for name in wires if name not in {**checks, **helpers}}
    text += [
        f"(* keep *) wire ok_{name} = ~started | ({value});\n" for name, value in wires.items()
    ]
    text.append(
        "(* keep *) reg witness = 0;\n"
        "always @(posedge clk) if (started & o__valid & o__ready) witness <= 1;\n"
    )
    text.append(footer(list(wires)))
    return Monitor(
        text="".join(text),
        checks=checks,
        helpers=helpers,
        probes=nets,
        witness="witness",
        witness_by=6,
        streams=ports,
        shown=tuple(f"sum_{row}_{column}" for row in range(m) for column in range(n)),
    )

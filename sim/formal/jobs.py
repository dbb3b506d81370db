"""Monitors of the jobs of a GEMM core: nothing lost, nothing repeated, no bubble, exact cycles.

The monitor keeps a ledger of what has crossed the ports since reset: jobs in flight, and for every
operand stream the beats that accepted jobs still have to be given (negative: beats taken ahead of
their job). A job of ``k`` steps and ``p`` passes owes ``p · k`` beats on both operand streams and
one on ``i_c`` if it accumulates, whatever the state of anything: that is the contract of
``hw.gemm``; what a descriptor asks for is in :mod:`sim.formal.passes`. The checks bound the ledger;
the helpers tie it to the registers of ``hw.lib.gemm_shell`` and of the core's sequencer exactly,
and are proven with the checks, so they can prove nothing false.
"""

from __future__ import annotations

from hw.gemm import GemmSpec
from sim.formal import passes
from sim.formal.passes import job_field
from sim.formal.prove import Monitor
from sim.formal.rules import footer, header
from sim.source import streams


def operand_name(spec: GemmSpec) -> str:
    """The stream of the activations' side: ``i_a``, or ``i_t`` with tables from outside."""
    return next(item.name for item in streams(spec) if item.name in ("i_a", "i_t"))


def counter_bits(spec: GemmSpec) -> int:
    """Bits of a count of beats, signed, with room for what is taken ahead."""
    return ((1 << step_bits(spec)) * spec.max_passes + 4).bit_length() + 2


def step_bits(spec: GemmSpec) -> int:
    return next(f.width for f in streams(spec)[0].fields if f.name == "k_steps_m1")


def descriptor(spec: GemmSpec) -> str:
    """Wires of the offered job: ``job_k``, ``job_passes``, ``job_idle``, ``job_accumulate``.

    ``job_k`` is its K steps less one.
    """
    stream = streams(spec)[0]
    bits = counter_bits(spec)
    return passes.of(spec).offered(bits) + (
        f"wire [{bits - 1}:0] job_k = {job_field(stream, 'k_steps_m1')};\n"
        f"wire job_accumulate = {job_field(stream, 'accumulate', '1' + chr(39) + 'b0')};\n"
    )


def _times(spec: GemmSpec, count: str, steps: str, bits: int) -> str:
    """``count · steps`` for a small count, as sums of shifts that a solver sees through."""
    terms = [
        f"({count}[{i}] ? ({steps}) << {i} : {bits}'d0)"
        for i in range(spec.max_passes.bit_length())
    ]
    return f"({' + '.join(terms)})"


def transfers(spec: GemmSpec) -> str:
    return "".join(
        f"wire take_{item.name} = {item.name}__valid & {item.name}__ready & ~rst;\n"
        for item in streams(spec)
    )


def job_rules(spec: GemmSpec) -> Monitor:
    """Conservation and progress, for runs of any length under any stalls and any resets."""
    a = operand_name(spec)
    cuts, tail, front = spec.cuts, spec.tail, spec.pipeline.front
    bits = counter_bits(spec)
    ahead = {a: 1 + front, "i_w": 1}
    capacity = 2 + cuts + tail
    count = capacity.bit_length() + 1
    addend = spec.addend
    order = passes.of(spec)
    text = [header(spec.name, streams(spec)), descriptor(spec), transfers(spec)]
    text.append(
        f"reg [{count - 1}:0] jobs;\n"
        f"reg [{bits - 1}:0] latest_k, latest_passes;\n"
        f"reg signed [{bits - 1}:0] owed_{a}, owed_i_w;\n"
        f"wire [{bits - 1}:0] job_steps = job_k + 1, latest_steps = latest_k + 1;\n"
        f"wire signed [{bits - 1}:0] job_beats = "
        f"{_times(spec, 'job_passes', 'job_steps', bits)};\n"
        f"wire signed [{bits - 1}:0] latest_beats = "
        f"{_times(spec, 'latest_passes', 'latest_steps', bits)};\n"
        "always @(posedge clk) begin\n"
        "  jobs <= jobs + take_i_job - take_o;\n"
        "  if (take_i_job) begin\n"
        "    latest_k <= job_k;\n"
        "    latest_passes <= job_passes;\n"
        "  end\n"
    )
    for name in ahead:
        owed = f"owed_{name}"
        text.append(
            f"  {owed} <= {owed} + (take_i_job ? job_beats : {bits}'sd0)"
            f" - (take_{name} ? {bits}'sd1 : {bits}'sd0);\n"
        )
    resets = ["jobs <= 0", "latest_k <= 0", "latest_passes <= 0"]
    resets += [f"owed_{name} <= 0" for name in ahead]
    if order.idles:
        text.append(
            f"  owed_idle <= owed_idle + (take_i_job ? job_idle : {bits}'d0)"
            " - (p_fire & idle_now);\n"
        )
        resets.append("owed_idle <= 0")
    if addend:
        text.append("  owed_i_c <= owed_i_c + (take_i_job & job_accumulate) - take_i_c;\n")
        resets.append("owed_i_c <= 0")
    text.append(f"  if (rst) begin {'; '.join(resets)}; end\nend\n")
    if addend:
        text.append(f"reg [{count - 1}:0] owed_i_c;\n")
    if order.idles:
        text.append(f"reg signed [{bits - 1}:0] owed_idle;\n")

    checks = {
        "results_have_jobs": "a result stands at o only while its job is in flight",
        "jobs_in_flight": f"at most {capacity} jobs are in flight",
        "idle_takes_job": "with no job in flight the next one is taken at once",
    }
    wires = {
        "results_have_jobs": "~o__valid | jobs != 0",
        "jobs_in_flight": f"jobs <= {capacity}",
        "idle_takes_job": "jobs != 0 | i_job__ready",
    }
    for name, depth in ahead.items():
        owed = f"owed_{name}"
        checks |= {
            f"ahead_{name}": f"{name} is taken at most {depth} beats ahead of its job",
            f"spent_{name}": f"a result is given only when every beat of {name} was taken",
            f"order_{name}": f"no job begins before the ones before have all of their {name}",
            f"exact_{name}": f"idle, {name} is refused if and only if {depth} beats are held",
        }
        wires |= {
            f"ahead_{name}": f"{owed} >= -{depth}",
            f"spent_{name}": f"jobs != o__valid | {owed} <= 0",
            f"order_{name}": f"{owed} <= latest_beats",
            f"exact_{name}": f"jobs != 0 | {name}__ready == ({owed} > -{depth})",
        }
    if addend:
        checks |= {
            "asked_i_c": "i_c is ready only for a job that accumulates and has not had its beat",
            "spent_i_c": "a result is given only when its beat of i_c was taken",
        }
        wires |= {
            "asked_i_c": "~i_c__ready | owed_i_c != 0",
            "spent_i_c": "jobs != o__valid | owed_i_c == 0",
        }

    if order.idles and spec.skips_planes:
        checks["idle_steps"] = "a result is given after the idle steps that its masks ask for"
        wires["idle_steps"] = "owed_idle >= 0 & (jobs != o__valid | owed_idle == 0)"
    elif order.idles:
        checks["idle_steps"] = "no job has an idle step"
        wires["idle_steps"] = "owed_idle == 0"

    # Progress: `run` counts the cycles before this one in which nothing stalled.
    offered = [f"{s.name}__valid" for s in streams(spec) if s.direction == "in"]
    fill = 1 + front
    text.append(
        f"wire free_run = {' & '.join(offered)} & o__ready & ~rst;\n"
        "reg [2:0] run;\n"
        f"always @(posedge clk) run <= free_run ? (run == {fill} ? run : run + 3'd1) : 3'd0;\n"
    )
    checks["no_bubble"] = (
        f"from any state: {fill} cycles without a stall, and from then on one step a cycle, "
        f"within jobs and between them{', with operands or idle' if order.idles else ''}"
    )
    wires["no_bubble"] = (
        f"~free_run | run != {fill} | ({a}__ready & i_w__ready) | (p_fire & idle_now)"
    )

    # Helpers: what the registers of the shell hold.
    probes = {"active": 1, "a_full": 1, "w_full": 1, "first_step": 1}
    probes |= {"steps_left": step_bits(spec), "k_steps_m1": step_bits(spec)}
    probes |= order.probes
    if order.idles:
        probes["fire"] = 1
    # Registers of the front end, in the order in which a beat passes them.
    behind = {0: (), 1: ("f_full",), 2: ("g_full", "f_full")}[front]
    probes |= dict.fromkeys(behind, 1)
    if addend:
        probes["accumulate"] = 1
    stages = range(1, cuts + 1)
    for i in stages:
        probes |= {f"valid_{i}": 1, f"last_{i}": 1}
        if addend:
            probes[f"addend_{i}"] = 1
    probes |= {f"held_{i}": 1 for i in range(tail)}
    text += [f"wire [{width - 1}:0] p_{name};\n" for name, width in probes.items()]
    held = f"p_a_full + {bits}'d0" + "".join(f" + p_{name}" for name in behind)
    text.append(
        f"wire [{bits - 1}:0] wide_k = p_k_steps_m1, wide_steps = p_steps_left;\n"
        f"wire [{bits - 1}:0] steps_a_pass = wide_k + 1;\n"
        f"{order.unfired(bits)}"
        f"wire signed [{bits - 1}:0] unfired = p_active ? "
        f"{_times(spec, 'unfired_passes', 'steps_a_pass', bits)} - (wide_k - wide_steps) : 0;\n"
    )
    finishing = "".join(f" + (p_valid_{i} & p_last_{i})" for i in stages)
    finishing += "".join(f" + p_held_{i}" for i in range(tail))
    helpers = {
        "h_jobs": "jobs in flight are the active one, those in the columns' registers, the result",
        "h_counters": "the counters are those of the latest job",
        f"h_{a}": "beats owed are steps to fire less beats held",
        "h_i_w": "the same for weights",
        "h_run": "without stalls the registers fill",
    }
    full = "p_active & p_a_full & p_w_full"
    filled = f"(run == 0 | ({full}))"
    for place, name in enumerate(behind):
        filled += f" & (run < {2 + place} | p_{name})"
    wires |= {
        "h_jobs": f"jobs == {count}'d0 + p_active{finishing} + o__valid",
        "h_counters": f"latest_passes <= {spec.max_passes} & (~p_active"
        " | (in_range & wide_k == latest_k & unfired_passes <= latest_passes"
        " & wide_steps <= wide_k & p_first_step == (wide_steps == wide_k)"
        " & (~idle_now | p_first_step)))",
        f"h_{a}": f"owed_{a} == unfired - ({held})",
        "h_i_w": "owed_i_w == unfired - p_w_full",
        "h_run": f"run <= {fill} & {filled}",
    }
    if addend:
        waiting = "".join(f" + (p_valid_{i} & p_addend_{i})" for i in stages)
        helpers["h_i_c"] = "addends owed are those of steps to fire and in the heap's registers"
        wires["h_i_c"] = (
            f"owed_i_c == {count}'d0 + (p_active & p_accumulate"
            f" & ~(in_last_pass & ~p_first_step)){waiting}"
        )
    if order.idles:
        helpers["h_idle"] = "idle steps owed are those to fire"
        wires["h_idle"] = f"owed_idle == (p_active ? unfired_idle : {bits}'d0)"
    # Before the first cycle of reset nothing holds.
    text += [
        f"(* keep *) wire ok_{name} = ~started | ({value});\n" for name, value in wires.items()
    ]
    text.append(
        "(* keep *) reg witness = 0;\n"
        "reg first_done = 0;\n"
        "always @(posedge clk) begin\n"
        "  if (take_o) first_done <= 1;\n"
        "  if (take_o & first_done) witness <= 1;\n"
        "end\n"
    )
    text.append(footer(list(wires)))
    shown = ("jobs", f"owed_{a}", "owed_i_w", *(["owed_i_c"] if addend else []))
    if order.idles:
        shown += ("owed_idle",)
    return Monitor(
        text="".join(text),
        checks=checks,
        helpers=helpers,
        probes={f"p_{name}": name for name in probes},
        witness="witness",
        # Reset, two jobs of one step, the latency, and the register that says so.
        witness_by=1 + 2 + 2 + front + cuts + tail + 2,
        streams=streams(spec),
        results=False,
        shown=shown,
    )


def job_cycles(spec: GemmSpec, latency: int, *, jobs: int = 2, most_steps: int = 3) -> Monitor:
    """Nothing stalls: the result of every job is there in the cycle of the closed form, no other.

    Descriptors are free, up to ``most_steps`` K steps. ``horizon`` is the run that covers them.
    """
    bits = counter_bits(spec) + jobs.bit_length()
    # A first job that takes no operands does not wait for them to pass the front end's register.
    early = ""
    if passes.of(spec).idles and spec.pipeline.front:
        early = f" - (taken == 0 & job_passes == 0 ? {bits}'d{spec.pipeline.front} : {bits}'d0)"
    names = [item.name for item in streams(spec)]
    text = [header(spec.name, streams(spec)), descriptor(spec), transfers(spec)]
    flowing = [f"{item}__valid" for item in names if item not in ("i_job", "o")] + ["o__ready"]
    text.append(
        "always @* assume(rst == !started);\n"
        f"always @* assume({' & '.join(flowing)});\n"
        f"always @* assume(i_job__valid == (started & taken < {jobs}));\n"
        f"always @* assume(!i_job__valid || job_k < {most_steps});\n"
        f"reg [{jobs.bit_length()}:0] taken = 0;\n"
        # The first cycle behind reset transfers first, and is counted as cycle 1.
        f"reg [{bits - 1}:0] now = 0;\n"
        f"reg [{bits - 1}:0] due_total = {latency};\n"
    )
    text += [f"reg [{bits - 1}:0] due_{j} = 0;\n" for j in range(jobs)]
    text.append(
        f"wire [{bits - 1}:0] due_next = due_total + (job_k + 1) * job_passes + job_idle"
        f"{early};\n"
        "always @(posedge clk) begin\n"
        "  now <= now + 1;\n"
        "  if (take_i_job) begin\n"
        "    taken <= taken + 1;\n"
        "    due_total <= due_next;\n"
    )
    text += [f"    if (taken == {j}) due_{j} <= due_next;\n" for j in range(jobs)]
    due = " | ".join(f"(taken > {j} & now == due_{j})" for j in range(jobs))
    text.append(
        "  end\n"
        "end\n"
        f"(* keep *) wire ok_cycles = ~started | o__valid == ({due});\n"
        "(* keep *) reg witness = 0;\n"
        f"always @(posedge clk) if (taken == {jobs} & now == due_{jobs - 1}) witness <= 1;\n"
    )
    text.append(footer(["cycles"]))
    return Monitor(
        text="".join(text),
        checks={
            "cycles": "without stalls, results come in the very cycles that the timing model says"
        },
        witness="witness",
        witness_by=1 + latency + jobs + 1,
        streams=streams(spec),
        results=False,
        shown=("now", *(f"due_{j}" for j in range(jobs))),
    )


def horizon(spec: GemmSpec, latency: int, *, jobs: int = 2, most_steps: int = 3) -> int:
    """Cycles, reset included, in which :func:`job_cycles` sees every job of its range end."""
    steps = min(most_steps, 1 << step_bits(spec))
    return 1 + latency + jobs * steps * spec.max_passes

"""What is proven of which specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import hw
from hw.block import block, spec_from_dict
from hw.gemm import GemmSpec, Job
from hw.integers import IntegerGemmSpec
from hw.spec import BlockSpec
from rtl_gen.build import verilog
from rtl_gen.manifest import timing_record
from rtl_gen.specfile import load_spec
from sim.formal import cones, datapath, jobs, passes, rules, steps
from sim.formal.prove import PROVEN, Monitor, Result, bounded, induction
from sim.mutation import SPECS
from sim.source import streams

CONTROL = ("i_job",)
"""Streams whose payload may steer when things happen."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One property of one design.

    Attributes:
        part: which proof it belongs to, see :data:`PARTS`.
        how: ``induction``, ``every run`` of that many cycles, or ``structure``.
        result: ``proven``, ``refuted`` or ``open``; bounded proofs are proven within their bound.
        depth: length of the induction or of the runs, in cycles.
        seconds: of the proof that showed it, together with those beside it.
        reason: in one line why it is not proven.
        trace: a counter-example, one line a cycle.
    """

    core: str
    spec: str
    part: str
    name: str
    meaning: str
    how: str
    result: str
    depth: int
    seconds: float
    reason: str = ""
    trace: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.result == PROVEN


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A design and what to show of it.

    Attributes:
        name: of the specification, as tables show it.
        part: a key of :data:`PARTS`.
        job: the job of the part ``product``.
        stalls: whether streams stall in the part ``product``.
    """

    core: str
    name: str
    part: str
    spec: BlockSpec
    job: Job | None = None
    stalls: bool = False

    def run(self, source: str | None = None) -> list[Row]:
        """The rows of this proof; ``source`` is the Verilog, what the specification gives if None.

        Raises:
            ToolError: Yosys failed.
        """
        return PARTS[self.part](self, verilog(self.spec) if source is None else source)


def _latency(spec: BlockSpec) -> int:
    return timing_record(spec).constants["latency"]


def _shortest(spec: BlockSpec) -> int:
    """Cycles to the result of the shortest work, about: of a step of a cycle, the latency."""
    if isinstance(spec, GemmSpec) and spec.own_control:
        timing: Any = block(spec.block).timing
        least = {"activation_bits": spec.activation_bits[0]}
        return _latency(spec) + int(timing.job_cycles(spec, 1, spec.weight_widths[0], **least))
    return _latency(spec)


def _gemm(proof: Proof) -> GemmSpec:
    assert isinstance(proof.spec, GemmSpec)  # noqa: S101  (told by the catalogue)
    return proof.spec


def _integer(proof: Proof) -> IntegerGemmSpec:
    assert isinstance(proof.spec, IntegerGemmSpec)  # noqa: S101  (told by the catalogue)
    return proof.spec


def rows(proof: Proof, monitor: Monitor, result: Result, how: str) -> list[Row]:
    """A row for every check of a monitor; for a helper only if it is what fails.

    Of a proof that fails only what failed is known; the other checks are ``open``.
    """
    found = []
    trace: tuple[str, ...] = ()
    if result.trace is not None:
        trace = tuple(result.trace.lines(monitor.streams, monitor.shown))
    named = {**monitor.checks, **{k: v for k, v in monitor.helpers.items() if k in result.failed}}
    for name, meaning in named.items():
        hit = name in result.failed
        verdict = PROVEN if result.holds else (result.status if hit else "open")
        found.append(
            Row(
                core=proof.core,
                spec=proof.name,
                part=proof.part,
                name=name,
                meaning=meaning,
                how=how,
                result=verdict,
                depth=result.depth,
                seconds=result.seconds,
                reason="" if result.holds else result.reason,
                trace=trace if hit else (),
            )
        )
    return found


def _streams(proof: Proof, source: str) -> list[Row]:
    golden = block(proof.spec.block).golden
    monitor = rules.stream_rules(
        proof.spec.name,
        streams(proof.spec),
        latency=_shortest(proof.spec),
        waiting=getattr(golden, "WAITING", rules.WAITING),
        wires=getattr(golden, "wires", lambda _: ())(proof.spec),
    )
    return rows(proof, monitor, induction(source, monitor, proof.spec.name), "induction")


def _cones(proof: Proof, source: str) -> list[Row]:
    ports = streams(proof.spec)
    netlist = cones.Netlist(source, proof.spec.name)
    results = cones.handshakes(netlist, ports)
    meanings = cones.handshake_rules(ports)
    if isinstance(proof.spec, GemmSpec) and not proof.spec.timed_by_operands:
        results["timing_blind"] = cones.timing_rule(netlist, ports, CONTROL)
        meanings["timing_blind"] = (
            "no operand ever reaches a valid or a ready, through whatever registers"
        )
    return [
        Row(
            core=proof.core,
            spec=proof.name,
            part=proof.part,
            name=name,
            meaning=meanings[name],
            how="structure",
            result=result.status,
            depth=0,
            seconds=result.seconds,
            reason=result.reason,
        )
        for name, result in results.items()
    ]


def _jobs(proof: Proof, source: str) -> list[Row]:
    monitor = jobs.job_rules(_gemm(proof))
    return rows(proof, monitor, induction(source, monitor, proof.spec.name), "induction")


def _cycles(proof: Proof, source: str) -> list[Row]:
    spec, latency = _gemm(proof), _latency(proof.spec)
    monitor = jobs.job_cycles(spec, latency)
    cycles = jobs.horizon(spec, latency)
    return rows(proof, monitor, bounded(source, monitor, spec.name, cycles=cycles), "every run")


def _product(proof: Proof, source: str) -> list[Row]:
    spec, job = _integer(proof), proof.job
    assert job is not None  # noqa: S101  (told by the catalogue)
    monitor = datapath.product_rules(spec, job, stalls=proof.stalls)
    cycles = datapath.due_cycles(spec, job, slack=2 if proof.stalls else 1)
    return rows(proof, monitor, bounded(source, monitor, spec.name, cycles=cycles), "every run")


def _steps(proof: Proof, source: str) -> list[Row]:
    monitor = steps.step_rules(_integer(proof))
    return rows(
        proof, monitor, induction(source, monitor, proof.spec.name, depth=2, search=8), "induction"
    )


PARTS: Mapping[str, Callable[[Proof, str], list[Row]]] = {
    "streams": _streams,
    "cones": _cones,
    "jobs": _jobs,
    "cycles": _cycles,
    "product": _product,
    "steps": _steps,
}
"""The proofs by name: stream rules, combinational and data independence, conservation and progress,
cycles of jobs, a whole job's product from reset, and the sums step by step."""


def proof(core: str, name: str, part: str, data: Mapping[str, Any], **settings: Any) -> Proof:
    """A proof of a specification given as plain data, without ``block`` and ``name``."""
    spec = spec_from_dict({"block": core, "name": f"formal_{name}", **data})
    return Proof(core=core, name=name, part=part, spec=spec, **settings)


def _shape(m: int, n: int, k: int) -> dict[str, int]:
    return {"m": m, "n": n, "k": k}


@dataclass(frozen=True)
class _Small:
    """A small instance: its fields, and the jobs that are proven from reset."""

    core: str
    name: str
    data: Mapping[str, Any]
    jobs: Sequence[Job] = ()
    steps: bool = False
    stalls: bool = False


def _job(
    k_steps: int, bits: int, accumulate: bool = False, *, a: int | None = None, **planes: Any
) -> Job:
    """``a``: width of the activations where jobs choose it; ``planes``: masks."""
    return Job(
        k_steps=k_steps, weight_bits=bits, accumulate=accumulate, activation_bits=a, **planes
    )


def _words(job: Job) -> str:
    """A job in a few characters: K steps, widths, masks of planes, the addend."""
    text = f"{job.k_steps}×"
    text += "" if job.activation_bits is None else f"a{job.activation_bits}"
    text += f"w{job.weight_bits}"
    for name, mask in (("a", job.a_planes), ("w", job.w_planes)):
        text += "" if mask is None else f" {name}{mask:b}"
    return text + ("+c" if job.accumulate else "")


def _small(
    core: str,
    name: str,
    k: int,
    activations: int | Mapping[str, Any],
    weights: Mapping[str, Any],
    jobs: Sequence[Job],
    *,
    signed: bool = True,
    m: int = 1,
    n: int = 1,
    max_k: int = 0,
    steps: bool = False,
    stalls: bool = False,
    **more: Any,
) -> _Small:
    if isinstance(activations, int):
        activations = {"bits": activations, "signed": signed}
    data = {
        "tile": _shape(m, n, k),
        "activations": activations,
        "weights": weights,
        "max_k": max_k or k,
        **more,
    }
    return _Small(core, name, data, jobs, steps, stalls)


_lut = partial(_small, "lut_core")
_mac = partial(_small, "mac_core")
_bitserial = partial(_small, "bitserial_core")
_UNSIGNED = {"encoding": "unsigned", "max_bits": 2}
_TWOS = {"encoding": "twos_complement", "max_bits": 2}
_BIPOLAR = {"encoding": "bipolar", "max_bits": 2}
_TERNARY = {"encoding": "ternary"}
_SYMMETRIC = {"form": "symmetric"}
_PIPED = {"front": 1, "heap": 1}

SMALL: tuple[_Small, ...] = (
    _lut("unsigned", 2, 3, _UNSIGNED, [_job(1, 1), _job(1, 2)], stalls=True, steps=True, max_k=4),
    _lut("unsigned_2_steps", 1, 3, _UNSIGNED, [_job(2, 2)], max_k=2, table={"group": 1}),
    _lut("unsigned_columns", 2, 2, _UNSIGNED, [_job(1, 2)], n=2),
    _lut("unsigned_parallel", 2, 3, _UNSIGNED, [_job(1, 1), _job(1, 2)],
         planes="parallel", pipeline=_PIPED),
    _lut("unsigned_symmetric", 2, 3, _UNSIGNED, [_job(1, 1), _job(1, 2)],
         table=_SYMMETRIC, steps=True, max_k=4),
    _lut("unsigned_addend", 2, 2, _UNSIGNED, [_job(1, 2, True), _job(1, 2, False)],
         addend=True, pipeline=_PIPED, stalls=True),
    _lut("tile", 1, 2, {"encoding": "unsigned", "max_bits": 1}, [_job(1, 1, True)],
         m=2, n=2, table={"group": 1}, addend=True),
    # Two steps behind one another in the heap's registers, the first held up by its addend.
    _lut("piped_2_steps", 1, 2, {"encoding": "unsigned", "max_bits": 1}, [_job(2, 1, True)],
         max_k=2, table={"group": 1}, addend=True, pipeline=_PIPED, stalls=True),
    _lut("twos", 2, 3, _TWOS, [_job(1, 1), _job(1, 2)], steps=True, max_k=4),
    _lut("twos_parallel", 2, 3, {**_TWOS, "max_bits": 3}, [_job(1, 1), _job(1, 3)],
         planes="parallel"),
    _lut("twos_symmetric", 2, 4, _TWOS, [_job(1, 1), _job(1, 2)],
         table=_SYMMETRIC, steps=True, max_k=4, pipeline={"front": 0, "heap": 0}),
    _lut("twos_group_3", 3, 2, _TWOS, [_job(1, 2)], table={"group": 3}),
    _lut("bipolar", 2, 3, _BIPOLAR, [_job(1, 1), _job(1, 2)], stalls=True, steps=True, max_k=4),
    _lut("bipolar_2_steps", 1, 3, _BIPOLAR, [_job(2, 1), _job(2, 2)], max_k=2, table={"group": 1}),
    _lut("bipolar_piped", 2, 3, _BIPOLAR, [_job(1, 1), _job(1, 2)], signed=False, pipeline=_PIPED),
    _lut("bipolar_symmetric", 2, 3, _BIPOLAR, [_job(1, 1), _job(1, 2)],
         table=_SYMMETRIC, steps=True, max_k=4),
    _lut("ternary", 3, 3, _TERNARY, [_job(1, 2)], steps=True, max_k=6),
    _lut("base3", 3, 2, {**_TERNARY, "packing": "base3"}, [_job(1, 2)], stalls=True),
    _lut("int8_entries", 2, 3, _UNSIGNED, [_job(1, 2)], table={"group": 2, "entries": "int8"}),
    _lut("tables_at_port", 2, 3, _UNSIGNED, [_job(1, 2)],
         table={"form": "symmetric", "source": "port"}),
    _mac("unsigned", 2, 3, {"encoding": "unsigned", "bits": 2}, [_job(1, 2)],
         steps=True, max_k=4),
    _mac("unsigned_addend", 2, 2, {"encoding": "unsigned", "bits": 2},
         [_job(1, 2, True), _job(1, 2, False)], addend=True, pipeline=_PIPED, stalls=True),
    _mac("twos", 2, 3, {"bits": 3}, [_job(1, 1), _job(1, 3)], stalls=True),
    _mac("tile", 1, 2, {"encoding": "unsigned", "bits": 1}, [_job(1, 1, True)],
         m=2, n=2, addend=True),
    _mac("piped_2_steps", 1, 2, {"encoding": "unsigned", "bits": 1}, [_job(2, 1, True)],
         max_k=2, addend=True, pipeline=_PIPED, stalls=True),
    _mac("twos_2_steps", 1, 3, {"bits": 2}, [_job(2, 2)], max_k=2),
    _mac("twos_steps", 2, 3, {"bits": 2}, [_job(1, 2)], steps=True, max_k=4),
    _mac("twos_piped", 2, 3, {"bits": 3}, [_job(1, 3)], pipeline=_PIPED),
    _mac("twos_columns", 2, 2, {"bits": 2}, [_job(1, 2)], n=2),
    _mac("bipolar", 2, 3, {"encoding": "bipolar", "bits": 2}, [_job(1, 1), _job(1, 2)],
         signed=False, steps=True, max_k=4),
    _mac("ternary", 3, 3, _TERNARY, [_job(1, 2)]),
    _bitserial("unsigned", 3, _UNSIGNED, _UNSIGNED,
               [_job(1, 1, a=1), _job(1, 2, a=2), _job(1, 2, a=2, a_planes=0b10, w_planes=0b11)]),
    _bitserial("zero", 3, _TWOS, _UNSIGNED, [_job(1, 2, a=2), _job(1, 1, a=2)]),
    _bitserial("zero_addend", 2, _TWOS, _UNSIGNED,
               [_job(1, 2, True, a=2), _job(1, 2, a=2),
                _job(1, 2, True, a=2, a_planes=0, w_planes=0b11)],
               addend=True, pipeline=_PIPED, stalls=True),
    _bitserial("tile", 1, _UNSIGNED, _UNSIGNED, [_job(1, 1, True, a=2)], m=2, n=2, addend=True),
    _bitserial("piped_2_steps", 1, {**_UNSIGNED, "max_bits": 1}, {**_UNSIGNED, "max_bits": 1},
               [_job(2, 1, True, a=1)], max_k=2, addend=True, pipeline=_PIPED, stalls=True),
    _bitserial("twos", 3, _TWOS, _TWOS, [_job(1, 1, a=1), _job(1, 2, a=2), _job(1, 2, a=1)]),
    _bitserial("twos_2_steps", 1, _TWOS, _TWOS, [_job(2, 2, a=2)], max_k=2),
    # Sums i + j without a pair between others, and below all others; planes of signs left out.
    _bitserial("twos_gap", 2, {**_TWOS, "max_bits": 3}, _TWOS,
               [_job(1, 2, a=3, a_planes=0b101, w_planes=0b10),
                _job(1, 2, a=3, a_planes=0b011, w_planes=0b01)],
               pipeline=_PIPED, stalls=True),
    _bitserial("twos_columns", 2, _TWOS, _TWOS, [_job(1, 2, a=2)], n=2),
    _bitserial("bipolar", 3, _BIPOLAR, _BIPOLAR,
               [_job(1, 1, a=1), _job(1, 2, a=2), _job(1, 2, a=1)]),
    _bitserial("bipolar_even", 2, _BIPOLAR, _BIPOLAR, [_job(1, 2, a=2), _job(1, 1, a=2)],
               pipeline=_PIPED, stalls=True),
    _bitserial("bipolar_addend", 2, _BIPOLAR, _BIPOLAR, [_job(1, 2, True, a=2)], addend=True),
    _bitserial("mixed", 3, _TWOS, _BIPOLAR,
               [_job(1, 2, a=2), _job(1, 2, a=2, a_planes=0b01)]),
    _bitserial("mixed_unsigned", 2, _UNSIGNED, _BIPOLAR, [_job(1, 2, a=2), _job(1, 1, a=2)],
               pipeline=_PIPED, stalls=True),
)  # fmt: skip
"""Instances that are small enough for a solver to compare with ``*`` and ``+``."""

RULES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    **SPECS,
    "bitserial_core": {
        **SPECS["bitserial_core"],
        "wide": {
            "tile": _shape(1, 1, 2),
            "activations": {"encoding": "twos_complement", "max_bits": 4},
            "weights": {"encoding": "twos_complement", "max_bits": 4},
            "max_k": 8,
        },
    },
    "lut_tables": {
        "tables": {"tile": {"m": 1, "k": 3}, "activations": {"bits": 3}, "table": {"group": 2}},
    },
}
"""Specifications whose control is proven, by core: those that mutation testing uses, and more."""

MOST_PAIRS: Mapping[str, int] = {"jobs": 16, "cycles": 9}
"""Most passes, by part, of cores whose jobs make one for each pair of planes in free masks.

Beyond them the solver finds no end: that the pairs of two masks are as many as the product of their
ones is an identity of many bits, and runs of that many steps are long. Their streams and cones are
proven all the same; the control of such jobs is left to simulation.
"""

CONFIGS = Path(hw.__file__).parent / "configs"


def proofs(core: str = "all", *, thorough: bool = False) -> Iterator[Proof]:
    """Every proof of a core; with ``thorough`` the shipped specifications' too (minutes)."""
    for name_of_core, specs in RULES.items():
        if core in (name_of_core, "all"):
            for name, data in specs.items():
                made = proof(name_of_core, name, "streams", data)
                yield from (replace(made, part=part) for part in _control_parts(made.spec))
    for small in SMALL:
        if core not in (small.core, "all"):
            continue
        for job in small.jobs:
            label = f"{small.name} {_words(job)}"
            yield _of_small(small, label, "product", job=job)
            if small.stalls:
                yield _of_small(small, f"{label} stalls", "product", job=job, stalls=True)
        if small.steps:
            yield _of_small(small, small.name, "steps")
    if thorough:
        for file in sorted(CONFIGS.glob("*.yaml")):
            spec = load_spec(file)
            if core in (spec.block, "all"):
                for part in _control_parts(spec):
                    yield Proof(core=spec.block, name=file.name, part=part, spec=spec)


def _control_parts(spec: BlockSpec) -> tuple[str, ...]:
    parts: tuple[str, ...] = ("streams", "cones")
    # Ledgers of jobs and cycles are those of the shell, whose steps take a cycle each.
    if isinstance(spec, GemmSpec) and not spec.own_control:
        pairs = spec.max_passes if passes.of(spec).idles else 0
        parts += tuple(part for part, most in MOST_PAIRS.items() if pairs <= most)
    return parts


def _of_small(small: _Small, label: str, part: str, **settings: Any) -> Proof:
    made = proof(small.core, small.name, part, small.data, **settings)
    return replace(made, name=label)

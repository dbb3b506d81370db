"""The compiled bench: many scenarios, fast, through the Verilated model; verdicts on mutants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hw.block import block
from hw.spec import BlockSpec
from rtl_gen.errors import ToolError
from sim import source, stimulus
from sim.harness import model as harness
from sim.harness.beats import Run
from sim.harness.compile import RUN_SHORT
from sim.harness.model import Model, load
from sim.stalls import Stall, Stalls
from sim.stimulus import Failure, Scenario, Stimulus
from sim.watch import watch

CheckEffort = Literal["quick", "full"]

PATIENCE = 64
"""Cycles in which a block has to take what it can take without its other inputs."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a Verilog text does what its specification's golden and timing models say.

    Attributes:
        passed: nothing was wrong.
        failure: the first thing that was, None if nothing.
        scenarios, works, cycles: how much was tried.
    """

    passed: bool
    failure: Failure | None
    scenarios: int = 0
    works: int = 0
    cycles: int = 0


@dataclass
class Tally:
    """What a bench has tried so far."""

    scenarios: int = 0
    works: int = 0
    vectors: int = 0
    cycles: int = 0
    predicted: int = 0
    observed: int = 0
    contracts: int = 0
    coverage: set[str] = field(default_factory=set)

    def add(self, stim: Stimulus, total_cycles: int, observed: int | None, mid: bool) -> None:
        """Count a scenario that went well; ``observed`` is None where something stalled."""
        self.scenarios += 1
        self.works += stim.works
        self.vectors += stim.vectors
        self.cycles += total_cycles
        if observed is not None:
            self.contracts += 1
            self.predicted += stim.predicted_cycles()
            self.observed += observed
        self.coverage |= stimulus.coverage(stim, total_cycles=total_cycles, reset_in_work=mid)


def run_scenario(model: Model, stim: Stimulus, tally: Tally | None = None) -> Failure | None:
    """One scenario through a model; what was wrong first, or None."""
    scenario = stim.scenario
    if scenario.order:
        return _run_in_order(model, stim, tally)
    # Ten times what the block needs at one transfer in twenty cycles is a hang, not patience.
    idle = 2_000 + 2 * stim.predicted_cycles()
    run = model.run(
        stim.inputs,
        stim.expect,
        stalls=scenario.stalls,
        seed=scenario.seed,
        idle_limit=min(idle, 200_000),
        reset_at=scenario.reset_at,
        check=False,
    )
    if run.before_reset is not None:
        failure = _judge(stim, run.before_reset, " before the reset", whole=False)
        if failure is not None:
            return failure
    failure = _judge(stim, run, " after the reset" if run.before_reset else "", whole=True)
    if failure is not None:
        return failure
    stalled = scenario.stalls is not None
    if not stalled:
        failure = stimulus.check_cycles(stim, run.cycles, run.last_output)
        if failure is not None:
            return failure
    if tally is not None:
        before = run.before_reset
        mid = (
            before is not None
            and any(before.accepted.values())
            and (before.status == harness.STOPPED)
        )
        tally.add(stim, run.total_cycles, None if stalled else run.cycles, mid)
    return None


def _run_in_order(model: Model, stim: Stimulus, tally: Tally | None) -> Failure | None:
    """A scenario with an ``order``: one input at a time, the outputs blocked meanwhile."""
    name, cycles = stim.scenario.name, 0
    outputs = source.names(model.streams, "out")
    closed = Stalls(streams=dict.fromkeys(outputs, Stall(bits=(1,) * (PATIENCE + 1) + (0,))))
    for position, stream in enumerate(stim.scenario.order):
        run = model.run(
            {stream: stim.inputs[stream]},
            {},
            stalls=closed,
            max_cycles=PATIENCE,
            reset=position == 0,
            drain=0,
            check=False,
        )
        cycles += run.total_cycles
        when = f" while {stream} is offered"
        failure = _judge(stim, run, when, whole=False)
        if failure is None and run.accepted[stream] != stim.inputs[stream].beats:
            beats = f"{run.accepted[stream]} of {stim.inputs[stream].beats} beats"
            failure = Failure(
                kind="input",
                scenario=name,
                text=f"{name}{when}: {beats} were taken within {PATIENCE} cycles",
                stream=stream,
                expected=stim.inputs[stream].beats,
                observed=run.accepted[stream],
            )
        if failure is not None:
            return failure
    # The results stand for a while before anybody takes them.
    waited = model.run(
        {}, stim.expect, stalls=closed, max_cycles=PATIENCE, reset=False, check=False
    )
    failure = _judge(stim, waited, " while results wait", whole=False)
    if failure is not None:
        return failure
    run = model.run({}, stim.expect, reset=False, idle_limit=2_000, check=False)
    cycles += waited.total_cycles
    failure = _judge(stim, run, " when results are taken", whole=True, offered=False)
    if failure is None and tally is not None:
        tally.scenarios += 1
        tally.works += stim.works
        tally.vectors += stim.vectors
        tally.cycles += cycles + run.total_cycles
    return failure


def _judge(
    stim: Stimulus, run: Run, when: str, *, whole: bool, offered: bool = True
) -> Failure | None:
    # A wrong value that came before the hang or the broken rule is the first thing to say.
    compared = {name: rows for name, rows in run.packed.items() if name in stim.expected}
    wrong = stimulus.compare(stim, compared, run.output_cycles, when=when)
    if wrong is not None:
        return wrong
    if run.status != harness.BROKEN:
        wrong = watch(stim, run.packed, run.output_cycles, total_cycles=run.total_cycles, when=when)
        if wrong is not None:
            return wrong
    name = stim.scenario.name
    if run.status in (harness.DROPPED, harness.CHANGED, harness.UNEXPECTED):
        return Failure(
            kind="protocol",
            scenario=name,
            text=f"{name}{when}: {run.failure} (cycle {run.violation})",
            stream=run.failing_stream,
            cycle=run.violation,
        )
    if run.status == harness.BROKEN or (whole and run.failure is not None):
        return Failure(
            kind="hang",
            scenario=name,
            text=f"{name}{when}: {run.failure} (cycle {run.violation})",
            cycle=run.violation,
        )
    return stimulus.check_accepted(stim, run.accepted) if whole and offered else None


def run_scenarios(
    model: Model, scenarios: Iterable[Scenario], tally: Tally | None = None
) -> Failure | None:
    """Scenarios one after another, on one model that is never powered down between them."""
    for scenario in scenarios:
        failure = run_scenario(model, stimulus.stimulus(model.spec, scenario), tally)
        if failure is not None:
            return failure
    return None


def plan_scenarios(
    spec: BlockSpec, seeds: Iterable[int], effort: CheckEffort
) -> Iterator[Scenario]:
    """What the compiled bench tries: by seed, directed, at limits, every operand where few."""
    quick = effort == "quick"
    for seed in seeds:
        yield from stimulus.scenarios(
            spec, seed, works=16 if quick else 60, large=1 if quick else 4
        )
    rng = np.random.default_rng([0xDEE9])
    deepest = stimulus.deepest(spec, rng, most_cycles=20_000 if quick else 200_000)
    if deepest is not None:
        yield deepest
    # Long runs without a stall show what accumulates: counters, buffers, the cycle contract.
    golden_works = tuple(
        stimulus.random_work(spec, rng, ("small", "minimum")[i % 2])
        for i in range(300 if quick else 2_000)
    )
    yield Scenario(name="many works back to back", works=golden_works)
    # A reset in every cycle of a few works.
    few = golden_works[:5]
    length = int(block(spec.block).timing.cycles(spec, few))
    for cycle in range(min(length, 40 if quick else 200)):
        yield Scenario(name=f"reset in cycle {cycle}", works=few, reset_at=cycle)
    yield from stimulus.orders(spec, rng)
    yield from stimulus.boundaries(spec, rng)
    yield from stimulus.exhaustive(spec, most_jobs=20_000 if quick else 400_000)


def check_verilog(
    spec: BlockSpec,
    verilog_text: str,
    *,
    effort: CheckEffort = "quick",
    seeds: Iterable[int] = (0, 1),
    scenarios: Iterable[Scenario] | None = None,
    jobs: int = 1,
) -> Verdict:
    """Whether a Verilog text behaves as ``spec`` says: values, stream rules, cycles, resets.

    Made to be called hundreds of times (mutation testing): compilation is cheap and nothing is
    printed. A text that Verilator refuses does not pass (``failure.kind == "build"``).

    Args:
        effort: ``"quick"`` stops sooner; ``"full"`` is what ``rtlgen verify`` tries.
        seeds: of the random scenarios.
        scenarios: these instead of the usual ones.
        jobs: compilers at once.

    Raises:
        ToolMissingError: Verilator or the compiler is not there.
    """
    try:
        # Warnings are the lint's business: a broken text has to be caught by what it does.
        model = load(spec, verilog_text, effort=RUN_SHORT, jobs=jobs)
    except ToolError as error:
        return Verdict(
            passed=False, failure=Failure(kind="build", scenario="build", text=str(error))
        )
    tally = Tally()
    chosen = plan_scenarios(spec, seeds, effort) if scenarios is None else scenarios
    with model:
        failure = run_scenarios(model, chosen, tally)
    return Verdict(
        passed=failure is None,
        failure=failure,
        scenarios=tally.scenarios,
        works=tally.works,
        cycles=tally.cycles,
    )


def observed_cycles(tally: Tally) -> Mapping[str, int]:
    """Predicted and observed cycles of every run that nothing stalled."""
    return {"runs": tally.contracts, "predicted": tally.predicted, "observed": tally.observed}

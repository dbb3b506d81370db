"""A whole verification of one specification: lint, cocotb bench, compiled bench, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hw.spec import BlockSpec
from rtl_gen import build
from rtl_gen.console import Progress, output_file
from sim import cocotb_run, compiled, stimulus
from sim.compiled import Tally
from sim.harness import load
from sim.harness.compile import RUN_LONG, RUN_SHORT
from sim.lint import LintResult, lint
from sim.stimulus import Failure, Scenario

Benches = Literal["both", "cocotb", "compiled"]


@dataclass(kw_only=True)
class BenchReport:
    """What one bench tried and found."""

    name: str
    tally: Tally
    failure: Failure | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the coverage, which is reported for all benches together."""
        tally = self.tally
        return {
            "name": self.name,
            "scenarios": tally.scenarios,
            "works": tally.works,
            "vectors": tally.vectors,
            "cycles": tally.cycles,
            "contract": {
                "runs": tally.contracts,
                "predicted_cycles": tally.predicted,
                "observed_cycles": tally.observed,
            },
            "failure": None if self.failure is None else self.failure.as_dict(),
        }


@dataclass(kw_only=True)
class Report:
    """A verification's result."""

    spec: BlockSpec
    seeds: tuple[int, ...]
    lint: tuple[LintResult, ...]
    benches: list[BenchReport] = field(default_factory=list)
    covered: set[str] = field(default_factory=set)
    points: tuple[str, ...] = ()
    wave: Path | None = None

    @property
    def missed(self) -> tuple[str, ...]:
        """Coverage points that nothing hit, in their order."""
        return tuple(point for point in self.points if point not in self.covered)

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that keeps the verification from passing, in words."""
        found = [f"lint: {item.tool}:\n{item.words}" for item in self.lint if not item.accepted]
        found += [
            f"{bench.name} bench: {bench.failure.text}" for bench in self.benches if bench.failure
        ]
        if not found and self.missed:
            found.append(f"coverage: not hit: {', '.join(self.missed)}")
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "spec": self.spec.name,
            "block": self.spec.block,
            "spec_digest": self.spec.digest,
            "passed": self.passed,
            "seeds": list(self.seeds),
            "lint": {item.tool: item.words or "accepted" for item in self.lint},
            "benches": [bench.as_dict() for bench in self.benches],
            "coverage": {
                "points": len(self.points),
                "hit": len(self.points) - len(self.missed),
                "missed": list(self.missed),
            },
            "wave": None if self.wave is None else str(self.wave),
            "problems": list(self.problems),
        }


def verify(
    spec: BlockSpec,
    *,
    seeds: Sequence[int] = (0, 1),
    works: int = 12,
    benches: Benches = "both",
    wave: Path | None = None,
    verilog: str | None = None,
    progress: bool = True,
) -> Report:
    """Build, lint and try a specification.

    Args:
        seeds: of the random scenarios; the compiled bench goes on to many more.
        works: works of a scenario of the cocotb bench.
        benches: which of them to run.
        wave: file that receives an FST of the cocotb bench's run, or of the compiled bench's first
            scenarios where only that runs; of the failing scenario if there is one.
        verilog: a text to verify instead of what ``spec`` emits.

    Raises:
        InputError: the waveform cannot be written there.
        ToolMissingError, ToolError: a tool is missing or failed.
    """
    with Progress(f"elaborating {spec.name}", enabled=progress) as shown:
        text = build.verilog(spec) if verilog is None else verilog
        shown.describe("lint")
        report = Report(
            spec=spec,
            seeds=tuple(seeds),
            lint=lint(spec, text),
            points=stimulus.coverage_points(spec),
        )
    if any(item.refused for item in report.lint):
        return report  # there is nothing to simulate
    with nullcontext() if wave is None else output_file(wave.absolute()) as drawn:
        if benches in ("both", "cocotb"):
            found = cocotb_run.run(
                spec, text, seeds=seeds, works=works, large=1, wave=drawn, progress=progress
            )
            report.benches.append(
                BenchReport(name="cocotb", tally=found.tally, failure=found.failure)
            )
            report.covered |= found.tally.coverage
        if benches in ("both", "compiled"):
            bench, failing = _compiled(spec, text, seeds, progress)
            report.benches.append(bench)
            report.covered |= bench.tally.coverage
            if drawn is not None and (benches == "compiled" or failing is not None):
                chosen = failing or next(stimulus.scenarios(spec, seeds[0], works=works))
                _wave(spec, text, chosen, drawn, progress)
    report.wave = wave
    return report


def _compiled(
    spec: BlockSpec, text: str, seeds: Sequence[int], progress: bool
) -> tuple[BenchReport, Scenario | None]:
    """The compiled bench: the same seeds and sixteen times as many more, and what is exhaustive."""
    tally = Tally()
    many = [*seeds, *(1_000 + seed * 16 + i for seed in seeds for i in range(16))]
    scenarios = compiled.plan_scenarios(spec, many, "full")
    with (
        Progress(f"compiling a model of {spec.name}", enabled=progress) as shown,
        load(spec, text, effort=RUN_LONG) as model,
    ):
        shown.describe(f"compiled bench: {spec.name}, {len(many)} seeds")
        for scenario in scenarios:
            stim = stimulus.stimulus(spec, scenario)
            failure = compiled.run_scenario(model, stim, tally)
            if failure is not None:
                return BenchReport(name="compiled", tally=tally, failure=failure), scenario
    return BenchReport(name="compiled", tally=tally), None


def _wave(spec: BlockSpec, text: str, scenario: Scenario, wave: Path, progress: bool) -> None:
    """An FST of one scenario, from a model compiled for it."""
    with (
        Progress("compiling a model with waveforms", enabled=progress),
        load(spec, text, effort=RUN_SHORT, trace="fst") as model,
    ):
        model.wave(wave)
        compiled.run_scenario(model, stimulus.stimulus(spec, scenario))
        model.wave(None)


def seeds_from(count: int, base: int) -> tuple[int, ...]:
    """``count`` seeds that follow ``base``; the same on every machine."""
    return tuple(int(seed) for seed in np.arange(base, base + count))

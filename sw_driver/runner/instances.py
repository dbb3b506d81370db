"""Several instances of a Verilated core that share the work of one.

The tile columns of an operator are divided among processes of this machine, each with a model of
its own. A share is packed, run and compared with its reference where it is run; its cycles are held
against the timing model there, too. Together the shares are what one core does, one after the
other: its results are theirs, and its cycles the sum of theirs, the latency of a run counted once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hw.block import block
from hw.gemm import GemmSpec
from hw.streams import Stream
from rtl_gen import processes
from rtl_gen.errors import InputError, ToolError
from sim.gemm import GemmPlan
from sim.harness import Model, Packed

MAX_JOBS = 1024

Fields = Mapping[str, np.ndarray]


class Simulator(Protocol):
    """What runs packed beats: a :class:`sim.harness.Model`."""

    def run(self, inputs: Any, expect: Any) -> Any:
        """As :meth:`sim.harness.Model.run`."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one instance did: cycles observed, cycles by the timing model, and the seconds taken."""

    cycles: int
    predicted: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Ran:
    """GEMMs that were run back to back.

    Attributes:
        tiles, wanted: of every GEMM the results by field ``(jobs, tile.m, tile.n, …)``, and those
            of the reference.
        shares: what every instance did of them.
        latency: cycles of a run beside those of its jobs.
    """

    tiles: tuple[Fields, ...]
    wanted: tuple[Fields, ...]
    shares: tuple[Share, ...]
    latency: int

    @property
    def cycles(self) -> int:
        """Cycles of one core that does all of it."""
        return self.latency + sum(share.cycles - self.latency for share in self.shares)

    @property
    def predicted(self) -> int:
        """The same by the timing model."""
        return self.latency + sum(share.predicted - self.latency for share in self.shares)

    @property
    def as_predicted(self) -> bool:
        """Whether every instance took the cycles of its share."""
        return all(share.cycles == share.predicted for share in self.shares)

    @property
    def seconds(self) -> float:
        """Seconds of simulation, of all instances."""
        return sum(share.seconds for share in self.shares)


class Instances:
    """Instances of a core; a context manager, or to be closed.

    Args:
        model: of one instance. jobs: how many; the further ones are started when they are needed.
    """

    def __init__(self, model: Model | Simulator, jobs: int = 1):
        self._model, self.jobs = model, jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Instances:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        if self._pool is not None:
            processes.stop(self._pool)
            self._pool = None

    def run(self, plans: Sequence[GemmPlan]) -> Ran:
        """GEMMs of one shape in their tiles of columns, back to back.

        Raises:
            RunError: the block hung or broke a stream rule.
            ToolError: a process died.
        """
        spec: GemmSpec = plans[0].spec
        latency = int(_timing(spec).latency(spec))
        count = plans[0].n_tiles
        bounds = [count * number // self.jobs for number in range(self.jobs + 1)]
        spans = [(a, b) for a, b in itertools.pairwise(bounds) if b > a]
        if len(spans) == 1:
            parts = [share(self._model, plans)]
        else:
            parts = self._together(
                [[plan.columns(start, stop) for plan in plans] for start, stop in spans]
            )
        return Ran(
            tiles=tuple(_joined([part[1][index] for part in parts]) for index in range(len(plans))),
            wanted=tuple(
                _joined([part[2][index] for part in parts]) for index in range(len(plans))
            ),
            shares=tuple(part[0] for part in parts),
            latency=latency,
        )

    def _together(self, work: Sequence[list[GemmPlan]]) -> list[Done]:
        if self._pool is None:
            model: Any = self._model
            told = (model.spec, model.library, model.streams, len(model.observed))
            self._pool = processes.pool(self.jobs, _open, told)
        try:
            with processes.uninterrupted():
                # Here the processes start, as many as there is work for.
                waiting: list[Future[Done]] = [self._pool.submit(_do, plans) for plans in work]
            return [future.result() for future in waiting]
        except BrokenProcessPool:
            self.close()
            raise ToolError(
                "verilator", "a process with an instance of the core died (killed, or no memory)"
            ) from None


Done = tuple[Share, list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]


def checked_jobs(jobs: int | None) -> int:
    """The number of instances; None is one for each core of the machine.

    Raises:
        InputError: it is no number of processes.
    """
    if jobs is None:
        return min(processes.cores(), MAX_JOBS)
    if not 1 <= jobs <= MAX_JOBS:
        raise InputError(f"jobs: must lie in [1, {MAX_JOBS}], got {jobs}")
    return jobs


def share(model: Model | Simulator, plans: Sequence[GemmPlan]) -> Done:
    """GEMMs on one instance: what it took, the results, and those of the reference."""
    spec = plans[0].spec
    latency = int(_timing(spec).latency(spec))
    inputs = packed(plans)
    started = time.perf_counter()
    run = model.run(inputs, {"o": sum(plan.jobs for plan in plans)})
    seconds = time.perf_counter() - started
    tiles = run.outputs["o"]
    found, wanted, position = [], [], 0
    for plan in plans:
        part = {name: beats[position : position + plan.jobs] for name, beats in tiles.items()}
        position += plan.jobs
        golden = plan.expected()
        found.append(part)
        # The same arrays once more are sent between processes only if they are others.
        same = all(np.array_equal(part[name], golden[name]) for name in golden)
        wanted.append(part if same else golden)
    predicted = latency + sum(plan.predicted_cycles - latency for plan in plans)
    return Share(cycles=run.cycles, predicted=predicted, seconds=seconds), found, wanted


def packed(plans: Sequence[GemmPlan]) -> dict[str, Packed]:
    """The inputs of several GEMMs as one sequence of jobs."""
    joined = {}
    for name in plans[0].inputs:
        parts = [plan.inputs[name] for plan in plans]
        starts = np.cumsum([0, *(len(part.rows) for part in parts[:-1])])
        indices = [
            start + (np.arange(len(part.rows)) if part.index is None else part.index)
            for start, part in zip(starts, parts, strict=True)
        ]
        joined[name] = Packed(
            np.concatenate([part.rows for part in parts]),
            np.concatenate(indices).astype(np.int32),
        )
    return joined


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Results of shares in the order of their columns, tiles of N being the outermost."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _timing(spec: GemmSpec) -> Any:
    return block(spec.block).timing


# In a process of its own ------------------------------------------------------------

_instance: list[Model] = []


def _open(spec: GemmSpec, library: Path, streams: Sequence[Stream], observed: int) -> None:
    """One instance in this process."""
    _instance.append(Model(spec, library, streams, observed=observed))


def _do(plans: list[GemmPlan]) -> Done:
    return share(_instance[0], plans)

"""A schedule held against Verilated cores: every result in the cycle that the schedule says.

Operands reach the cores as the DMA model delivers them: no beat of a block is offered before the
schedule has the block ready, and from then on the cores alone decide when they take it. Results are
taken at once. What a schedule's later transfers wait for are ends of earlier blocks; since those
are compared, too, the times at which operands are delivered are the right ones, block after block.

Operands are random, corner-heavy, of the shapes of the operators; every result is compared with
the block's golden model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hw.block import block
from hw.gemm import GemmSpec, GemmWork, Job
from rtl_gen.errors import InputError
from sim.gemm import GemmPlan
from sim.harness import Model, Packed, verilate
from sim.harness.compile import RUN_SHORT
from sw_driver.system.mapping import SystemMapping
from sw_driver.system.schedule import Blocking, Channel, Gemm
from sw_driver.system.timeline import Block, Timeline, timeline

MOST_CYCLES = 20_000_000
"""Of a schedule that is run."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of a check.

    Attributes:
        predicted: cycles of the schedule, to the end of its last store. observed: the same with
            the last result's cycle taken from the RTL.
        blocks: stages times cores that had work. results: tiles whose cycle and value agree or not.
        problems: what differs, in words; empty if nothing does.
    """

    predicted: int
    observed: int
    blocks: int
    results: int
    problems: tuple[str, ...]


@dataclass
class _Core:
    """What one core is given, and what it should give."""

    inputs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    moments: dict[str, list[np.ndarray]] = field(default_factory=dict)
    cycles: list[np.ndarray] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    # Of every block its name, its results' places, and by when its operands have to be taken.
    blocks: list[tuple[str, int, int, dict[str, int], int]] = field(default_factory=list)
    results: int = 0

    def add(
        self, name: str, plans: Sequence[GemmPlan], ready: int, due: np.ndarray, by: int
    ) -> None:
        """A block: operands from ``ready`` on, results in the cycles ``due``."""
        for plan in plans:
            for stream, packed in plan.inputs.items():
                dense = packed.dense()
                self.inputs.setdefault(stream, []).append(dense)
                moment = np.full(len(dense), ready, dtype=np.uint64)
                self.moments.setdefault(stream, []).append(moment)
            for key, value in plan.expected().items():
                self.values.setdefault(key, []).append(value)
        self.cycles.append(due)
        first, self.results = self.results, self.results + len(due)
        taken = {stream: sum(map(len, rows)) for stream, rows in self.inputs.items()}
        self.blocks.append((name, first, self.results, taken, by))


class Replay:
    """Schedules one after another on the cores of one specification.

    Args:
        spec: the cores. cores: how many. weight_bits: of all jobs. seed: of the operands.
    """

    def __init__(self, spec: GemmSpec, cores: int, channel: Channel, *, seed: int = 0):
        self.spec, self.channel = spec, channel
        self.cores = [_Core() for _ in range(cores)]
        self.rng = np.random.default_rng([0x5C4ED, seed])

    def add(self, name: str, gemm: Gemm, cut: Blocking, start: int, weight_bits: int) -> Timeline:
        """A schedule that begins in cycle ``start``."""
        line = timeline(gemm, cut, self.channel)
        wholes = [self._operands(gemm, weight_bits) for _ in range(gemm.instances)]
        timing: Any = block(self.spec.block).timing
        for number, stage in enumerate(line.stages):
            for core, (instance, rows, columns) in self._shares(gemm, cut, stage.block):
                plans = list(self._plans(gemm, wholes[instance], rows, columns, stage.block.units))
                each = [
                    int(timing.job_cycles(self.spec, plan.parts[part], weight_bits))
                    for plan in plans
                    for _ in range(plan.m_tiles * plan.n_tiles)
                    for part in range(len(plan.parts))
                ]
                due = start + stage.begin + gemm.latency - 1 + np.cumsum(each)
                # The sequencer starts all cores at once, when the first, which has most to do, can.
                ready = stage.ready if core == 0 else stage.begin
                # Before anything can come that takes the operands' place.
                by = start + stage.end + self.channel.latency
                self.cores[core].add(f"{name} block {number}", plans, start + ready, due, by)
        return line

    def _operands(self, gemm: Gemm, weight_bits: int) -> GemmWork:
        """Random operands of a whole product, rows and columns padded to whole tiles."""
        tile = self.spec.tile
        rows = -(-gemm.m // tile.m) * tile.m
        columns = -(-gemm.n // tile.n) * tile.n
        big = self.spec.model_copy(
            update={"tile": tile.model_copy(update={"m": rows, "n": columns})}
        )
        steps = gemm.k_span(0, gemm.units)[1]
        golden: Any = block(self.spec.block).golden
        work: GemmWork = golden.random_operands(
            big, self.rng, Job(k_steps=steps, weight_bits=weight_bits)
        )
        return work

    def _shares(
        self, gemm: Gemm, cut: Blocking, part: Block
    ) -> Iterator[tuple[int, tuple[int, tuple[int, int], tuple[int, int]]]]:
        """What every core has of a block, ``(instance, rows, columns)``; whole tiles."""

        def along(span: tuple[int, int], tile: int, cores: int) -> list[tuple[int, int]]:
            tiles = -(-(span[1] - span[0]) // (tile * cores))
            step = tiles * tile
            return [
                (low, min(low + step, -(-span[1] // tile) * tile))
                for low in range(span[0], span[1], step)
            ]

        core = 0
        for instance in range(*part.instances):
            for i, rows in enumerate(along(part.rows, gemm.tile_m, cut.pm)):
                for j, columns in enumerate(along(part.columns, gemm.tile_n, cut.pn)):
                    core = ((instance - part.instances[0]) * cut.pm + i) * cut.pn + j
                    yield core, (instance, rows, columns)

    def _plans(
        self,
        gemm: Gemm,
        whole: GemmWork,
        rows: tuple[int, int],
        columns: tuple[int, int],
        units: tuple[int, int],
    ) -> Iterator[GemmPlan]:
        """The jobs of one core in one block: of a grouped K, group by group."""
        spans = [(unit, unit + 1) for unit in range(*units)] if gemm.grouped else [units]
        for low, high in spans:
            first, last = (gemm.k_span(0, end)[1] if end else 0 for end in (low, high))
            parts = tuple(
                min(gemm.max_steps, last - done) for done in range(first, last, gemm.max_steps)
            )
            m, n = slice(*rows), slice(*columns)
            k = slice(first * self.spec.tile.k, last * self.spec.tile.k)
            a, w = whole.a[m, k], whole.w[n, k]
            yield GemmPlan(
                spec=self.spec,
                shape=(len(a), len(w), a.shape[1]),
                a=a,
                w=w,
                z=None if whole.z is None else whole.z[n],
                c=None,
                add_after=None,
                job=replace(whole.job, k_steps=1),
                extra=self._extra(whole.extra, m, n, k),
                parts=parts,
            )

    def _extra(
        self, extra: Mapping[str, np.ndarray], m: slice, n: slice, k: slice
    ) -> dict[str, np.ndarray]:
        """Further operands of some rows, columns and elements of K."""
        found = dict(extra)
        for name, further in self.spec.further.items():
            if further.side is None:
                continue
            array = extra[name][m if further.side == "m" else n]
            if further.per:
                array = array[:, k.start // further.per : -(-k.stop // further.per)]
            found[name] = array
        return found

    def run(self, model: Model) -> tuple[list[str], int, int, int]:
        """All of it on the RTL, core by core.

        Returns:
            What differs, in words; the last result's cycle; blocks and results compared.
        """
        problems: list[str] = []
        latest = blocks = results = 0
        for number, core in enumerate(self.cores):
            if not core.blocks:
                continue
            found, last = self._compare(model, number, core)
            problems += found
            latest = max(latest, last)
            blocks += len(core.blocks)
            results += core.results
        return problems, latest, blocks, results

    def _compare(self, model: Model, number: int, core: _Core) -> tuple[list[str], int]:
        run = model.run(
            {name: Packed(np.concatenate(rows)) for name, rows in core.inputs.items()},
            {"o": core.results},
            not_before={name: np.concatenate(rows) for name, rows in core.moments.items()},
        )
        problems = []
        due, seen = np.concatenate(core.cycles), run.output_cycles["o"].astype(np.int64)
        before = dict.fromkeys(core.inputs, 0)
        for name, first, last, taken, by in core.blocks:
            wrong = np.flatnonzero(due[first:last] != seen[first:last])
            if len(wrong):
                at = first + int(wrong[0])
                problems.append(
                    f"core {number}, {name}: result {at - first} of {last - first} in cycle "
                    f"{seen[at]}, by the schedule in {due[at]}"
                )
            for stream, beats in taken.items():
                late = run.input_cycles[stream][before[stream] : beats].astype(np.int64)
                if len(late) and late[-1] > by:
                    problems.append(
                        f"core {number}, {name}: {stream} is taken up to cycle {late[-1]}, its "
                        f"place is given away in {by}"
                    )
            before = taken
        for key, parts in core.values.items():
            if not np.array_equal(run.outputs["o"][key], np.concatenate(parts)):
                problems.append(f"core {number}: {key} differs from the golden model")
        return problems, int(seen[-1])


def check_mapping(mapping: SystemMapping, *, seed: int = 0) -> Checked:
    """Every operator of a mapped phase on the RTL of its cores, one after another.

    Raises:
        InputError: it is too long to run, or an operator is on no core.
        ToolMissingError, ToolError: Verilator or the compiler is missing or failed.
    """
    total = sum(item.schedule for item in mapping.operators)
    if total > MOST_CYCLES:
        raise InputError(
            f"{mapping.workload.name}: must take at most {MOST_CYCLES} cycles to be run, got "
            f"{total}"
        )
    idle = [item.name for item in mapping.operators if not item.covered]
    if idle:
        raise InputError(f"{mapping.workload.name}: {', '.join(idle)}: run on no core")
    channel = mapping.system.spec.channel
    replays: dict[str, Replay] = {}
    for kind in mapping.system.kinds:
        replays[kind.core.name] = Replay(kind.spec(), kind.count, channel, seed=seed)
    now = last_store = 0
    for operator in mapping.operators:
        for piece in operator.pieces:
            for number in range(piece.times):
                name = f"{operator.name} {piece.gemm.m}×{piece.gemm.n}×{piece.gemm.k} run {number}"
                line = replays[operator.kind].add(name, piece.gemm, piece.cut, now, operator.bits)
                last_store = line.cycles - line.stages[-1].done
                if line.cycles != piece.cycles:
                    raise AssertionError(f"{name}: {line.cycles} != {piece.cycles} cycles")
                now += line.cycles
    problems: list[str] = []
    latest = blocks = results = 0
    for replay in replays.values():
        if not any(core.blocks for core in replay.cores):
            continue
        with verilate(replay.spec, effort=RUN_SHORT, progress=False) as model:
            found, last, some, more = replay.run(model)
        problems += found
        latest, blocks, results = max(latest, last), blocks + some, results + more
    return Checked(
        predicted=now,
        observed=latest + 1 + last_store,
        blocks=blocks,
        results=results,
        problems=tuple(problems),
    )

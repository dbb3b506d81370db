"""The cocotb testbench of every block: streams, stimulus and reference come from the block's data.

Runs inside the simulator (:mod:`sim.cocotb_run` starts it). The file named by ``RTLGEN_BENCH`` says
which specification, seeds and sizes; the one it names as ``report`` receives what was found.

One step a clock cycle: at the rising edge the handshakes of the cycle that ends are read, then the
next cycle is driven. A port is one wide integer, and only ports that matter in a cycle are read.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from hw.block import spec_from_dict
from hw.spec import BlockSpec
from hw.streams import Stream
from sim import source, stimulus
from sim.compiled import Tally
from sim.stimulus import Failure, Scenario, Stimulus
from sim.watch import watch

DRAIN = 24
"""Cycles watched for beats after the last expected one."""


@dataclass
class _Port:
    """One stream of the block under test, and where it stands in a scenario."""

    stream: Stream
    payload: Any
    valid: Any
    ready: Any
    beats: list[int] = field(default_factory=list)
    expected: int = 0
    pattern: np.ndarray | None = None
    done: int = 0
    offering: bool = False
    taking: bool = False
    held: int | None = None
    observed: bool = False
    values: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)

    def start(self, pattern: np.ndarray | None) -> None:
        self.pattern = pattern
        self.done, self.offering, self.taking, self.held = 0, False, False, None
        self.values, self.cycles = [], []

    def free(self, cycle: int) -> bool:
        """Whether the bench does not hold this stream back in a cycle."""
        if self.observed:
            return True
        return self.pattern is None or not self.pattern[cycle % len(self.pattern)]


@dataclass
class _Played:
    """What happened in one run of a scenario's beats."""

    failure: Failure | None
    total_cycles: int
    first_input: int | None
    last_output: int | None
    stopped: bool
    accepted: dict[str, int]
    packed: dict[str, np.ndarray]
    cycles: dict[str, np.ndarray]

    @property
    def span(self) -> int:
        if self.first_input is None or self.last_output is None:
            return 0
        return self.last_output - self.first_input + 1


class Bench:
    """Drives and watches every stream of a block.

    Args:
        dut: the simulator's handle of the top module.
        spec: its specification.
    """

    def __init__(self, dut: Any, spec: BlockSpec):
        self.dut = dut
        self.spec = spec
        self.edge = RisingEdge(dut.clk)
        self.noise = np.random.default_rng(0)
        self.ports = [
            _Port(
                stream=item,
                payload=getattr(dut, f"{item.name}__payload"),
                valid=getattr(dut, f"{item.name}__valid"),
                ready=getattr(dut, f"{item.name}__ready"),
            )
            for item in (*source.streams(spec), *source.observed(spec))
        ]
        for port in self.ports[len(source.streams(spec)) :]:
            port.observed = True
        self.inputs = [port for port in self.ports if port.stream.direction == "in"]
        self.outputs = [port for port in self.ports if port.stream.direction == "out"]

    async def start(self) -> None:
        """Clock and a first reset."""
        Clock(self.dut.clk, 10, "ns").start()
        self.dut.rst.value = 1
        for port in self.inputs:
            port.valid.value = 0
            port.payload.value = 0
        for port in self.outputs:
            port.ready.value = 0
        await self.edge

    def _scramble(self, port: _Port) -> None:
        """What a stream without a valid beat carries: anything but the next beat."""
        bits = port.stream.width
        port.payload.value = int.from_bytes(self.noise.bytes(port.stream.nbytes), "little") & (
            (1 << bits) - 1
        )

    async def reset(self) -> None:
        """One cycle of reset, during which every stream is busy: reset wins over transfers."""
        self.dut.rst.value = 1
        for port in self.inputs:
            self._scramble(port)
            port.valid.value = 1
        for port in self.outputs:
            port.ready.value = 1
        await self.edge
        self.dut.rst.value = 0
        for port in self.inputs:
            port.valid.value = 0
            self._scramble(port)

    async def play(self, stim: Stimulus, *, stop_at: int | None, when: str) -> _Played:
        """Reset, then offer a scenario's beats and take its results."""
        scenario = stim.scenario
        names = tuple(port.stream.name for port in self.ports)
        patterns = scenario.stalls.patterns(names, scenario.seed) if scenario.stalls else {}
        for port in self.ports:
            port.start(patterns.get(port.stream.name))
        for port in self.inputs:
            packed = stim.inputs.get(port.stream.name)
            rows = packed.dense() if packed is not None else ()
            port.beats = [int.from_bytes(row.tobytes(), "little") for row in rows]
        for port in self.outputs:
            port.expected = stim.expect.get(port.stream.name, 0)
        await self.reset()
        missing = sum(len(port.beats) for port in self.inputs)
        missing += sum(port.expected for port in self.outputs)
        patience = 2_000 + 2 * stim.predicted_cycles()
        patience += max((len(bits) for bits in patterns.values()), default=0)
        played = _Played(None, 0, None, None, False, {}, {}, {})
        cycle, idle, drain = 0, 0, DRAIN
        while played.failure is None:
            if cycle == stop_at:
                played.stopped = True
                break
            if missing == 0:
                if drain == 0 or stop_at is not None:
                    break
                drain -= 1
            elif idle > patience:
                played.failure = self._hang(stim, cycle, when)
                break
            self._drive(cycle, finished=missing == 0)
            await self.edge
            moved, failure = self._sample(played, stim, cycle, when)
            missing -= moved
            idle = 0 if moved else idle + 1
            played.failure = failure
            cycle += 1
        played.total_cycles = cycle
        played.accepted = {port.stream.name: port.done for port in self.inputs}
        for port in self.outputs:
            size = port.stream.nbytes
            data = b"".join(value.to_bytes(size, "little") for value in port.values)
            packed_rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
            played.packed[port.stream.name] = packed_rows
            played.cycles[port.stream.name] = np.array(port.cycles, dtype=np.uint64)
        return played

    def _drive(self, cycle: int, *, finished: bool) -> None:
        for port in self.inputs:
            free = port.free(cycle)
            if port.offering:
                continue
            if free and port.done < len(port.beats):
                port.payload.value = port.beats[port.done]
                if not port.taking:
                    port.valid.value = 1
                port.offering = port.taking = True
            elif port.taking:
                port.valid.value = 0
                self._scramble(port)
                port.taking = False
        for port in self.outputs:
            free = finished or port.free(cycle)
            if free != port.taking or cycle == 0:
                port.ready.value = int(free)
                port.taking = free

    def _sample(
        self, played: _Played, stim: Stimulus, cycle: int, when: str
    ) -> tuple[int, Failure | None]:
        """The transfers of the cycle that has just ended."""
        moved = 0
        for port in self.inputs:
            if port.offering and bool(port.ready.value):
                port.offering = False
                port.done += 1
                moved += 1
                if played.first_input is None:
                    played.first_input = cycle
        for port in self.outputs:
            name = port.stream.name
            if not bool(port.valid.value):
                if port.held is not None:
                    words = f"{name}: valid fell before beat {port.done} was transferred"
                    return moved, self._broken(stim, name, words, cycle, when)
                continue
            value = int(port.payload.value)
            if port.held is not None and value != port.held:
                words = f"{name}: payload of beat {port.done} changed before it was transferred"
                return moved, self._broken(stim, name, words, cycle, when)
            if not port.taking:
                port.held = value
                continue
            port.held = None
            if port.observed:
                port.values.append(value)
                port.cycles.append(cycle)
                port.done += 1
                continue
            if port.done == port.expected:
                words = f"{name}: a beat after the {port.done} expected ones"
                return moved, self._broken(stim, name, words, cycle, when)
            port.values.append(value)
            port.cycles.append(cycle)
            port.done += 1
            moved += 1
            played.last_output = cycle
        return moved, None

    @staticmethod
    def _broken(stim: Stimulus, name: str, words: str, cycle: int, when: str) -> Failure:
        scenario = stim.scenario.name
        text = f"{scenario}{when}: {words} (cycle {cycle})"
        return Failure(kind="protocol", scenario=scenario, text=text, stream=name, cycle=cycle)

    def _hang(self, stim: Stimulus, cycle: int, when: str) -> Failure:
        short = [f"{p.stream.name} {p.done} of {len(p.beats)}" for p in self.inputs]
        short += [f"{p.stream.name} {p.done} of {p.expected}" for p in self.outputs]
        scenario = stim.scenario.name
        text = (
            f"{scenario}{when}: no transfer any more, beats transferred: {', '.join(short)} "
            f"(cycle {cycle})"
        )
        return Failure(kind="hang", scenario=scenario, text=text, cycle=cycle)

    async def run(self, stim: Stimulus, tally: Tally) -> Failure | None:
        """One scenario, with its reset in mid-job if it has one; what was wrong first, or None."""
        scenario = stim.scenario
        mid, when = False, ""
        if scenario.reset_at is not None:
            before = await self.play(stim, stop_at=scenario.reset_at, when=" before the reset")
            failure = self._judge(stim, before, " before the reset")
            if failure is not None:
                return failure
            mid = before.stopped and any(before.accepted.values())
            when = " after the reset"
        played = await self.play(stim, stop_at=None, when=when)
        failure = self._judge(stim, played, when) or stimulus.check_accepted(stim, played.accepted)
        stalled = scenario.stalls is not None
        if failure is None and not stalled:
            failure = stimulus.check_cycles(stim, played.span, played.last_output)
        if failure is None:
            tally.add(stim, played.total_cycles, None if stalled else played.span, mid)
        return failure

    @staticmethod
    def _judge(stim: Stimulus, played: _Played, when: str) -> Failure | None:
        # A wrong value that came before a broken rule is the first thing to say.
        compared = {name: rows for name, rows in played.packed.items() if name in stim.expected}
        wrong = stimulus.compare(stim, compared, played.cycles, when=when)
        if wrong is None:
            total = played.total_cycles
            wrong = watch(stim, played.packed, played.cycles, total_cycles=total, when=when)
        return wrong or played.failure


def scenarios_of(request: dict[str, Any], spec: BlockSpec) -> list[Scenario]:
    """What a request asks for."""
    if request["kind"] == "speed":
        rng = np.random.default_rng(0)
        return [stimulus.speed(spec, rng, request["cycles"])]
    chosen: list[Scenario] = []
    for seed in request["seeds"]:
        chosen += stimulus.scenarios(spec, seed, works=request["works"], large=request["large"])
    chosen += stimulus.exhaustive(spec, most_jobs=request["exhaustive_jobs"])
    return chosen


@cocotb.test()
async def block_obeys_its_golden_model(dut: Any) -> None:
    """Every scenario of the request; the first failure ends the test."""
    request = json.loads(Path(os.environ["RTLGEN_BENCH"]).read_text())
    spec = spec_from_dict(request["spec"])
    bench = Bench(dut, spec)
    await bench.start()
    tally = Tally()
    failure = None
    seconds = 0.0
    chosen = scenarios_of(request, spec)
    progress = Path(request["progress"])
    for number, scenario in enumerate(chosen):
        progress.write_text(f"{number} {len(chosen)}")
        stim = stimulus.stimulus(spec, scenario)
        began = time.perf_counter()
        failure = await bench.run(stim, tally)
        seconds += time.perf_counter() - began
        if failure is not None:
            break
    report = {
        "failure": None if failure is None else failure.as_dict(),
        "tally": {**vars(tally), "coverage": sorted(tally.coverage)},
        "seconds": seconds,
    }
    Path(request["report"]).write_text(json.dumps(report))
    if failure is not None:
        raise AssertionError(failure.text)

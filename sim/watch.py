"""What a bench checks of the ports that a block has beside its streams.

So far these are ports of DRAM: every command on them is held against the timing table by a checker
that knows nothing of the block (:mod:`sim.dram_monitor`), and, where nothing stalled, against the
block's own schedule, cycle by cycle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hw.block import block
from sim import source
from sim.dram_monitor import Trace, violations
from sim.stimulus import Failure, Stimulus

TRACE = "o_trace"
"""The observed stream that shows a DRAM's commands."""


def watch(
    stim: Stimulus,
    packed: Mapping[str, np.ndarray],
    cycles: Mapping[str, np.ndarray],
    *,
    total_cycles: int,
    when: str = "",
) -> Failure | None:
    """The first thing that is wrong with what was observed.

    Args:
        packed, cycles: beats and their cycles by observed stream.
        total_cycles: of the run.
        when: said in the message.
    """
    spec: Any = stim.spec
    for item in source.observed(spec):
        if item.name != TRACE:
            raise ValueError(f"{item.name}: nobody knows how to watch it")
        trace = dram_trace(item.unpack(packed[item.name]), cycles[item.name])
        found = violations(
            trace,
            spec.timing,
            spec.geometry,
            postpone=spec.refresh_postpone if stim.scenario.stalls is None else None,
            until=total_cycles - 1,
        )
        if found:
            return _failure(stim, "timing", f"{when}: {found[0].text}", found[0].cycle)
        if stim.scenario.stalls is None and stim.scenario.works:
            failure = _against_schedule(stim, trace, total_cycles, when)
            if failure is not None:
                return failure
    return None


def dram_trace(fields: Mapping[str, np.ndarray], cycles: np.ndarray) -> Trace:
    """A trace from the beats of ``o_trace``."""
    return Trace(
        cycle=cycles.astype(np.int64), **{k: v.astype(np.int64) for k, v in fields.items()}
    )


def _against_schedule(stim: Stimulus, trace: Trace, total_cycles: int, when: str) -> Failure | None:
    timing: Any = block(stim.spec.block).timing
    orders = [order for work in stim.scenario.works for order in work.orders]
    wanted = timing.schedule(stim.spec, orders, until=total_cycles - 1).trace()
    difference = first_difference(trace, wanted, total_cycles)
    if difference is None:
        return None
    text, cycle = difference
    return _failure(stim, "cycles", f"{when}: {text}", cycle)


def first_difference(
    trace: Trace, wanted: Mapping[str, np.ndarray], total_cycles: int
) -> tuple[str, int] | None:
    """Where a trace leaves a schedule, in words, and the cycle; None if it is the same."""
    inside = wanted["cycle"] < total_cycles
    expected = {name: array[inside] for name, array in wanted.items()}
    seen = masked(vars(trace))
    count = min(len(trace), int(inside.sum()))
    for name in ("cycle", "command", "bank", "row", "column"):
        expected[name] = masked(expected)[name]
    same = np.ones(count, dtype=bool)
    for name in ("cycle", "command", "bank", "row", "column"):
        same &= seen[name][:count] == expected[name][:count]
    if same.all() and len(trace) == inside.sum():
        return None
    index = int(np.flatnonzero(~same)[0]) if not same.all() else count

    def words(data: Mapping[str, np.ndarray]) -> str:
        if index >= len(data["cycle"]):
            return "nothing"
        parts = (f"{name} {int(data[name][index])}" for name in data)
        return ", ".join(parts)

    cycle = int(seen["cycle"][index]) if index < len(trace) else total_cycles
    text = f"command {index} on the port: expected {words(expected)}, observed {words(seen)}"
    return text, cycle


def masked(data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A trace with 0 where a field means nothing: banks of commands to all, rows, columns."""
    from hw.dram import ACTIVATES, ALL_BANKS, COLUMNS

    command = data["command"]
    return {
        "cycle": data["cycle"],
        "command": command,
        "bank": np.where(np.isin(command, ALL_BANKS), 0, data["bank"]),
        "row": np.where(np.isin(command, ACTIVATES), data["row"], 0),
        "column": np.where(np.isin(command, COLUMNS), data["column"], 0),
    }


def _failure(stim: Stimulus, kind: str, text: str, cycle: int) -> Failure:
    name = stim.scenario.name
    return Failure(kind=kind, scenario=name, text=f"{name}{text}", stream=TRACE, cycle=cycle)

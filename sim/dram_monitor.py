"""Whether a trace of DRAM commands keeps a timing table: a checker of its own.

It knows the table's parameters and what they mean, nothing of sequencers, schedules or
``hw.dram.constraints``: the history of every bank, group and channel is laid out as arrays, and
every pair of events that a parameter speaks of is compared, the latest earlier one with each later
one. States (open rows, refreshes due) come from the same histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hw.dram import Command, DramGeometry, DramTiming

C = Command

_EVERY_BANK = (C.ACTA, C.PREA, C.REF, C.WRA, C.MACA, C.AF)
_WITH_ROW = (C.ACT, C.ACTA)
_WITH_COLUMN = (C.RD, C.WR, C.WRA, C.MAC, C.MACA, C.AF, C.RDCP, C.WRCP)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Commands in the order of their cycles, one entry a command; NOPs are left out.

    Attributes:
        cycle, command, bank, row, column: ``int64`` arrays of one length. ``bank`` means nothing
            for commands to all banks, ``row`` only for activations, ``column`` only for columns.
    """

    cycle: np.ndarray
    command: np.ndarray
    bank: np.ndarray
    row: np.ndarray
    column: np.ndarray

    def __len__(self) -> int:
        return len(self.cycle)


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A rule that a command breaks.

    Attributes:
        index: of the command in the trace.
        cycle: when it was issued.
        rule: the parameter, or the state that was wrong.
        text: all of it in words.
    """

    index: int
    cycle: int
    rule: str
    text: str


def violations(
    trace: Trace,
    timing: DramTiming,
    geometry: DramGeometry,
    *,
    postpone: int | None = None,
    until: int | None = None,
) -> list[Violation]:
    """Everything that is wrong with a trace, in the order of its commands.

    Args:
        postpone: REFs that may be owed; None to leave refreshing unchecked. The ``k``-th REF (from
            1) is due at ``k · nREFI`` and may not come before, nor later than ``postpone``
            intervals and one command's closing and opening after it.
        until: the cycle to which the trace goes; the last command's if None.
    """
    found = _malformed(trace, geometry)
    if found:
        return found
    banks = range(geometry.total_banks)
    for bank in banks:
        found += _bank(trace, timing, bank)
    for group in range(geometry.groups):
        first = group * geometry.banks
        at = _touches(trace, range(first, first + geometry.banks))
        found += _pairs(trace, at, _WITH_COLUMN, _WITH_COLUMN, "nCCDL", timing.nCCDL, f"{group=}")
    everything = np.ones(len(trace), dtype=bool)
    reads = (C.RD, C.MAC, C.MACA, C.AF, C.RDCP)
    writes = (C.WR, C.WRA, C.WRCP)
    every = tuple(Command)[1:]
    for before, after, name, cycles in (
        (_WITH_COLUMN, _WITH_COLUMN, "nCCDS", timing.nCCDS),
        (_WITH_ROW, _WITH_ROW, "nRRD", timing.nRRD),
        ((C.PRE, C.PREA), (C.REF,), "nRP", timing.nRP),
        (writes, reads, "nWTR", timing.nCWL + timing.nWTR),
        ((C.REF,), every, "nRFC", timing.nRFC),
    ):
        found += _pairs(trace, everything, before, after, name, cycles, "channel")
    if postpone is not None:
        found += _refreshes(trace, timing, postpone, until)
    return sorted(found, key=lambda item: (item.index, item.rule))


def _names(trace: Trace, index: int) -> str:
    code = int(trace.command[index])
    name = Command(code).name if code in set(Command) else f"command {code}"
    return (
        f"{name} bank {int(trace.bank[index])} row {int(trace.row[index])} "
        f"column {int(trace.column[index])} in cycle {int(trace.cycle[index])}"
    )


def _violation(trace: Trace, index: int, rule: str, why: str) -> Violation:
    return Violation(
        index=index,
        cycle=int(trace.cycle[index]),
        rule=rule,
        text=f"{_names(trace, index)}: {why}",
    )


def _is(trace: Trace, commands: Sequence[Command]) -> np.ndarray:
    return np.isin(trace.command, [int(command) for command in commands])


def _malformed(trace: Trace, geometry: DramGeometry) -> list[Violation]:
    """Commands that no device knows, places that it has not, two commands in one cycle."""
    one_bank = ~_is(trace, _EVERY_BANK)
    checks = (
        ("encoding", ~_is(trace, tuple(Command)[1:]), "no such command"),
        (
            "bank",
            one_bank & ((trace.bank < 0) | (trace.bank >= geometry.total_banks)),
            f"there are {geometry.total_banks} banks",
        ),
        (
            "row",
            _is(trace, _WITH_ROW) & ((trace.row < 0) | (trace.row >= geometry.rows)),
            f"there are {geometry.rows} rows",
        ),
        (
            "column",
            _is(trace, _WITH_COLUMN) & ((trace.column < 0) | (trace.column >= geometry.columns)),
            f"there are {geometry.columns} columns",
        ),
        (
            "one a cycle",
            np.concatenate([[False], np.diff(trace.cycle) <= 0])[: len(trace)],
            "the port takes one command a cycle",
        ),
    )
    return [
        _violation(trace, int(index), rule, why)
        for rule, wrong, why in checks
        for index in np.flatnonzero(wrong)
    ]


def _touches(trace: Trace, banks: Sequence[int]) -> np.ndarray:
    """Which commands are to any of some banks."""
    return _is(trace, _EVERY_BANK) | np.isin(trace.bank, list(banks))


def _last(where: np.ndarray) -> np.ndarray:
    """For each place the place of the last set one strictly before it, −1 if there is none."""
    places = np.where(where, np.arange(len(where)), -1)
    before = np.concatenate([[-1], places[:-1]])
    return np.maximum.accumulate(before)[: len(where)]


def _pairs(
    trace: Trace,
    at: np.ndarray,
    before: Sequence[Command],
    after: Sequence[Command],
    name: str,
    cycles: int,
    scope: str,
) -> list[Violation]:
    """Pairs of commands on a scope that are closer than a parameter allows."""
    first, second = at & _is(trace, before), at & _is(trace, after)
    last = _last(first)
    distance = trace.cycle - trace.cycle[last]
    wrong = second & (last >= 0) & (distance < cycles)
    return [
        _violation(
            trace,
            int(index),
            name,
            f"{int(distance[index])} cycles after {_names(trace, int(last[index]))}, "
            f"{name} ({scope}) asks for {cycles}",
        )
        for index in np.flatnonzero(wrong)
    ]


def _bank(trace: Trace, timing: DramTiming, bank: int) -> list[Violation]:
    """The pairs and the states of one bank."""
    at = _touches(trace, (bank,))
    t, scope = timing, f"{bank=}"
    reads = (C.RD, C.MAC, C.MACA, C.AF, C.RDCP)
    writes = (C.WR, C.WRA, C.WRCP)
    close = (C.PRE, C.PREA)
    found: list[Violation] = []
    for before, after, name, cycles in (
        (_WITH_ROW, (C.RD,), "nRCDRD", t.nRCDRD),
        (_WITH_ROW, (C.MAC, C.MACA), "nRCDRDMAC", t.nRCDRDMAC),
        (_WITH_ROW, (C.AF,), "nRCDRDAF", t.nRCDRDAF),
        (_WITH_ROW, (C.RDCP,), "nRCDRDCP", t.nRCDRDCP),
        (_WITH_ROW, writes, "nRCDWR", t.nRCDWR),
        (_WITH_ROW, close, "nRAS", t.nRAS),
        (_WITH_ROW, _WITH_ROW, "nRC", t.nRC),
        (close, _WITH_ROW, "nRP", t.nRP),
        (reads, close, "nRTP", t.nRTP),
        (writes, close, "nWR", t.nCWL + t.nWR),
    ):
        found += _pairs(trace, at, before, after, name, cycles, scope)
    opened, closed = _last(at & _is(trace, _WITH_ROW)), _last(at & _is(trace, close))
    is_open = opened > closed
    for rule, wrong, why in (
        ("open", at & _is(trace, _WITH_COLUMN) & ~is_open, f"no row of bank {bank} is open"),
        ("closed", at & _is(trace, _WITH_ROW) & is_open, f"a row of bank {bank} is still open"),
        ("closed", at & _is(trace, (C.REF,)) & is_open, f"a row of bank {bank} is open"),
    ):
        found += [_violation(trace, int(index), rule, why) for index in np.flatnonzero(wrong)]
    return found


def open_rows(trace: Trace, geometry: DramGeometry) -> np.ndarray:
    """The open row of every bank at every command, before it: ``(commands, banks)``, −1 closed."""
    rows = np.full((len(trace), geometry.total_banks), -1, dtype=np.int64)
    for bank in range(geometry.total_banks):
        at = _touches(trace, (bank,))
        opened = _last(at & _is(trace, _WITH_ROW))
        closed = _last(at & _is(trace, (C.PRE, C.PREA)))
        rows[:, bank] = np.where(opened > closed, trace.row[opened], -1)
    return rows


def _refreshes(
    trace: Trace, timing: DramTiming, postpone: int, until: int | None
) -> list[Violation]:
    """REFs that come before they are due, or too late; and those that are missing at the end."""
    where = np.flatnonzero(_is(trace, (C.REF,)))
    cycle = trace.cycle[where]
    due = (np.arange(len(where)) + 1) * timing.nREFI
    # What may stand between a REF that is forced and its command: rows that close.
    slack = max(timing.nRAS, timing.nRTP, timing.nCWL + timing.nWR) + timing.nRP + timing.nRFC + 4
    latest = due + postpone * timing.nREFI + slack
    found = [
        _violation(trace, int(where[i]), "nREFI", f"REF {i + 1} is due in cycle {int(due[i])}")
        for i in np.flatnonzero(cycle < due)
    ]
    found += [
        _violation(
            trace,
            int(where[i]),
            "nREFI",
            f"REF {i + 1} is due in cycle {int(due[i])}, at the latest {int(latest[i])}",
        )
        for i in np.flatnonzero(cycle > latest)
    ]
    end = int(trace.cycle[-1]) if until is None and len(trace) else int(until or 0)
    next_latest = (len(where) + 1 + postpone) * timing.nREFI + slack
    if end > next_latest:
        text = f"REF {len(where) + 1} has not come by cycle {end}, at the latest {next_latest}"
        found.append(Violation(index=len(trace) - 1, cycle=end, rule="nREFI", text=text))
    return found

"""The checker of DRAM traces sees each rule broken by one cycle, and none that is kept."""

from __future__ import annotations

import numpy as np
import pytest

from hw.dram import Command, DramGeometry, DramTiming
from sim.dram_monitor import Trace, open_rows, violations

C = Command
TIMING = DramTiming(nCWL=3, nWTR=9, nCCDS=2, nCCDL=4)
GEOMETRY = DramGeometry(groups=2, banks=2, rows=8, columns=8)

Item = tuple[int, Command, int, int, int]


def trace(*items: Item) -> Trace:
    table = np.array(items, dtype=np.int64).reshape(-1, 5)
    names = ("cycle", "command", "bank", "row", "column")
    return Trace(**{name: table[:, index] for index, name in enumerate(names)})


def rules(*items: Item) -> set[str]:
    return {item.rule for item in violations(trace(*items), TIMING, GEOMETRY)}


# Parameter, commands whose last two are as close as it allows: (distance, command, bank, row).
PAIRS = [
    ("nRCDRD", 36, [(0, C.ACT, 0), (36, C.RD, 0)]),
    ("nRCDRDMAC", 56, [(0, C.ACT, 0), (56, C.MAC, 0)]),
    ("nRCDRDMAC", 56, [(0, C.ACTA, 0), (56, C.MACA, 0)]),
    ("nRCDRDAF", 86, [(0, C.ACTA, 0), (86, C.AF, 0)]),
    ("nRCDRDCP", 66, [(0, C.ACT, 0), (66, C.RDCP, 0)]),
    ("nRCDWR", 28, [(0, C.ACT, 0), (28, C.WR, 0)]),
    ("nRCDWR", 28, [(0, C.ACTA, 0), (28, C.WRA, 0)]),
    ("nRCDWR", 28, [(0, C.ACT, 0), (28, C.WRCP, 0)]),
    ("nRAS", 54, [(0, C.ACT, 0), (54, C.PRE, 0)]),
    ("nRC", 89, [(0, C.ACT, 0), (54, C.PRE, 0), (89, C.ACT, 0)]),
    ("nRP", 32, [(0, C.ACT, 0), (100, C.PRE, 0), (132, C.ACT, 0)]),
    ("nRP", 32, [(0, C.ACT, 0), (100, C.PREA, 0), (132, C.REF, 0)]),
    ("nRTP", 12, [(0, C.ACT, 0), (90, C.RD, 0), (102, C.PRE, 0)]),
    ("nWR", 36, [(0, C.ACT, 0), (90, C.WR, 0), (126, C.PREA, 0)]),
    ("nRRD", 11, [(0, C.ACT, 0), (11, C.ACT, 2)]),
    ("nCCDL", 4, [(0, C.ACTA, 0), (90, C.RD, 0), (94, C.RD, 1)]),
    ("nCCDS", 2, [(0, C.ACTA, 0), (90, C.RD, 0), (92, C.RD, 2)]),
    ("nCCDL", 4, [(0, C.ACTA, 0), (90, C.RD, 3), (94, C.MACA, 0)]),
    ("nWTR", 12, [(0, C.ACTA, 0), (90, C.WR, 0), (102, C.RD, 2)]),
    ("nRFC", 210, [(0, C.REF, 0), (210, C.ACT, 0)]),
    ("nRFC", 210, [(0, C.REF, 0), (210, C.REF, 0)]),
]


@pytest.mark.parametrize(("name", "cycles", "items"), PAIRS)
def test_each_parameter_is_kept_to_the_cycle(
    name: str, cycles: int, items: list[tuple[int, Command, int]]
) -> None:
    full: list[Item] = [(at, command, bank, 1, 0) for at, command, bank in items]
    assert not rules(*full)
    at, command, bank, row, column = full[-1]
    early = (*full[:-1], (at - 1, command, bank, row, column))
    assert name in rules(*early)
    # Of commands to all banks once a bank.
    found = next(i for i in violations(trace(*early), TIMING, GEOMETRY) if i.rule == name)
    assert found.index == len(full) - 1
    assert f"{cycles - 1} cycles after" in found.text
    assert f"asks for {cycles}" in found.text


def test_other_banks_and_groups_are_others() -> None:
    # nRCDRD, nRAS and nRC are a bank's, nCCDL a group's.
    assert not rules((0, C.ACT, 0, 1, 0), (36, C.RD, 0, 0, 0), (47, C.ACT, 1, 1, 0))
    assert "nCCDL" not in rules((0, C.ACTA, 0, 1, 0), (90, C.RD, 1, 0, 0), (92, C.RD, 2, 0, 0))


@pytest.mark.parametrize(
    ("rule", "items"),
    [
        ("open", [(0, C.RD, 0, 0, 0)]),
        ("open", [(0, C.ACT, 1, 0, 0), (90, C.RD, 0, 0, 0)]),
        ("open", [(0, C.ACT, 0, 0, 0), (90, C.PRE, 0, 0, 0), (200, C.WR, 0, 0, 0)]),
        ("open", [(0, C.ACT, 0, 0, 0), (90, C.MACA, 0, 0, 0)]),
        ("closed", [(0, C.ACT, 0, 0, 0), (100, C.ACT, 0, 1, 0)]),
        ("closed", [(0, C.ACT, 0, 0, 0), (100, C.REF, 0, 1, 0)]),
        ("closed", [(0, C.ACT, 0, 0, 0), (100, C.ACTA, 0, 1, 0)]),
        ("encoding", [(0, 14, 0, 0, 0)]),
        ("bank", [(0, C.ACT, 4, 0, 0)]),
        ("row", [(0, C.ACT, 0, 8, 0)]),
        ("column", [(0, C.ACT, 0, 0, 0), (90, C.RD, 0, 0, 8)]),
        ("one a cycle", [(0, C.ACT, 0, 0, 0), (0, C.ACT, 1, 0, 0)]),
    ],
)
def test_states_and_places(rule: str, items: list[Item]) -> None:
    assert rule in rules(*items)


def test_refreshes_come_neither_early_nor_late() -> None:
    def found(*cycles: int, until: int | None = None) -> set[str]:
        items = trace(*((cycle, C.REF, 0, 0, 0) for cycle in cycles))
        return {i.rule for i in violations(items, TIMING, GEOMETRY, postpone=1, until=until)}

    due = TIMING.nREFI
    assert not found(due, 2 * due + due)
    assert found(due - 1) == {"nREFI"}
    assert found(due, 2 * due - 1) == {"nREFI"}
    assert found(2 * due + 400) == {"nREFI"}
    # None at all, for longer than may be.
    assert not found(due, until=3 * due)
    assert found(due, until=3 * due + 400) == {"nREFI"}


def test_open_rows_are_followed() -> None:
    items = trace(
        (0, C.ACT, 0, 3, 0), (20, C.ACT, 2, 5, 0), (80, C.PRE, 0, 0, 0), (200, C.PREA, 0, 0, 0)
    )
    assert open_rows(items, GEOMETRY).tolist() == [
        [-1, -1, -1, -1],
        [3, -1, -1, -1],
        [3, -1, 5, -1],
        [-1, -1, 5, -1],
    ]

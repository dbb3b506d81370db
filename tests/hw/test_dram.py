"""Tables of DRAM timing: what contradicts itself is refused with the numbers; rows as data."""

from __future__ import annotations

from typing import Any

import pytest

from hw.dram import (
    ALL_BANKS,
    COLUMNS,
    READS,
    WRITES,
    Command,
    DramGeometry,
    DramTiming,
    Scope,
    constraints,
)


def problems(**fields: Any) -> list[str]:
    return [str(item) for item in DramTiming(**fields).rules(("timing",))]


def test_the_default_is_the_published_table() -> None:
    table = DramTiming()
    assert problems() == []
    published = {
        "nRCDRD": 36,
        "nRCDRDMAC": 56,
        "nRCDRDAF": 86,
        "nRCDRDCP": 66,
        "nRCDWR": 28,
        "nRP": 32,
        "nRAS": 54,
        "nRC": 89,
        "nCL": 50,
        "nCCDS": 2,
        "nCCDL": 2,
        "nWR": 33,
        "nRTP": 12,
        "nRRD": 11,
        "nRFC": 210,
        "nREFI": 3333,
    }
    assert {name: getattr(table, name) for name in published} == published
    geometry = DramGeometry()
    assert (geometry.total_banks, geometry.rows) == (16, 16384)
    assert geometry.columns * geometry.column_bits == 2048 * 8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nRC": 85}, "timing.nRC: must be at least nRAS + nRP = 54 + 32 = 86, got 85"),
        ({"nRAS": 30}, "timing.nRAS: must be at least nRCDRD = 36: a row is open by then, got 30"),
        ({"nRCDWR": 55}, "timing.nRAS: must be at least nRCDWR = 55: a row is open by then"),
        ({"nRCDRDMAC": 35}, "timing.nRCDRDMAC: must be at least nRCDRD = 36: it is a read, too"),
        ({"nRCDRDAF": 35}, "timing.nRCDRDAF: must be at least nRCDRD = 36: it is a read, too"),
        ({"nRCDRDCP": 35}, "timing.nRCDRDCP: must be at least nRCDRD = 36: it is a read, too"),
        ({"nCCDS": 3}, "timing.nCCDL: must be at least nCCDS = 3, got 2"),
        ({"nRFC": 88}, "timing.nRFC: must be at least nRC = 89: a refresh opens and closes rows"),
        ({"nREFI": 384}, "timing.nREFI: must be more than 384, what a refresh and one column take"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(fields: dict[str, int], words: str) -> None:
    assert any(found.startswith(words) for found in problems(**fields)), problems(**fields)


def test_a_table_at_the_limits_is_taken() -> None:
    assert problems(nRC=86) == []
    assert problems(nREFI=385) == []


def test_rows_of_constraints_follow_the_parameters() -> None:
    table = DramTiming(nCWL=4, nWTR=7)
    rows = constraints(table)
    by_name = {(row.name, row.scope): row for row in rows}
    assert by_name["nWR", Scope.BANK].cycles == 4 + 33
    assert by_name["nWTR", Scope.CHANNEL].cycles == 4 + 7
    assert by_name["nWTR", Scope.CHANNEL].before == WRITES
    assert by_name["nCCDL", Scope.GROUP].before == COLUMNS
    # Each command that is issued at all waits for something, and no row is without effect.
    waiting = {command for row in rows for command in row.after}
    assert waiting == set(Command) - {Command.NOP}
    assert all(row.cycles > 1 for row in rows)
    assert not [row for row in constraints(DramTiming(nCCDS=1, nCCDL=1)) if "nCCD" in row.name]


def test_commands_are_of_four_bits_and_every_one_reads_or_writes_or_neither() -> None:
    assert max(Command) < 16
    assert not set(READS) & set(WRITES)
    assert set(ALL_BANKS) & set(COLUMNS) == {Command.WRA, Command.MACA, Command.AF}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"column_bits": 100}, "geometry.column_bits: must be 64, 128, 256 or 512, got 100"),
        ({"groups": 16, "banks": 8}, "geometry.banks: must be at most 64 with groups = 16"),
    ],
)
def test_geometries_that_are_none_are_refused(fields: dict[str, int], words: str) -> None:
    found = [str(item) for item in DramGeometry(**fields).rules(("geometry",))]
    assert any(item.startswith(words) for item in found)

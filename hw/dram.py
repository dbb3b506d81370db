"""DRAM as data: the timing table, the geometry, the commands, and which command may follow which.

The table's names are those of data sheets; every ``n…`` counts command clocks of ``tck_ns``. The
defaults are SK hynix's AiM (GDDR6) as the open AiM simulator models it (PIM-GPT, arXiv 2310.09385,
uses the same device). :func:`constraints` turns a table into rows "after this command, on this
scope, that one not before so many cycles": a sequencer is made from those rows, a scheduler counts
by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cache

from pydantic import Field

from hw.errors import Problem
from hw.spec import Part

MOST_ROWS = 1 << 18
MOST_BANKS = 64
MOST_COLUMNS = 1 << 10


class Command(IntEnum):
    """What a channel's command port can say in a cycle; the value is the encoding."""

    NOP = 0
    ACT = 1  # open a row of a bank
    ACTA = 2  # open the same row in every bank
    PRE = 3  # close a bank
    PREA = 4  # close every bank
    REF = 5  # refresh every bank
    RD = 6  # a column of a bank to the port
    WR = 7  # a column from the port to a bank
    WRA = 8  # a column from the port to every bank
    MAC = 9  # a column of a bank to its unit
    MACA = 10  # a column of every bank to its unit
    AF = 11  # a column of every bank to its unit: entries of an activation function's table
    RDCP = 12  # a column of a bank to the global buffer
    WRCP = 13  # a word of the global buffer to a bank


ACTIVATES = (Command.ACT, Command.ACTA)
PRECHARGES = (Command.PRE, Command.PREA)
READS = (Command.RD, Command.MAC, Command.MACA, Command.AF, Command.RDCP)
WRITES = (Command.WR, Command.WRA, Command.WRCP)
COLUMNS = READS + WRITES
ALL_BANKS = (
    Command.ACTA,
    Command.PREA,
    Command.REF,
    Command.WRA,
    Command.MACA,
    Command.AF,
)
"""Commands that touch every bank."""


class DramTiming(Part):
    """Least distances between commands, in clocks of the command port."""

    tck_ns: float = Field(0.5, gt=0, le=100, description="period of the command clock, ns")
    # Names of data sheets, as AiM's tables have them.
    nRCDRD: int = Field(36, ge=1, le=4095, description="ACT to a read")  # noqa: N815
    nRCDRDMAC: int = Field(56, ge=1, le=4095, description="ACT to a MAC's read")  # noqa: N815
    nRCDRDAF: int = Field(  # noqa: N815
        86, ge=1, le=4095, description="ACT to a read of an activation function's table"
    )
    nRCDRDCP: int = Field(  # noqa: N815
        66, ge=1, le=4095, description="ACT to a read into the global buffer"
    )
    nRCDWR: int = Field(28, ge=1, le=4095, description="ACT to a write")  # noqa: N815
    nRP: int = Field(32, ge=1, le=4095, description="PRE to ACT of a bank, and to REF")  # noqa: N815
    nRAS: int = Field(54, ge=1, le=4095, description="ACT to PRE of a bank")  # noqa: N815
    nRC: int = Field(89, ge=1, le=4095, description="ACT to ACT of a bank")  # noqa: N815
    nCL: int = Field(50, ge=1, le=255, description="a read to its column")  # noqa: N815
    nCWL: int = Field(  # noqa: N815
        0, ge=0, le=255, description="a write to its column, counted before nWR and nWTR"
    )
    nCCDS: int = Field(2, ge=1, le=255, description="column to column, any bank groups")  # noqa: N815
    nCCDL: int = Field(2, ge=1, le=255, description="column to column, one bank group")  # noqa: N815
    nWR: int = Field(33, ge=1, le=4095, description="a write's column to PRE of its bank")  # noqa: N815
    nWTR: int = Field(0, ge=0, le=4095, description="a write's column to a read")  # noqa: N815
    nRTP: int = Field(12, ge=1, le=4095, description="a read to PRE of its bank")  # noqa: N815
    nRRD: int = Field(11, ge=1, le=4095, description="ACT to ACT, any banks")  # noqa: N815
    nRFC: int = Field(210, ge=1, le=65535, description="REF to the next command")  # noqa: N815
    nREFI: int = Field(3333, ge=2, le=1 << 20, description="average distance of REFs")  # noqa: N815

    @property
    def reopen(self) -> int:
        """Cycles that a refresh costs a column at most: close, refresh, open again."""
        close = max(self.nRAS, self.nRTP, self.nCWL + self.nWR)
        widest = max(self.nRCDRD, self.nRCDRDMAC, self.nRCDRDAF, self.nRCDRDCP, self.nRCDWR)
        return close + self.nRP + self.nRFC + widest

    def rules(self, path: tuple[str | int, ...]) -> Iterator[Problem]:
        """What a table says against itself, with the numbers."""
        if self.nRC < self.nRAS + self.nRP:
            rule = (
                f"must be at least nRAS + nRP = {self.nRAS} + {self.nRP} = {self.nRAS + self.nRP}"
            )
            yield Problem((*path, "nRC"), rule, self.nRC)
        for name in ("nRCDRD", "nRCDWR"):
            if self.nRAS < getattr(self, name):
                rule = f"must be at least {name} = {getattr(self, name)}: a row is open by then"
                yield Problem((*path, "nRAS"), rule, self.nRAS)
        for name in ("nRCDRDMAC", "nRCDRDAF", "nRCDRDCP"):
            if getattr(self, name) < self.nRCDRD:
                rule = f"must be at least nRCDRD = {self.nRCDRD}: it is a read, too"
                yield Problem((*path, name), rule, getattr(self, name))
        if self.nCCDL < self.nCCDS:
            rule = f"must be at least nCCDS = {self.nCCDS}"
            yield Problem((*path, "nCCDL"), rule, self.nCCDL)
        if self.nRFC < self.nRC:
            rule = f"must be at least nRC = {self.nRC}: a refresh opens and closes rows"
            yield Problem((*path, "nRFC"), rule, self.nRFC)
        if self.nREFI <= self.reopen + self.nCCDL:
            rule = (
                f"must be more than {self.reopen + self.nCCDL}, what a refresh and one column take "
                "with rows closed and opened again"
            )
            yield Problem((*path, "nREFI"), rule, self.nREFI)


class DramGeometry(Part):
    """Banks of a channel and what they hold."""

    groups: int = Field(4, ge=1, le=16, description="bank groups")
    banks: int = Field(4, ge=1, le=16, description="banks of a group")
    rows: int = Field(16384, ge=1, le=MOST_ROWS, description="rows of a bank")
    columns: int = Field(64, ge=1, le=MOST_COLUMNS, description="columns of a row")
    column_bits: int = Field(256, description="bits of a column: 64, 128, 256 or 512")

    @property
    def total_banks(self) -> int:
        return self.groups * self.banks

    @property
    def bank_columns(self) -> int:
        """Columns of a bank."""
        return self.rows * self.columns

    def group(self, bank: int) -> int:
        """The group of a bank; banks of a group follow one another."""
        return bank // self.banks

    def rules(self, path: tuple[str | int, ...]) -> Iterator[Problem]:
        """Rules between the fields."""
        if self.column_bits not in (64, 128, 256, 512):
            yield Problem((*path, "column_bits"), "must be 64, 128, 256 or 512", self.column_bits)
        if self.total_banks > MOST_BANKS:
            rule = f"must be at most {MOST_BANKS} with groups = {self.groups}"
            yield Problem((*path, "banks"), rule, self.total_banks)


class Scope(Enum):
    """Where a constraint holds: between commands to one bank, to one group, or anywhere."""

    BANK = "bank"
    GROUP = "group"
    CHANNEL = "channel"


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """``after`` is issued no earlier than ``cycles`` after any of ``before`` on the scope.

    Commands of :data:`ALL_BANKS` are on every bank and every group.

    Attributes:
        name: of the parameter that asks for it.
    """

    before: tuple[Command, ...]
    after: tuple[Command, ...]
    scope: Scope
    cycles: int
    name: str


@cache
def constraints(timing: DramTiming) -> tuple[Constraint, ...]:
    """Every constraint of a table. Rows of no effect (0 or 1 cycle) are left out."""
    t = timing
    written = t.nCWL + t.nWR
    turned = t.nCWL + t.nWTR

    def row(
        before: tuple[Command, ...], after: tuple[Command, ...], scope: Scope, name: str, n: int
    ) -> Constraint:
        return Constraint(before=before, after=after, scope=scope, cycles=n, name=name)

    c = Command
    found = (
        row(ACTIVATES, (c.RD,), Scope.BANK, "nRCDRD", t.nRCDRD),
        row(ACTIVATES, (c.MAC, c.MACA), Scope.BANK, "nRCDRDMAC", t.nRCDRDMAC),
        row(ACTIVATES, (c.AF,), Scope.BANK, "nRCDRDAF", t.nRCDRDAF),
        row(ACTIVATES, (c.RDCP,), Scope.BANK, "nRCDRDCP", t.nRCDRDCP),
        row(ACTIVATES, WRITES, Scope.BANK, "nRCDWR", t.nRCDWR),
        row(ACTIVATES, PRECHARGES, Scope.BANK, "nRAS", t.nRAS),
        row(ACTIVATES, ACTIVATES, Scope.BANK, "nRC", t.nRC),
        row(ACTIVATES, ACTIVATES, Scope.CHANNEL, "nRRD", t.nRRD),
        row(PRECHARGES, ACTIVATES, Scope.BANK, "nRP", t.nRP),
        row(PRECHARGES, (c.REF,), Scope.CHANNEL, "nRP", t.nRP),
        row(READS, PRECHARGES, Scope.BANK, "nRTP", t.nRTP),
        row(WRITES, PRECHARGES, Scope.BANK, "nWR", written),
        row(COLUMNS, COLUMNS, Scope.GROUP, "nCCDL", t.nCCDL),
        row(COLUMNS, COLUMNS, Scope.CHANNEL, "nCCDS", t.nCCDS),
        row(WRITES, READS, Scope.CHANNEL, "nWTR", turned),
        row((c.REF,), (*ACTIVATES, *PRECHARGES, c.REF), Scope.CHANNEL, "nRFC", t.nRFC),
    )
    return tuple(item for item in found if item.cycles > 1)

"""The cycle of every command of a channel: a scheduler that counts where the RTL waits.

Orders become *runs*: one command, to columns that follow one another in an open row, a fixed
number of cycles apart. A run is stepped over in closed form, so that the cost is one of orders and
rows, not of columns: a million columns take well under a second.

What is counted here by the parameters of the table, the RTL waits for by counters that are made
from :func:`hw.dram.constraints`. Both are equal to the cycle as long as ``i_cmd`` and ``i_data``
always offer a beat, and ``o_data`` and ``o_status`` are always taken; with ``accepted`` given, also
for whatever stalls of ``i_cmd``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from hw.blocks.pim_bank import timing as unit
from hw.blocks.pim_channel import orders
from hw.blocks.pim_channel.orders import DOT, Op, Order, Status, Step
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.dram import Command
from hw.lazy import np

if TYPE_CHECKING:
    from hw.blocks.pim_channel.golden import ChannelWork

FORMULA = (
    "1 + the cycle of the last transfer of o_status or o_data, by schedule() of "
    "hw.blocks.pim_channel.timing: each order begins a cycle behind the end of the one before it"
)

PORT = 2
"""Cycles from a step of the sequencer to its command on the DRAM's port."""

OUT = 2
"""Cycles from a beat for the host to its transfer: a queue and the port's register."""

NEVER = -(1 << 60)


def constants(spec: PimChannelSpec) -> dict[str, int]:
    """Constants of the schedule, in cycles of the command clock."""
    return {
        "latency": 3 + OUT,
        "port": PORT,
        "out": OUT,
        "arrival": spec.arrival,
        "turn": unit.turn(spec.bank),
        "settle": unit.settle(spec.bank),
        "apply": unit.apply(spec.bank),
        "combine": spec.elementwise.latency,
        "give_beats": spec.give_beats,
    }


class Run(NamedTuple):
    """A command, or one to columns in a row: ``length`` of them, ``interval`` cycles apart.

    ``cycle`` is that of the first on the port. ``bank`` is 0 for commands to all.
    """

    cycle: int
    command: int
    bank: int
    row: int
    column: int
    length: int
    interval: int


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When everything happens; cycles count from the first one after reset.

    Attributes:
        runs: what the port shows, in order.
        begin, end: sequencer's cycles of the first and the last step of each order; of a refused
            one the cycle in which it is refused.
        status: of each order.
        cycles: up to the last transfer of a status or of data, that one counted.
        activates, precharges, refreshes, columns: commands of each kind; to all banks count once.
    """

    runs: list[Run]
    begin: list[int]
    end: list[int]
    status: list[int]
    cycles: int
    activates: int
    precharges: int
    refreshes: int
    columns: int

    @property
    def hit_rate(self) -> float:
        """Share of columns that found their row open."""
        return 1 - self.activates / self.columns if self.columns else 1.0

    def trace(self) -> dict[str, np.ndarray]:
        """Every command with its cycle: ``cycle``, ``command``, ``bank``, ``row``, ``column``.

        ``row`` is that of activations and 0 for others; ``column`` that of columns.
        """
        table = np.array(self.runs, dtype=np.int64).reshape(-1, len(Run._fields))
        count = table[:, 5]
        index = np.repeat(np.arange(len(table)), count)
        within = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
        activates = np.isin(table[:, 1], (Command.ACT, Command.ACTA))
        return {
            "cycle": table[index, 0] + within * table[index, 6],
            "command": table[index, 1],
            "bank": table[index, 2],
            "row": np.where(activates, table[:, 3], 0)[index],
            "column": table[index, 4] + within,
        }


def cycles(spec: PimChannelSpec, works: Sequence[ChannelWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling."""
    return schedule(spec, [order for work in works for order in work.orders]).cycles


def schedule(
    spec: PimChannelSpec,
    given: Iterable[Sequence[int]],
    *,
    accepted: Sequence[int] | None = None,
    until: int | None = None,
) -> Schedule:
    """The cycles of a sequence of orders.

    Args:
        given: orders, each the fields of :class:`Order` in their order; or an array ``(n, 9)``.
        accepted: cycle in which ``i_cmd`` transfers each; None where it always offers the next.
        until: go on refreshing to this cycle of the port, after the last order.
    """
    machine = Sequencer(spec)
    rows = given.tolist() if hasattr(given, "tolist") else given
    for index, fields in enumerate(rows):
        order = Order(*fields)
        machine.order(order, None if accepted is None else accepted[index])
    if until is not None:
        machine.idle(until - PORT)
    return Schedule(
        runs=machine.runs,
        begin=machine.begins,
        end=machine.ends,
        status=machine.statuses,
        cycles=machine.last + 1,
        activates=machine.activates,
        precharges=machine.precharges,
        refreshes=machine.refreshed,
        columns=machine.columns,
    )


class Sequencer:
    """The state of banks and sequencer, in the sequencer's cycles."""

    def __init__(self, spec: PimChannelSpec):
        self.spec = spec
        t, g = spec.timing, spec.geometry
        self.banks, self.per_group, self.row_columns = g.total_banks, g.banks, g.columns
        self.t = t
        self.after_write = t.nCWL + t.nWR
        self.turnaround = t.nCWL + t.nWTR
        self.arrival = spec.arrival
        self.rcd = {
            Step.RD: t.nRCDRD,
            Step.MAC: t.nRCDRDMAC,
            Step.MACA: t.nRCDRDMAC,
            Step.AF: t.nRCDRDAF,
            Step.CP: t.nRCDRDCP,
            Step.EW: t.nRCDRDCP,
            Step.WR: t.nRCDWR,
            Step.WRA: t.nRCDWR,
            Step.CPW: t.nRCDWR,
        }
        self.decoder = orders.Decoder(spec)
        bank, combine = spec.bank, spec.elementwise.latency
        settle, turn, apply = unit.settle(bank), unit.turn(bank), unit.apply(bank)
        self.passes = bank.passes
        # Waits of an order's first step: behind the last dot product, table, copy, combination.
        inside = (self.arrival + settle - 2, self.arrival + apply - 2, 0, 0)
        buffer = (self.arrival, 0, self.arrival + 1, self.arrival + combine)
        dots = (turn, apply + 1, 2, combine + 1)
        self.waits = {
            Step.MAC: dots,
            Step.MACA: dots,
            Step.AF: (settle + 1, apply + 1, 0, 0),
            Step.BIAS: inside,
            Step.FUNCTION: inside,
            Step.FETCH: inside,
            Step.BUFFER: buffer,
            Step.CPW: buffer,
            Step.EW: (0, 0, 2, combine + 1),
            Step.CP: (0, 0, 0, combine),
        }
        self.open = [-1] * self.banks
        self.act = [NEVER] * self.banks
        self.pre = [NEVER] * self.banks
        self.read = [NEVER] * self.banks
        self.write = [NEVER] * self.banks
        self.group_column = [NEVER] * g.groups
        self.last_act = self.last_pre = self.last_ref = self.last_column = NEVER
        self.last_write = self.last_rd = NEVER
        self.dot = self.table = self.copy = self.combine = NEVER
        # When each of the last beats to o_data has left its place in the queue.
        self.freed: deque[int] = deque(maxlen=spec.read_depth)
        self.refreshed = 0
        self.now = 1  # the first cycle that the sequencer has not yet lived through
        self.start = 0  # the first cycle in which the sequencer has the order
        self.begun = False
        self.first_step = 0
        self.last = 0
        self.activates = self.precharges = self.columns = 0
        self.runs: list[Run] = []
        self.begins: list[int] = []
        self.ends: list[int] = []
        self.statuses: list[int] = []

    # Orders --------------------------------------------------------------

    def order(self, order: Order, accepted: int | None) -> None:
        """Everything that an order makes."""
        self.begun = False
        self.start = start = max(self.now, 2 if accepted is None else accepted + 2)
        found = self.decoder.status(order)
        self.statuses.append(int(found))
        if found is not Status.DONE:
            self._step(start)
            self.begins.append(self.now - 1)
        elif order.op in _DOT:
            self._dot(order, start)
            self.begins.append(self.first_step)
        else:
            self._other(order, start)
            self.begins.append(self.first_step)
        end = self.now - 1
        self.ends.append(end)
        self.last = max(self.last, end + OUT)

    def idle(self, until: int) -> None:
        """Refreshes up to a cycle, nothing else to do."""
        self.begun = False
        due = (self.refreshed + 1) * self.t.nREFI
        while max(due, self.now) <= until:
            self._refresh(max(due, self.now), until)
            due = (self.refreshed + 1) * self.t.nREFI

    def _dot(self, order: Order, start: int) -> None:
        step = Step.MACA if order.op == Op.MAC_ALL else Step.MAC
        base = order.row * self.row_columns + order.column
        earliest = max(start, self._after(step))
        for _, part in self.passes:
            self._columns(step, order.bank, base + part * order.length, order.length, earliest)
            earliest = 0
        self.dot = self.now - 1

    def _other(self, order: Order, start: int) -> None:
        op = order.op
        base = order.row * self.row_columns + order.column
        if op == Op.ACTIVATE:
            if order.function == orders.TABLE:
                earliest = max(start, self._after(Step.AF))
                self._columns(Step.AF, 0, base, self.decoder.table_columns, earliest)
                self.table = self.now - 1
            else:
                self._step(max(start, self._after(Step.FUNCTION)))
                self.first_step = self.now - 1
            return
        step = orders.STEPS[Op(op)]
        earliest = max(start, self._after(step))
        if step is Step.FETCH:
            self._step(earliest)
            self.first_step = self.now - 1
            ready = max(self.first_step + 3, self.last_rd + self.arrival + 1)
            for _ in range(self.spec.give_beats):
                self._beat(ready)
                self.freed.append(self.now + 1)
                self.last = max(self.last, self.now - 1 + OUT)
            return
        if step is Step.BIAS:
            self._step(earliest)
            self.first_step = self.now - 1
            return
        if step is Step.BUFFER:
            self._words(earliest, order.length)
            return
        if step is Step.RD:
            for index in range(order.length):
                self._columns(step, order.bank, base + index, 1, earliest)
                earliest = 0
            return
        self._columns(step, order.bank, base, order.length, earliest)
        if step is Step.CP:
            self.copy = self.now - 1
        elif step is Step.EW:
            self.combine = self.now - 1

    def _after(self, step: Step) -> int:
        """The earliest first step, by what orders before it have under way."""
        waits = self.waits.get(step)
        if waits is None:
            return 0
        dot, table, copy, combine = waits
        return max(self.dot + dot, self.table + table, self.copy + copy, self.combine + combine)

    # Steps ---------------------------------------------------------------

    def _due(self) -> int:
        """The cycle from which a refresh goes before the order's next step."""
        allowed = self.spec.refresh_postpone if self.begun else 0
        return (self.refreshed + 1 + allowed) * self.t.nREFI

    def _step(self, ready: int) -> None:
        """A step inside the channel."""
        while True:
            due = self._due()
            at = max(ready, self.now)
            if due > at:
                break
            self._refresh(max(due, self.now))
        self.now = at + 1
        self.begun = True

    def _words(self, ready: int, count: int) -> None:
        """Steps inside the channel, one a cycle."""
        self._step(ready)
        self.first_step = self.now - 1
        left = count - 1
        while left:
            fit = min(left, max(0, self._due() - self.now))
            self.now += fit
            left -= fit
            if left:
                self._refresh(self.now)

    def _beat(self, ready: int) -> None:
        """A step that makes a beat of o_data, as soon as there is a place for it."""
        place = self._place()
        while True:
            due = self._due()
            if place > self.now:
                # Nothing else holds the order up but the host: a refresh that is due comes first.
                waits = max(self.now, (self.refreshed + 1) * self.t.nREFI)
                if waits < min(place, due):
                    due = waits
            at = max(ready, place, self.now)
            if due > at:
                break
            self._refresh(max(due, self.now))
        self.now = at + 1
        self.begun = True

    def _place(self) -> int:
        """When there is a place for one more beat of o_data."""
        return self.freed[0] if len(self.freed) == self.freed.maxlen else 0

    def _columns(self, step: Step, bank: int, place: int, count: int, ready: int) -> None:
        """Columns one after another, from row to row."""
        every = step in _EVERY
        interval = self.t.nCCDL
        command = int(orders.COMMANDS[step])
        while count:
            row, column = divmod(place, self.row_columns)
            at = self._open(step, bank, row, max(ready, 0), every)
            self.columns += 1
            chunk = min(count, self.row_columns - column)
            if not self.begun:
                self.begun = True
                self.first_step = at
            if chunk > 1:
                fit = -(-(self._due() - at) // interval)
                chunk = max(1, min(chunk, fit))
                self.columns += chunk - 1
            end = at + (chunk - 1) * interval
            self.runs.append(Run(at + PORT, command, bank, row, column, chunk, interval))
            self._did_column(step, bank, end, every)
            self.now = end + 1
            count -= chunk
            place += chunk

    def _open(self, step: Step, bank: int, row: int, ready: int, every: bool) -> int:
        """Opens the row where it is not; the cycle in which the column is read or written."""
        t = self.t
        needs_place = step is Step.RD
        while True:
            if every:
                hit = self.open.count(row) == self.banks
                some = hit or self.open.count(-1) < self.banks
            else:
                hit = self.open[bank] == row
                some = self.open[bank] >= 0
            if hit:
                at = max(ready, self.now, self._column_ready(step, bank, every))
                action = 0
                if needs_place:
                    at = max(at, self._place())
            elif some:
                action = 1
                at = max(self.now, self.start, self._pre_ready(bank, every))
            else:
                action = 2
                at = max(self.now, self.start, self._act_ready(bank, every))
            due = self._due()
            if needs_place and self.begun and self._place() > self.now:
                waits = max(self.now, (self.refreshed + 1) * t.nREFI)
                if waits < min(self._place(), due):
                    due = waits
            if due <= at:
                self._refresh(max(due, self.now))
                continue
            if action == 0:
                return at
            if action == 1:
                self._precharge(at, bank, every)
            else:
                self._activate(at, bank, row, every)
            self.now = at + 1

    def _column_ready(self, step: Step, bank: int, every: bool) -> int:
        t = self.t
        if every:
            ready = max(self.act) + self.rcd[step]
            ready = max(ready, self.last_column + t.nCCDL)
        else:
            ready = self.act[bank] + self.rcd[step]
            group = self.group_column[bank // self.per_group]
            ready = max(ready, self.last_column + t.nCCDS, group + t.nCCDL)
        if step not in _WRITES:
            ready = max(ready, self.last_write + self.turnaround)
        return ready

    def _did_column(self, step: Step, bank: int, at: int, every: bool) -> None:
        self.last_column = at
        if every:
            self.group_column = [at] * len(self.group_column)
        else:
            self.group_column[bank // self.per_group] = at
        times = self.write if step in _WRITES else self.read
        if every:
            times[:] = [at] * self.banks
        else:
            times[bank] = at
        if step in _WRITES:
            self.last_write = at
        elif step is Step.RD:
            self.last_rd = at
            self.freed.append(at + self.arrival + 2)
            self.last = max(self.last, at + self.arrival + OUT)

    def _pre_ready(self, bank: int, every: bool) -> int:
        t = self.t
        if every:
            return max(
                max(self.act) + t.nRAS,
                max(self.read) + t.nRTP,
                max(self.write) + self.after_write,
                self.last_ref + t.nRFC,
            )
        return max(
            self.act[bank] + t.nRAS,
            self.read[bank] + t.nRTP,
            self.write[bank] + self.after_write,
            self.last_ref + t.nRFC,
        )

    def _act_ready(self, bank: int, every: bool) -> int:
        t = self.t
        if every:
            act, pre = max(self.act), max(self.pre)
        else:
            act, pre = self.act[bank], self.pre[bank]
        return max(act + t.nRC, pre + t.nRP, self.last_act + t.nRRD, self.last_ref + t.nRFC)

    def _precharge(self, at: int, bank: int, every: bool) -> None:
        self.last_pre = at
        self.precharges += 1
        if every:
            self.open = [-1] * self.banks
            self.pre = [at] * self.banks
            self.runs.append(Run(at + PORT, int(Command.PREA), 0, 0, 0, 1, 1))
        else:
            self.open[bank] = -1
            self.pre[bank] = at
            self.runs.append(Run(at + PORT, int(Command.PRE), bank, 0, 0, 1, 1))

    def _activate(self, at: int, bank: int, row: int, every: bool) -> None:
        self.last_act = at
        self.activates += 1
        if every:
            self.open = [row] * self.banks
            self.act = [at] * self.banks
            self.runs.append(Run(at + PORT, int(Command.ACTA), 0, row, 0, 1, 1))
        else:
            self.open[bank] = row
            self.act[bank] = at
            self.runs.append(Run(at + PORT, int(Command.ACT), bank, row, 0, 1, 1))

    def _refresh(self, at: int, until: int | None = None) -> None:
        """Close every row, refresh; ``at`` is the first cycle in which that may begin."""
        if max(self.open) >= 0:
            at = max(at, self._pre_ready(0, every=True))
            if until is not None and at > until:
                self.now = at
                return
            self._precharge(at, 0, every=True)
            at += 1
        at = max(at, self.last_pre + self.t.nRP, self.last_ref + self.t.nRFC)
        self.now = at + 1
        if until is not None and at > until:
            return
        self.last_ref = at
        self.refreshed += 1
        self.runs.append(Run(at + PORT, int(Command.REF), 0, 0, 0, 1, 1))


_DOT = frozenset(int(op) for op in DOT)
_EVERY = frozenset({Step.WRA, Step.MACA, Step.AF})
_WRITES = frozenset({Step.WR, Step.WRA, Step.CPW})

"""Schedules of long streams of orders, fast: what was counted once is not counted again.

A model's orders repeat: the same row of columns, the same dot products, layer by layer. What an
order does from a state depends on how long ago things were, not on the clock, and on which row is
open, not on its number. So a state is kept relative to the cycle at hand (:class:`State`), what is
too long ago to matter is forgotten, and the result of an order from a state is counted once by
:class:`hw.blocks.pim_channel.timing.Sequencer` itself. A :class:`Phase` joins orders in pairs,
pairs in fours, and so on, each as long as no refresh falls due inside; where one does, the order
that it meets is counted by the sequencer with it.

The result is that of :func:`hw.blocks.pim_channel.timing.schedule`, command by command, for any
table: nothing is assumed of the parameters but that each looks back :meth:`Pace.horizon` cycles at
most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

from hw.blocks.pim_channel.orders import ALL_PLACED, PLACED, TABLE, Op, Order
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.blocks.pim_channel.timing import NEVER, PORT, Run, Sequencer
from hw.dram import ACTIVATES, COLUMNS
from hw.lazy import np

FOREIGN = 1 << 40
"""An open row that a phase does not touch."""

CLOSED = -1

MOST_JUMPS = 1 << 17
"""Stretches that are kept for a phase, 300 bytes each; others are counted again."""

_LISTS = ("act", "pre", "read", "write", "group_column")
_TIMES = (
    "last_act",
    "last_pre",
    "last_ref",
    "last_column",
    "last_write",
    "last_rd",
    "dot",
    "table",
    "copy",
    "combine",
)

Rows = int | tuple[int, ...]
"""The open row, ``CLOSED`` without one: a number where all banks agree, else one a bank."""


class State(NamedTuple):
    """A channel between two orders.

    Attributes:
        now: first cycle that the sequencer has not lived through.
        refreshed: refreshes so far.
        timers: number of what was when, see :class:`Pace`.
        rows: open rows.
    """

    now: int
    refreshed: int
    timers: int
    rows: Rows


class Part:
    """What orders that follow one another do from a state; times count from its ``now``.

    Attributes:
        span: cycles to the next ``now``. refreshes: among them.
        timers, rows: of the state behind them.
        activates, precharges: commands; bank_activates: rows that they open.
        last: the last transfer of a status or of data, :data:`NEVER` without one.
        given: the last transfer of data, :data:`NEVER` without one.
        runs: of one order, rows of :class:`Run` less what the order says: place and row count from
            the order's, ``cycle`` from ``now``. halves: of several.
    """

    __slots__ = (
        "activates",
        "bank_activates",
        "given",
        "halves",
        "last",
        "listing",
        "precharges",
        "refreshes",
        "rows",
        "runs",
        "span",
        "timers",
    )

    def __init__(
        self,
        span: int,
        timers: int,
        rows: Rows,
        counts: tuple[int, int, int, int],
        last: int,
        given: int,
        runs: tuple[tuple[int, ...], ...] = (),
        halves: tuple[Part, Part, int] | None = None,
    ):
        self.span, self.timers, self.rows = span, timers, rows
        self.refreshes, self.activates, self.precharges, self.bank_activates = counts
        self.last, self.given = last, given
        self.runs, self.halves = runs, halves
        self.listing: np.ndarray | None = None

    def table(self) -> np.ndarray:
        """Runs as rows: cycle, command, bank, row, column, length, interval, order (from 0)."""
        if self.listing is None:
            if self.halves is None:
                rows = [(*run, 0) for run in self.runs]
                self.listing = np.array(rows, dtype=np.int64).reshape(-1, 8)
            else:
                left, right, orders = self.halves
                later = right.table().copy()
                later[:, 0] += left.span
                later[:, 7] += orders
                self.listing = np.concatenate([left.table(), later])
        return self.listing


class Jump(NamedTuple):
    """What orders do up to the one that is number ``behind``; see :class:`Part`."""

    behind: int
    span: int
    timers: int
    rows: Rows
    refreshes: int
    activates: int
    precharges: int
    bank_activates: int
    last: int
    given: int


class Known(dict[tuple[int, int, int, Rows], Part]):
    """Parts of a phase by level, index, timers and open rows.

    Attributes:
        jumps: from one refresh to behind the next, by index, timers, open rows and the cycles to
            the refresh.
    """

    __slots__ = ("__weakref__", "jumps")

    def __init__(self) -> None:
        super().__init__()
        self.jumps: dict[tuple[int, int, Rows, int], Jump] = {}


class Pace:
    """Everything that was counted for a specification; phases share it.

    Attributes:
        reset: the state after reset.
    """

    def __init__(self, spec: PimChannelSpec):
        self.spec = spec
        self.machine = Sequencer(spec)
        self.banks = spec.geometry.total_banks
        self.row_columns = spec.geometry.columns
        self.interval = spec.timing.nREFI
        self.horizon = self._horizon()
        self._numbers: dict[tuple[object, ...], int] = {}
        self._timers: list[tuple[tuple[tuple[int, ...], ...], tuple[int, ...], tuple[int, ...]]]
        self._timers = []
        self._parts: dict[tuple[object, ...], tuple[Part, int, int]] = {}
        self._shapes: WeakValueDictionary[tuple[object, ...], Known] = WeakValueDictionary()
        self._advanced: dict[tuple[int, int], int] = {}
        self._refreshed: dict[tuple[int, bool], Part] = {}
        self.reset = State(self.machine.now, 0, self._capture(), CLOSED)

    def _horizon(self) -> int:
        """How far back anything looks."""
        t, machine = self.spec.timing, self.machine
        names = [name for name in type(t).model_fields if name not in ("tck_ns", "nREFI")]
        table = max(int(getattr(t, name)) for name in names)
        waits = max(max(item) for item in machine.waits.values())
        return max(table, machine.after_write, machine.turnaround, waits, machine.arrival + 3)

    # States ----------------------------------------------------------------------------------

    def _capture(self) -> int:
        """The number of the machine's times."""
        machine, now, least = self.machine, self.machine.now, -self.horizon

        def relative(value: int) -> int:
            value -= now
            return value if value > least else NEVER

        lists = tuple(tuple(map(relative, getattr(machine, name))) for name in _LISTS)
        times = tuple(relative(getattr(machine, name)) for name in _TIMES)
        # A place that is free counts like any other that is.
        depth = self.spec.read_depth
        freed = [value - now for value in machine.freed]
        places = [NEVER] * (depth - len(freed)) + [v if v > 0 else NEVER for v in freed]
        return self._number((lists, times, tuple(places)))

    def _number(
        self, timers: tuple[tuple[tuple[int, ...], ...], tuple[int, ...], tuple[int, ...]]
    ) -> int:
        found = self._numbers.get(timers)
        if found is None:
            found = self._numbers[timers] = len(self._timers)
            self._timers.append(timers)
        return found

    def _restore(self, state: State) -> None:
        """The machine as it is in a state, its listings empty."""
        machine, now = self.machine, state.now
        lists, times, places = self._timers[state.timers]
        for name, values in zip(_LISTS, lists, strict=True):
            setattr(machine, name, [value + now for value in values])
        for name, value in zip(_TIMES, times, strict=True):
            setattr(machine, name, value + now)
        machine.freed.clear()
        machine.freed.extend(value + now for value in places)
        rows = state.rows
        machine.open = [rows] * self.banks if isinstance(rows, int) else list(rows)
        machine.now, machine.refreshed = now, state.refreshed
        machine.last = NEVER
        machine.activates = machine.precharges = machine.columns = 0
        machine.runs, machine.begins, machine.ends, machine.statuses = [], [], [], []

    def due(self, state: State) -> int:
        """The cycle from which a refresh goes before an order that has not begun."""
        return (state.refreshed + 1) * self.interval

    def advance(self, timers: int, cycles: int) -> int:
        """The times some cycles later, in which nothing happens."""
        if cycles == 0:
            return timers
        key = (timers, cycles)
        found = self._advanced.get(key)
        if found is None:
            least = -self.horizon

            def older(value: int) -> int:
                value -= cycles
                return value if value > least else NEVER

            lists, times, places = self._timers[timers]
            found = self._advanced[key] = self._number(
                (
                    tuple(tuple(map(older, values)) for values in lists),
                    tuple(map(older, times)),
                    tuple(v - cycles if v > cycles else NEVER for v in places),
                )
            )
        return found

    def refresh(self, state: State) -> Part:
        """A refresh that begins at once."""
        any_open = _any_open(state.rows)
        key = (state.timers, any_open)
        part = self._refreshed.get(key)
        if part is None:
            self._restore(state)
            machine = self.machine
            machine.begun = False
            machine._refresh(state.now)  # the scheduler's own step
            part = self._refreshed[key] = self._part(state, None, CLOSED)
        return part

    def shape(self, shape: tuple[object, ...]) -> Known:
        """What is known of orders of one shape; kept as long as a phase has it."""
        found = self._shapes.get(shape)
        if found is None:
            found = self._shapes[shape] = Known()
        return found

    # Orders ----------------------------------------------------------------------------------

    def order(self, order: Order, key: tuple[object, ...], state: State, due: int | None) -> Part:
        """What one order does; ``key`` is what matters of it, ``due`` None for no refresh."""
        rows = state.rows
        # What is refused touches no row.
        opened = self._seen(order, rows) if key[1] == 0 else 0
        late = None if due is None else (due - state.now, _any_open(rows))
        whole = (key, state.timers, opened, late)
        found = self._parts.get(whole)
        if found is None:
            if due is None:
                state = state._replace(refreshed=1 << 40)
            self._restore(state)
            machine = self.machine
            machine.order(order, state.now - 2)
            part = self._part(state, order, CLOSED)
            found = self._parts[whole] = (part, *self._opens(order, part.refreshes > 0))
        part, kind, place = found
        return _with_rows(part, self._rows_behind(order, kind, place, rows))

    def _seen(self, order: Order, rows: Rows) -> int:
        """What an order sees of the open rows: from its own on, closed, or another."""
        op = order.op
        if op in _EVERY or (op == Op.ACTIVATE and order.function == TABLE):
            if not isinstance(rows, int):
                # Banks differ, or some are closed: all are closed first, whatever they hold.
                return FOREIGN
            row = rows
        elif op in _PLACED:
            row = rows if isinstance(rows, int) else rows[order.bank]
        else:
            return 0
        if row == CLOSED:
            return CLOSED
        row -= order.row
        return row if 0 <= row <= self._span(order) else FOREIGN

    def _span(self, order: Order) -> int:
        """Rows behind its first one that an order reaches."""
        return (order.column + self.machine.decoder.reach(order) - 1) // self.row_columns

    def _opens(self, order: Order, refreshed: bool) -> tuple[int, int]:
        """How an order leaves the rows: kind, and the row that it has opened, from its own."""
        rows = self.machine.open
        if self.machine.statuses[0] == 0:
            if order.op in _EVERY or (order.op == Op.ACTIVATE and order.function == TABLE):
                return _ALL, rows[0] - order.row
            if order.op in _PLACED:
                kind = _ONE_REFRESHED if refreshed else _ONE
                return kind, rows[order.bank] - order.row
        return (_ALL_CLOSED if refreshed else _KEEP), 0

    def _rows_behind(self, order: Order, kind: int, place: int, rows: Rows) -> Rows:
        if kind == _KEEP:
            return rows
        if kind == _ALL_CLOSED:
            return CLOSED
        row = order.row + place
        if kind == _ALL:
            return row
        if kind == _ONE_REFRESHED or isinstance(rows, int):
            others = rows if isinstance(rows, int) and kind == _ONE else CLOSED
            if others == row or self.banks == 1:
                return row
            each = [others] * self.banks
        else:
            each = list(rows)
        each[order.bank] = row
        return row if each.count(row) == self.banks else tuple(each)

    def _part(self, state: State, order: Order | None, rows: Rows) -> Part:
        """What the machine did since it was restored."""
        machine, now = self.machine, state.now
        runs = []
        opened = 0
        for run in machine.runs:
            row = column = 0
            if order is not None:
                if run.command in _ACTIVATES:
                    row = run.row - order.row
                elif run.command in _COLUMNS:
                    row, column = run.row - order.row, run.column - order.column
            if run.command in _ACTIVATES:
                opened += self.banks if run.command == _ACTIVATES[1] else 1
            runs.append(
                (run.cycle - now, run.command, run.bank, row, column, run.length, run.interval)
            )
        gives = order is not None and order.op in _GIVES and machine.statuses[0] == 0
        last = machine.last - now if machine.last > NEVER else NEVER
        counts = (
            machine.refreshed - state.refreshed,
            machine.activates,
            machine.precharges,
            opened,
        )
        span = machine.now - now
        return Part(
            span, self._capture(), rows, counts, last, last if gives else NEVER, tuple(runs)
        )

    def key(self, order: Order) -> tuple[object, ...]:
        """What of an order its cycles depend on, the open rows apart."""
        status = self.machine.decoder.status(order)
        column = order.column if self._span(order) else 0
        length = self.machine.decoder.reach(order)
        bank = order.bank if order.op in _PLACED and order.op not in _EVERY else 0
        return (order.op, status, bank, column, order.length, length, order.function)


_KEEP, _ALL, _ONE, _ALL_CLOSED, _ONE_REFRESHED = range(5)
_ACTIVATES = tuple(int(command) for command in ACTIVATES)
_COLUMNS = frozenset(int(command) for command in COLUMNS)
_PLACED = frozenset(int(op) for op in PLACED)
_EVERY = frozenset(int(op) for op in ALL_PLACED)
_GIVES = frozenset({int(Op.READ), int(Op.READ_MAC)})


def _any_open(rows: Rows) -> bool:
    return rows != CLOSED if isinstance(rows, int) else max(rows) > CLOSED


def _with_rows(part: Part, rows: Rows) -> Part:
    if part.rows == rows:
        return part
    made = Part(
        part.span,
        part.timers,
        rows,
        (part.refreshes, part.activates, part.precharges, part.bank_activates),
        part.last,
        part.given,
        part.runs,
    )
    made.listing = part.table()
    return made


class Segment(NamedTuple):
    """Part of a timeline: what was done from a cycle on, by which orders of which phase."""

    now: int
    phase: Phase | None
    base: int
    first: int
    part: Part


class Timeline:
    """What a channel has done, from reset on.

    Attributes:
        state: where it is. last: its last transfer. given: its last transfer of data.
        segments: everything in its order, if it is kept.
    """

    def __init__(self, pace: Pace, *, keep: bool = False, state: State | None = None):
        self.pace, self.keep = pace, keep
        self.state = pace.reset if state is None else state
        self.last = self.given = 0
        self.activates = self.precharges = self.bank_activates = 0
        self.segments: list[Segment] = []

    @property
    def refreshes(self) -> int:
        return self.state.refreshed

    def follow(self, other: Timeline, phase: Phase | None = None) -> None:
        """Does what another timeline did, which began in this one's state and with nothing.

        ``phase`` is this one's own, of the same cycles as the other's.
        """
        self.state = other.state
        self.last = max(self.last, other.last)
        self.given = max(self.given, other.given)
        self.activates += other.activates
        self.precharges += other.precharges
        self.bank_activates += other.bank_activates
        if self.keep:
            self.segments += (
                item if item.phase is None else item._replace(phase=phase or item.phase)
                for item in other.segments
            )

    def wait(self, until: int) -> None:
        """Nothing is to be done before a cycle of the sequencer, but refreshes fall due."""
        pace = self.pace
        while (due := pace.due(self.state)) < until:
            self._later(due)
            state = self.state
            part = pace.refresh(state)
            if self.keep:
                self.segments.append(Segment(state.now, None, 0, 0, part))
            self.precharges += part.precharges
            self.state = State(state.now + part.span, state.refreshed + 1, part.timers, CLOSED)
        self._later(until)

    def await_offer(self, offered: int | None) -> None:
        """Waits for an order that is offered from a cycle on, None for always."""
        self.wait(max(self.state.now, 2 if offered is None else offered + 2))

    def _later(self, now: int) -> None:
        state = self.state
        if now > state.now:
            timers = self.pace.advance(state.timers, min(now - state.now, self.pace.horizon << 1))
            self.state = state._replace(now=now, timers=timers)

    def run(self, phase: Phase, base: int = 0, offered: int | None = None) -> None:
        """Does the orders of a phase.

        Args:
            base: added to every row.
            offered: cycle from which ``i_cmd`` offers the first one, and the others behind it.
        """
        if not phase.orders:
            return
        self.await_offer(offered)
        outside = self.state.rows
        state = self.state._replace(rows=_inside(outside, base, phase.rows))
        index, count, jumps = 0, len(phase.orders), phase.known.jumps
        while index < count:
            now, refreshed = state.now, state.refreshed
            left = (refreshed + 1) * self.pace.interval - now
            key = (index, state.timers, state.rows, left)
            jump = None if self.keep else jumps.get(key)
            if jump is None:
                jump = self._stretch(phase, base, index, state)
                if len(jumps) < MOST_JUMPS:
                    jumps[key] = jump
            if jump.last > NEVER:
                self.last = max(self.last, now + jump.last)
                if jump.given > NEVER:
                    self.given = max(self.given, now + jump.given)
            self.activates += jump.activates
            self.precharges += jump.precharges
            self.bank_activates += jump.bank_activates
            state = State(now + jump.span, refreshed + jump.refreshes, jump.timers, jump.rows)
            index = jump.behind
        self.state = state._replace(rows=_outside(state.rows, base, outside))

    def _stretch(self, phase: Phase, base: int, index: int, state: State) -> Jump:
        """Orders up to the one that meets a refresh, that one too, or to the last."""
        pace, known, count = self.pace, phase.known, len(phase.orders)
        start, refreshed, timers, inside = state
        now, due = start, pace.due(state)
        activates = precharges = opened = refreshes = 0
        last = given = NEVER
        while index < count and not refreshes:
            level = min(phase.levels, (count - index).bit_length() - 1)
            if index:
                level = min(level, (index & -index).bit_length() - 1)
            while True:
                key = (level, index, timers, inside)
                part = known.get(key) or phase.part(key)
                left = due - now
                if part.span <= left:
                    break
                if level == 0 or left <= 0:
                    level = 0
                    at = State(now, refreshed, timers, inside)
                    part = pace.order(phase.orders[index], phase.keys[index], at, due)
                    refreshes = part.refreshes
                    break
                if part.span > pace.interval:
                    phase.levels = min(phase.levels, level - 1)
                level = max(0, level - (part.span // left).bit_length())
            if self.keep:
                self.segments.append(Segment(now, phase, base, index, part))
            if part.last > NEVER:
                last = max(last, now - start + part.last)
                if part.given > NEVER:
                    given = max(given, now - start + part.given)
            activates += part.activates
            precharges += part.precharges
            opened += part.bank_activates
            now += part.span
            timers, inside = part.timers, part.rows
            index += 1 << level
        return Jump(
            index,
            now - start,
            timers,
            inside,
            refreshes,
            activates,
            precharges,
            opened,
            last,
            given,
        )

    def runs(self, first: int = 0) -> np.ndarray:
        """Every run, ``(n, 7)`` with the columns of :class:`Run`; segments from ``first`` on."""
        places = [np.zeros((1, 2), dtype=np.int64)]  # of what belongs to no order
        begins: dict[int, int] = {}
        count = 1
        tables, offsets = [], []
        for now, phase, base, index, part in self.segments[first:]:
            table = part.table()
            begin = 0
            if phase is not None:
                if id(phase) not in begins:
                    begins[id(phase)] = count
                    places.append(phase.places)
                    count += len(phase.places)
                begin = begins[id(phase)] + index
            tables.append(table)
            offsets.append((now, begin, base, len(table)))
        if not tables:
            return np.zeros((0, len(Run._fields)), dtype=np.int64)
        found = np.concatenate(tables)
        shift = np.array(offsets, dtype=np.int64)
        now, begin, base = np.repeat(shift[:, :3], shift[:, 3], axis=0).T
        place = np.concatenate(places)[found[:, 7] + begin]
        command = found[:, 1]
        columns = np.isin(command, sorted(_COLUMNS))
        rows = columns | np.isin(command, _ACTIVATES)
        found[:, 0] += now
        found[:, 3] = np.where(rows, found[:, 3] + place[:, 0] + base, 0)
        found[:, 4] = np.where(columns, found[:, 4] + place[:, 1], 0)
        return found[:, :7]


def _inside(rows: Rows, base: int, span: tuple[int, int]) -> Rows:
    """Open rows as a phase sees them."""

    def seen(row: int) -> int:
        if row == CLOSED:
            return row
        row -= base
        return row if span[0] <= row <= span[1] else FOREIGN

    return seen(rows) if isinstance(rows, int) else tuple(map(seen, rows))


def _outside(rows: Rows, base: int, before: Rows) -> Rows:
    """Open rows behind a phase; those that it has not touched are what they were before."""
    if isinstance(rows, int):
        if rows == FOREIGN:
            return before
        return rows if rows == CLOSED else rows + base
    each = [before] * len(rows) if isinstance(before, int) else before
    return tuple(
        old if row == FOREIGN else row if row == CLOSED else row + base
        for row, old in zip(rows, each, strict=True)
    )


class Phase:
    """A stream of orders whose rows count from a base.

    Attributes:
        orders: as they are given, with ``base`` 0.
        rows: least and greatest row that they touch.
        known: parts by level, index, timers and open rows.
        words_in, words_out: beats of i_data and of o_data.
        column_commands, bank_columns: commands to columns, and the columns that they touch.
    """

    def __init__(self, pace: Pace, orders: Iterable[Sequence[int]]):
        self.pace = pace
        self.orders = tuple(Order(*fields) for fields in orders)
        self.keys = tuple(map(pace.key, self.orders))
        self.levels = max(0, len(self.orders).bit_length() - 1)
        reach = pace.machine.decoder.reach
        placed = [order for order in self.orders if order.op in _PLACED or order.op == Op.ACTIVATE]
        low = min((order.row for order in placed), default=0)
        columns = pace.row_columns
        high = max(
            (order.row + (order.column + reach(order) - 1) // columns for order in placed),
            default=-1,
        )
        self.rows = (low, high)
        self.words_in = self.words_out = self.column_commands = self.bank_columns = 0
        for order, key in zip(self.orders, self.keys, strict=True):
            if key[1] == 0:
                self._count(order)
        # Orders that differ in what no cycle depends on share what is known.
        shape = tuple(zip(self.keys, (order.row for order in self.orders), strict=True))
        self.known: Known = pace.shape(shape)
        self._places: np.ndarray | None = None

    def _count(self, order: Order) -> None:
        machine, op = self.pace.machine, order.op
        if op in (Op.WRITE, Op.WRITE_ALL, Op.WRITE_BUFFER):
            self.words_in += order.length
        elif op == Op.WRITE_BIAS:
            self.words_in += 1
        elif op == Op.READ:
            self.words_out += order.length
        elif op == Op.READ_MAC:
            self.words_out += self.pace.spec.give_beats
        columns = 0
        if op in (Op.MAC, Op.MAC_ALL):
            columns = order.length * len(machine.passes)
        elif op == Op.ACTIVATE and order.function == TABLE:
            columns = machine.decoder.table_columns
        elif op in _PLACED:
            columns = order.length
        self.column_commands += columns
        every = op in _EVERY or op == Op.ACTIVATE
        self.bank_columns += columns * (self.pace.banks if every else 1)

    @property
    def places(self) -> np.ndarray:
        """Row and column of every order."""
        if self._places is None:
            rows = [(order.row, order.column) for order in self.orders]
            self._places = np.array(rows, dtype=np.int64).reshape(-1, 2)
        return self._places

    def part(self, key: tuple[int, int, int, Rows]) -> Part:
        """What orders do where no refresh is due: level, index, timers, open rows.

        ``2^level`` orders from ``index`` on.
        """
        found = self.known.get(key)
        if found is None:
            level, index, timers, rows = key
            if level == 0:
                state = State(0, 0, timers, rows)
                found = self.pace.order(self.orders[index], self.keys[index], state, None)
            else:
                half = 1 << (level - 1)
                left = self.part((level - 1, index, timers, rows))
                right = self.part((level - 1, index + half, left.timers, left.rows))
                found = _join(left, right, half)
            self.known[key] = found
        return found


def _join(left: Part, right: Part, orders: int) -> Part:
    later = left.span
    return Part(
        left.span + right.span,
        right.timers,
        right.rows,
        (
            left.refreshes + right.refreshes,
            left.activates + right.activates,
            left.precharges + right.precharges,
            left.bank_activates + right.bank_activates,
        ),
        max(left.last, right.last + later if right.last > NEVER else NEVER),
        max(left.given, right.given + later if right.given > NEVER else NEVER),
        halves=(left, right, orders),
    )


__all__ = ["CLOSED", "FOREIGN", "PORT", "Pace", "Part", "Phase", "State", "Timeline"]

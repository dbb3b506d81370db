"""The schedule of one GEMM on cores with buffers and one DRAM channel: an exact recurrence.

A GEMM is cut into blocks of whole tiles. A *stage* is one block on the cores; it takes its blocks
of A and W, and what its results start from, out of buffers that one DMA channel fills, and leaves
results that the same channel writes. ``docs/system.md`` has the rules of the channel and the
recurrence; this module evaluates it. All times are integers in cycles of the cores' clock.

:func:`makespan` does not walk through the stages: every stage maps the state to the next one by
maxima and additions alone, so it commutes with a shift in time, and once the state of a loop
repeats up to such a shift, so does everything after it. :mod:`sw_driver.system.timeline` is the
same schedule stage by stage.
"""

from __future__ import annotations

from typing import NamedTuple

DIMS = "mnk"
ORDERS = ("mnk", "nmk", "mkn", "kmn", "nkm", "knm")
"""Loops over blocks from the outermost to the innermost."""

ALL, M, N, K = 15, 1, 2, 4
_BIT = {"m": M, "n": N, "k": K}
# Which loops change an operand's block; instances change everything.
A_DIMS, W_DIMS, O_DIMS = 8 | M | K, 8 | N | K, 8 | M | N


class Channel(NamedTuple):
    """The DRAM channel: ``burst`` bytes in ``num/den`` cycles, read data ``latency`` later."""

    burst: int
    num: int
    den: int
    latency: int

    def cycles(self, bits: int) -> int:
        """Cycles that a transfer holds the channel: whole bursts, rounded up to a cycle."""
        bursts = -(-bits // (8 * self.burst))
        return -(-bursts * self.num // self.den)


class Sram(NamedTuple):
    """Bytes of the buffers. ``shared`` counts instead of the three where it is not 0."""

    activations: int
    weights: int
    results: int
    shared: int = 0


class Gemm(NamedTuple):
    """``instances`` independent products of one shape, and what one core needs for them.

    Attributes:
        m, n, k: elements; instances: independent products.
        tile_m, tile_n: elements of an output tile. unit: elements of K that are never cut: a K
            step, or a group that shares a scale.
        step: elements of K in a step. max_steps: K steps that a job may have.
        start, step_cycles: of a job, and of each of its K steps. latency: of the core.
        grouped: whether a job never spans two units.
        a_bits, w_bits: of an element; or 0, and ``a_step_bits`` and ``w_step_bits`` count, which
            are those of a K step of one row.
        group_bits: beside a unit of one row of W.
        wide_bits: of a result in its buffer, and of a partial sum in DRAM.
        out_num, out_den: bits of a result in DRAM as a fraction; 0 if results stay on chip.
        row_bits, column_bits: what a block of results needs beside its operands, for each of its
            rows (their scales) and columns (scales and biases).
        keep_a: A is on chip, made by the operator before. keep_o: bits of a result that stays on
            chip for the operator after, whole rows of it; 0 if results go to DRAM.
    """

    m: int
    n: int
    k: int
    instances: int
    tile_m: int
    tile_n: int
    unit: int
    step: int
    max_steps: int
    start: int
    step_cycles: int
    latency: int
    grouped: bool
    a_bits: int
    w_bits: int
    a_step_bits: int
    w_step_bits: int
    group_bits: int
    wide_bits: int
    out_num: int
    out_den: int
    row_bits: int
    column_bits: int
    keep_a: bool = False
    keep_o: int = 0

    @property
    def units(self) -> int:
        """Units of K."""
        return -(-self.k // self.unit)

    def k_span(self, first: int, count: int) -> tuple[int, int, int]:
        """``(elements, K steps, jobs)`` of ``count`` units from ``first`` on, of one tile."""
        start = first * self.unit
        elements = min(self.k - start, count * self.unit)
        if not self.grouped:
            steps = -(-elements // self.step)
            return elements, steps, -(-steps // self.max_steps)
        whole, rest = divmod(elements, self.unit)
        steps = -(-self.unit // self.step)
        last = -(-rest // self.step)
        jobs = whole * -(-steps // self.max_steps) + -(-last // self.max_steps)
        return elements, whole * steps + last, jobs

    def k_cycles(self, first: int, count: int) -> int:
        """Cycles of a core for one tile over some units of K."""
        _, steps, jobs = self.k_span(first, count)
        return self.start * jobs + self.step_cycles * steps

    def a_size(self, rows: int, first: int, count: int) -> int:
        """Bits of a block of A."""
        elements, steps, _ = self.k_span(first, count)
        return rows * (elements * self.a_bits if self.a_bits else steps * self.a_step_bits)

    def w_size(self, columns: int, first: int, count: int) -> int:
        """Bits of a block of W with its scales."""
        elements, steps, _ = self.k_span(first, count)
        bits = elements * self.w_bits if self.w_bits else steps * self.w_step_bits
        return columns * (bits + count * self.group_bits)

    def beside(self, rows: int, columns: int) -> int:
        """Bits of what a block of results needs beside operands."""
        return rows * self.row_bits + columns * self.column_bits

    def written(self, rows: int, columns: int) -> int:
        """Bits of a finished block of results in DRAM."""
        return -(-rows * columns * self.out_num // self.out_den)


class Blocking(NamedTuple):
    """How a GEMM is cut, ordered and placed.

    Attributes:
        order: loops from the outermost to the innermost, one of :data:`ORDERS`.
        bm, bn: tiles of one core in a block; bk: units of K in a block.
        a_buffers, w_buffers, o_buffers: 1 or 2.
        pm, pn, pi: cores that a stage's rows, columns and instances are shared out to.
    """

    order: str
    bm: int
    bn: int
    bk: int
    a_buffers: int = 2
    w_buffers: int = 2
    o_buffers: int = 2
    pm: int = 1
    pn: int = 1
    pi: int = 1

    @property
    def cores(self) -> int:
        return self.pm * self.pn * self.pi


class Traffic(NamedTuple):
    """Transfers of a schedule: bits by kind, and the cycles that they hold the channel."""

    a: int
    w: int
    beside: int
    partial: int
    out: int
    channel: int

    @property
    def bytes(self) -> int:
        return -(-(self.a + self.w + self.beside + self.partial + self.out) // 8)


def extents(gemm: Gemm, cut: Blocking) -> tuple[int, int, int, int]:
    """``(rounds, M, N, K)``: rounds of instances, tiles of one core, units."""
    return (
        -(-gemm.instances // cut.pi),
        -(-gemm.m // (gemm.tile_m * cut.pm)),
        -(-gemm.n // (gemm.tile_n * cut.pn)),
        gemm.units,
    )


def buffer_bytes(gemm: Gemm, cut: Blocking) -> tuple[int, int, int]:
    """Bytes of the buffers of A, W and results; rows and columns of whole tiles."""
    rows, columns = cut.bm * cut.pm * gemm.tile_m, cut.bn * cut.pn * gemm.tile_n
    if gemm.keep_a:
        a = cut.pi * gemm.a_size(rows, 0, gemm.units)
    else:
        a = cut.a_buffers * cut.pi * gemm.a_size(rows, 0, cut.bk)
    w = cut.w_buffers * cut.pi * gemm.w_size(columns, 0, cut.bk)
    one = rows * columns * gemm.wide_bits + gemm.beside(rows, columns)
    o = cut.o_buffers * cut.pi * one
    if gemm.keep_o:
        o += cut.pi * rows * gemm.n * gemm.keep_o
    return -(-a // 8), -(-w // 8), -(-o // 8)


def fits(gemm: Gemm, cut: Blocking, sram: Sram) -> bool:
    """Whether the buffers are there."""
    a, w, o = buffer_bytes(gemm, cut)
    if sram.shared:
        return a + w + o <= sram.shared
    return a <= sram.activations and w <= sram.weights and o <= sram.results


class _Sizes(NamedTuple):
    """Rows, columns, units of the two kinds of block along a loop: full ones, and the last."""

    full: int
    last: int
    blocks: int


def _sizes(total: int, block: int) -> _Sizes:
    count = -(-total // block)
    return _Sizes(block, total - (count - 1) * block, count)


# What may differ between two moments: channel free, the last stage's end on the cores, the end of
# the last use of the block of A (of W) before the present one, the end of the store before the
# present one; and the cycles of the store that is due.
State = tuple[int, int, int, int, int, int]


class Evaluation:
    """The recurrence of one GEMM, blocking and channel."""

    def __init__(self, gemm: Gemm, cut: Blocking, channel: Channel):
        self.gemm, self.cut, self.channel = gemm, cut, channel
        rounds, m, n, k = extents(gemm, cut)
        self.tiles = {"m": _sizes(m, cut.bm), "n": _sizes(n, cut.bn), "k": _sizes(k, cut.bk)}
        self.rounds = rounds
        tm, tn, tk = self.tiles["m"], self.tiles["n"], self.tiles["k"]
        rows_full = cut.bm * cut.pm * gemm.tile_m
        columns_full = cut.bn * cut.pn * gemm.tile_n
        self.rows = (rows_full, gemm.m - (tm.blocks - 1) * rows_full)
        self.columns = (columns_full, gemm.n - (tn.blocks - 1) * columns_full)
        last_k = (tk.blocks - 1) * cut.bk
        self.k_blocks = ((0, min(cut.bk, k)), (last_k, tk.last))
        per_tile = tuple(gemm.k_cycles(*span) for span in self.k_blocks)
        counts_m, counts_n = (min(tm.full, m), tm.last), (min(tn.full, n), tn.last)
        two = (0, 1)
        self.compute = tuple(
            tuple(tuple(counts_m[i] * counts_n[j] * per_tile[q] for q in two) for j in two)
            for i in two
        )
        self._loops = [(_BIT[dim], DIMS.index(dim), self.tiles[dim].blocks) for dim in cut.order]
        self._load(cut.pi)

    def _load(self, instances: int) -> None:
        """Channel cycles of every kind of transfer, of ``instances`` instances at once."""
        gemm, cycles, two = self.gemm, self.channel.cycles, (0, 1)
        rows, columns, spans = self.rows, self.columns, self.k_blocks
        kept = 0 if gemm.keep_a else instances
        self.a = [[cycles(kept * gemm.a_size(rows[i], *spans[q])) for q in two] for i in two]
        self.w = [
            [cycles(instances * gemm.w_size(columns[j], *spans[q])) for q in two] for j in two
        ]
        sums = [[instances * rows[i] * columns[j] * gemm.wide_bits for j in two] for i in two]
        beside = [[instances * gemm.beside(rows[i], columns[j]) for j in two] for i in two]
        self.first = [[cycles(beside[i][j]) for j in two] for i in two]
        self.again = [[cycles(beside[i][j] + sums[i][j]) for j in two] for i in two]
        self.partial = [[cycles(sums[i][j]) for j in two] for i in two]
        self.final = [
            [cycles(instances * gemm.written(rows[i], columns[j])) for j in two] for i in two
        ]

    def run(self) -> int:
        """Cycles from the first transfer's first one to the last one's end, of all instances."""
        # Before the first stage nothing stands in the cores' registers.
        state: State = (0, -self.gemm.latency, 0, 0, 0, 0)
        full, rest = divmod(self.gemm.instances, self.cut.pi)
        if full:
            state = self._repeat(state, full, lambda now: self._loop(0, now, ALL, [1, 1, 1], True))
        if rest:
            self._load(rest)
            state = self._loop(0, state, ALL, [1, 1, 1], True)
        channel, end, *_, due = state
        done = end + self.gemm.latency
        return max(done, max(channel, done) + due if due else 0)

    def _repeat(self, state: State, times: int, body: object) -> State:
        """``body`` that many times; a state that comes again up to a shift ends the walk."""
        seen: dict[State, tuple[int, int]] = {}
        number = 0
        while number < times:
            channel, end, a, w, store, due = state
            # What lies before a moment that bounds it anyway is as good as that moment.
            key = (
                channel - end,
                0,
                (a if a > channel else channel) - end,
                (w if w > channel else channel) - end,
                (store if store > end else end) - end,
                due,
            )
            before = seen.get(key)
            if before is not None:
                period, shift = number - before[0], end - before[1]
                rounds = (times - number) // period
                if rounds:
                    move = rounds * shift
                    state = (
                        channel + move, end + move, a + move, w + move, store + move, due
                    )  # fmt: skip
                    number += rounds * period
                    seen = {}
                    continue
            seen[key] = (number, end)
            state = body(state)  # type: ignore[operator]
            number += 1
        return state

    def _loop(self, level: int, state: State, changed: int, kinds: list[int], first: bool) -> State:
        """The loops from ``level`` on; ``changed`` says which indices differ from the last stage's.

        Args:
            kinds: whether the present block along M, N, K is a full one (0) or the last (1).
            first: whether the present block of K is the first.
        """
        if level == 3:
            return self._stage(state, changed, kinds, first)
        bit, place, count = self._loops[level]
        inner = bit == K
        if count == 1:
            kinds[place] = 1
            return self._loop(level + 1, state, changed, kinds, True if inner else first)
        kinds[place] = 0
        state = self._loop(level + 1, state, changed | bit, kinds, True if inner else first)
        later = False if inner else first
        if count > 2:
            if level == 2:
                state = self._repeat(
                    state, count - 2, lambda now: self._stage(now, bit, kinds, later)
                )
            else:

                def body(now: State) -> State:
                    kinds[place] = 0
                    return self._loop(level + 1, now, bit, kinds, later)

                state = self._repeat(state, count - 2, body)
        kinds[place] = 1
        return self._loop(level + 1, state, bit, kinds, later)

    def _stage(self, state: State, changed: int, kinds: list[int], first: bool) -> State:
        """One block: its loads, the store that is due, the cores."""
        channel, end, a_before, w_before, store, due = state
        m, n, k = kinds
        cut, latency = self.cut, self.channel.latency
        begin = end
        w = self.w[n][k] if changed & W_DIMS else 0
        a = self.a[m][k] if changed & A_DIMS else 0
        # Loads into a second buffer go first: one into the only buffer waits for the cores.
        for kind in ("wa", "aw")[cut.a_buffers > cut.w_buffers]:
            if kind == "w" and w:
                free = w_before if cut.w_buffers == 2 else end
                channel = (channel if channel > free else free) + w
                if channel + latency > begin:
                    begin = channel + latency
                w_before = end
            elif kind == "a" and a:
                free = a_before if cut.a_buffers == 2 else end
                channel = (channel if channel > free else free) + a
                if channel + latency > begin:
                    begin = channel + latency
                a_before = end
        if changed & O_DIMS:
            load = (self.first if first else self.again)[m][n]
            ready = end + self.gemm.latency
            if cut.o_buffers == 2:
                # The other buffer was written out before any of this: ``store`` <= ``channel``.
                if load:
                    channel += load
                    if channel + latency > begin:
                        begin = channel + latency
                if store > begin:
                    begin = store
                if due:
                    channel = (channel if channel > ready else ready) + due
                    store = channel
            else:
                if due:
                    channel = (channel if channel > ready else ready) + due
                    store = channel
                if store > begin:
                    begin = store
                if load:
                    channel = (channel if channel > ready else ready) + load
                    if channel + latency > begin:
                        begin = channel + latency
        last = k == 1
        due = (self.final if last else self.partial)[m][n]
        return (channel, begin + self.compute[m][n][k], a_before, w_before, store, due)


def makespan(gemm: Gemm, cut: Blocking, channel: Channel) -> int:
    """Cycles of a schedule, from its first transfer's first one to the end of its last."""
    return Evaluation(gemm, cut, channel).run()


def visits(gemm: Gemm, cut: Blocking) -> tuple[int, int, int]:
    """How often the blocks of A, of W and of results come and go, of one round of instances."""
    _, m, n, k = extents(gemm, cut)
    count = {"m": -(-m // cut.bm), "n": -(-n // cut.bn), "k": -(-k // cut.bk)}
    found = []
    for missing in "nmk":  # of A, of W, of results
        inner = cut.order[cut.order.index(missing) + 1 :]
        found.append(count[missing] if any(count[dim] > 1 for dim in inner) else 1)
    return found[0], found[1], found[2]


def traffic(gemm: Gemm, cut: Blocking, channel: Channel) -> Traffic:
    """What goes over the channel, and how long that holds it."""
    one = Evaluation(gemm, cut, channel)
    a_visits, w_visits, o_visits = visits(gemm, cut)
    gm, gn, gk = (one.tiles[dim].blocks for dim in DIMS)
    busy = 0
    rounds = [(gemm.instances // cut.pi, cut.pi)]
    if gemm.instances % cut.pi:
        rounds.append((1, gemm.instances % cut.pi))

    def both(count: int, pair: list[int]) -> int:
        return (count - 1) * pair[0] + pair[1]

    def grid(rows: int, columns: int, table: list[list[int]]) -> int:
        return (rows - 1) * both(columns, table[0]) + both(columns, table[1])

    for times, instances in rounds:
        if times:
            one._load(instances)
            busy += times * (
                a_visits * grid(gm, gk, one.a)
                + w_visits * grid(gn, gk, one.w)
                + grid(gm, gn, one.first)
                + (o_visits - 1) * (grid(gm, gn, one.again) + grid(gm, gn, one.partial))
                + grid(gm, gn, one.final)
            )
    rows, columns = one.rows, one.columns
    sums = gemm.m * gemm.n * gemm.wide_bits
    beside = gn * gemm.m * gemm.row_bits + gm * gemm.n * gemm.column_bits
    written = [[gemm.written(rows[i], columns[j]) for j in (0, 1)] for i in (0, 1)]
    every = gemm.instances
    return Traffic(
        a=0 if gemm.keep_a else every * a_visits * gemm.a_size(gemm.m, 0, gemm.units),
        w=every * w_visits * gemm.w_size(gemm.n, 0, gemm.units),
        beside=every * o_visits * beside,
        partial=every * 2 * (o_visits - 1) * sums,
        out=every * grid(gm, gn, written),
        channel=busy,
    )


def compute_cycles(gemm: Gemm, cut: Blocking) -> int:
    """Cycles in which the cores of a stage are given work, all stages."""
    one = Evaluation(gemm, cut, Channel(1, 1, 1, 0))
    gm, gn, gk = (one.tiles[dim].blocks for dim in DIMS)
    total = 0
    for i, rows in ((0, gm - 1), (1, 1)):
        for j, columns in ((0, gn - 1), (1, 1)):
            depth = (gk - 1) * one.compute[i][j][0] + one.compute[i][j][1]
            total += rows * columns * depth
    return one.rounds * total

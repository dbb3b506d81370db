"""The best blocking of a GEMM: exact search by bounds.

The space is every :class:`~sw_driver.system.schedule.Blocking` that fits the buffers: all block
sizes (not only those that divide), all six orders of the loops, one or two buffers for each of A,
W and results, and every way to share a stage out to the cores. It is searched as a tree of boxes,
``low <= size <= high`` along M, N and K; a box whose lower bound is no better than the best
schedule so far is dropped with everything in it. What is left when the search ends early is said:
:attr:`Found.bound` is a lower bound of the whole space then.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from sw_driver.system.schedule import (
    ORDERS,
    Blocking,
    Channel,
    Gemm,
    Sram,
    extents,
    fits,
    makespan,
)

GAP = 0.005
"""Share of the cycles within which a schedule counts as the best, unless asked otherwise."""
EFFORT = 600
"""Boxes that are opened before the search ends with the bound that it has."""

EVERY_SHARE = 32
"""Cores up to which every way of sharing is tried."""


class Found(NamedTuple):
    """The best schedule that was found.

    Attributes:
        cycles: of it. bound: no schedule of the space has fewer. boxes: how many were opened.
    """

    cut: Blocking
    cycles: int
    bound: int
    boxes: int

    @property
    def gap(self) -> float:
        """By how much of its cycles a better one could be better at most."""
        return 1 - self.bound / self.cycles


class _Box(NamedTuple):
    cut: Blocking  # of the lowest sizes
    high: tuple[int, int, int]


class Bounds:
    """Lower bounds for the boxes of one GEMM; all of them hold for every schedule of a box.

    1. The cores' work is done after the first blocks have come and before the last is written.
    2. The channel's work is done but for two stores before the last block starts.
    3. A stage with a transfer to or from an operand's only buffer has them one after the other.
    """

    def __init__(self, gemm: Gemm, channel: Channel):
        self.gemm, self.channel = gemm, channel
        self.a_bits = 0 if gemm.keep_a else gemm.instances * gemm.a_size(gemm.m, 0, gemm.units)
        self.w_bits = gemm.instances * gemm.w_size(gemm.n, 0, gemm.units)
        self.out_bits = gemm.instances * gemm.written(gemm.m, gemm.n)
        self.sum_bits = gemm.instances * gemm.m * gemm.n * gemm.wide_bits
        self.tile_cycles = gemm.k_cycles(0, gemm.units)

    def held(self, bits: int) -> int:
        """Cycles of the channel for some bits at least, in however many transfers."""
        channel = self.channel
        return bits * channel.num // (8 * channel.burst * channel.den)

    def box(self, box: _Box) -> int:
        """Fewest cycles of any schedule in a box."""
        gemm, channel = self.gemm, self.channel
        cut, (m_high, n_high, k_high) = box
        rounds, m, n, k = extents(gemm, cut)
        least = {"m": -(-m // m_high), "n": -(-n // n_high), "k": -(-k // k_high)}
        order = cut.order

        def visits(missing: str) -> int:
            inner = order[order.index(missing) + 1 :]
            return least[missing] if any(least[dim] > 1 for dim in inner) else 1

        work = rounds * m * n * self.tile_cycles
        a_visits, w_visits, o_visits = visits("n"), visits("m"), visits("k")
        every = gemm.instances
        a_held = self.held(self.a_bits * a_visits)
        w_held = self.held(self.w_bits * w_visits)
        beside = least["n"] * gemm.m * gemm.row_bits + least["m"] * gemm.n * gemm.column_bits
        load_bits = every * o_visits * beside + (o_visits - 1) * self.sum_bits
        o_held = self.held(load_bits)
        stored = self.held(self.out_bits + (o_visits - 1) * self.sum_bits)

        # The first blocks; the last, which is known where the sizes are.
        low = (cut.bm, cut.bn, cut.bk)
        tall, wide = gemm.tile_m * cut.pm, gemm.tile_n * cut.pn
        at_once = min(cut.pi, every)
        rows, columns = min(cut.bm * tall, gemm.m), min(cut.bn * wide, gemm.n)
        first = channel.cycles(at_once * gemm.w_size(columns, 0, cut.bk))
        if not gemm.keep_a:
            first += channel.cycles(at_once * gemm.a_size(rows, 0, cut.bk))
        first += channel.cycles(at_once * gemm.beside(rows, columns)) + channel.latency
        last = [
            total if small >= total else (total - 1) % small + 1 if small == large else 1
            for total, small, large in zip((m, n, k), low, box.high, strict=True)
        ]
        end_rows, end_columns = (
            (last[0] - 1) * tall + (gemm.m - 1) % tall + 1,
            (last[1] - 1) * wide + (gemm.n - 1) % wide + 1,
        )
        rest = (every - 1) % cut.pi + 1
        last_store = channel.cycles(rest * gemm.written(end_rows, end_columns))
        end_work = last[0] * last[1] * gemm.k_cycles(k - last[2], last[2])
        after = gemm.latency + last_store
        best = first + work + after

        loads = a_held + w_held + o_held
        behind = loads + channel.latency + end_work + after
        best = max(best, behind, loads + stored)
        m_most, n_most = min(m_high * tall, gemm.m), min(n_high * wide, gemm.n)
        one = at_once * max(
            gemm.written(m_most, n_most), m_most * n_most * gemm.wide_bits if o_visits > 1 else 0
        )
        if k_high < k and order[2] != "k":
            one = max(one, at_once * m_most * n_most * gemm.wide_bits)
        best = max(best, behind + stored - last_store - channel.cycles(one) - 1)

        alone = 0
        stages = 0
        if cut.a_buffers == 1 and not gemm.keep_a:
            alone += a_held
            stages = rounds * least["m"] * least["k"] * a_visits
        if cut.w_buffers == 1:
            alone += w_held
            stages = max(stages, rounds * least["n"] * least["k"] * w_visits)
        waits = stages * channel.latency
        if cut.o_buffers == 1:
            # The cores' last result is some cycles behind their last operand.
            places = rounds * least["m"] * least["n"] * o_visits
            serial = work + alone + o_held + stored
            best = max(best, serial)
            if not alone:
                best = max(best, serial + (places if self.out_bits else 0) * gemm.latency)
        return max(best, work + alone + waits)


def shares(gemm: Gemm, cores: int) -> Iterator[tuple[int, int, int]]:
    """Ways to share a stage out to cores, ``(along M, along N, along instances)``.

    All of them for up to :data:`EVERY_SHARE` cores. For more, along each dimension only the least
    numbers for every number of turns that a core has: another number of the same turns makes the
    last stage smaller at most.
    """

    def numbers(total: int, most: int) -> list[int]:
        every = range(1, min(total, most) + 1)
        if cores <= EVERY_SHARE:
            return list(every)
        least: dict[int, int] = {}
        for number in every:
            least.setdefault(-(-total // number), number)
        return list(least.values())

    tiles_m, tiles_n = -(-gemm.m // gemm.tile_m), -(-gemm.n // gemm.tile_n)
    for along_i in numbers(gemm.instances, cores):
        for along_m in numbers(tiles_m, cores // along_i):
            for along_n in numbers(tiles_n, cores // (along_i * along_m)):
                yield along_m, along_n, along_i


def roots(gemm: Gemm, cores: int) -> Iterator[_Box]:
    """Boxes of all sizes, one for every sharing; :func:`forms` has the others of each."""
    for along_m, along_n, along_i in shares(gemm, cores):
        cut = Blocking("mnk", 1, 1, 1, pm=along_m, pn=along_n, pi=along_i)
        _, m, n, k = extents(gemm, cut)
        yield _Box(cut, (m, n, k))


def forms(gemm: Gemm, root: _Box) -> Iterator[_Box]:
    """A box of all sizes in every order and with every number of buffers.

    None has a lower bound than the root: of all sizes every order may move each operand once, and
    a second buffer takes nothing from a bound.
    """
    whole = dict(zip("mnk", root.high, strict=True))
    # Loops of one pass alone do not matter, wherever they stand.
    seen = set()
    for order in ORDERS:
        key = tuple(dim for dim in order if whole[dim] > 1)
        if key in seen:
            continue
        seen.add(key)
        for a in (2, 1) if not gemm.keep_a else (2,):
            for w in (2, 1):
                for o in (2, 1):
                    cut = root.cut._replace(order=order, a_buffers=a, w_buffers=w, o_buffers=o)
                    yield _Box(cut, root.high)


def search(
    gemm: Gemm,
    channel: Channel,
    sram: Sram,
    cores: int = 1,
    *,
    gap: float = GAP,
    effort: int | None = EFFORT,
) -> Found | None:
    """The schedule of fewest cycles, to within ``gap`` of them, or the best after ``effort``.

    Args:
        gap: 0 for a proven optimum. effort: None for no end but the proof.

    Returns:
        None if not even one tile of each operand fits the buffers.
    """
    bounds = Bounds(gemm, channel)
    heap: list[tuple[int, int, _Box]] = []
    best: tuple[int, Blocking] | None = None
    number = 0

    def entry(box: _Box) -> tuple[int, int, _Box] | None:
        nonlocal number
        if not fits(gemm, box.cut, sram):
            return None
        number += 1
        return bounds.box(box), -number, box

    # A sharing is taken apart when its turn comes: until then its form stands for all of them,
    # whether it fits or not.
    closed = {-number: root for number, root in enumerate(roots(gemm, cores), 1)}
    number = len(closed)
    heap = [(bounds.box(root), mark, root) for mark, root in closed.items()]
    heapify(heap)
    boxes = 0
    here: tuple[int, int, _Box] | None = None
    while heap or here is not None:
        if here is None:
            if best is not None and heap[0][0] >= best[0] * (1 - gap):
                break
            if best is not None and effort is not None and boxes >= effort:
                break
            here = heappop(heap)
        bound, mark, box = here
        here = None
        if best is not None and bound >= best[0]:
            continue
        boxes += 1
        if mark in closed:
            for form in forms(gemm, box):
                if (found := entry(form)) is not None:
                    heappush(heap, found)
            continue
        (cut, high), low = box, (box.cut.bm, box.cut.bn, box.cut.bk)
        if low == high:
            cycles = makespan(gemm, cut, channel)
            if best is None or cycles < best[0]:
                best = _climb(gemm, channel, sram, (cycles, cut))
            continue
        # Cut where the sizes differ most, at the mean of their logarithms.
        ratios = [top / bottom for top, bottom in zip(high, low, strict=True)]
        widest = ratios.index(max(ratios))
        middle = min(int((low[widest] * high[widest]) ** 0.5), high[widest] - 1)
        above = [*low]
        above[widest] = middle + 1
        below = (
            middle if widest == 0 else high[0],
            middle if widest == 1 else high[1],
            middle if widest == 2 else high[2],
        )
        halves = (
            _Box(cut, below),
            _Box(cut._replace(bm=above[0], bn=above[1], bk=above[2]), high),
        )
        # The better half is gone into at once, so that good schedules are known early.
        kept = sorted(item for half in halves if (item := entry(half)) is not None)
        if kept:
            here = kept[0]
        for item in kept[1:]:
            heappush(heap, item)
    if best is None:
        return None
    return Found(best[1], best[0], min([best[0], *(item[0] for item in heap[:1])]), boxes)


def _climb(
    gemm: Gemm, channel: Channel, sram: Sram, best: tuple[int, Blocking]
) -> tuple[int, Blocking]:
    """A schedule as good or better, by steps of one size or of the order: bounds want a good one
    to be held against early."""
    tried = {best[1]}
    better = True
    while better:
        better = False
        cut = best[1]
        _, *most = extents(gemm, cut)
        near = [cut._replace(order=order) for order in ORDERS]
        for name, top in zip(("bm", "bn", "bk"), most, strict=True):
            size = getattr(cut, name)
            for other in {
                2 * size,
                size + 1,
                size - 1,
                -(-size // 2),
                3 * size // 4,
                5 * size // 4,
            }:
                near.append(cut._replace(**{name: min(max(other, 1), top)}))
        for other in near:
            if other in tried:
                continue
            tried.add(other)
            if fits(gemm, other, sram):
                cycles = makespan(gemm, other, channel)
                if cycles < best[0]:
                    best, better = (cycles, other), True
    return best


def roofline(gemm: Gemm, channel: Channel, cores: int = 1) -> int:
    """Cycles that neither cores nor channel can do with less of, whatever the buffers.

    The larger one of: all tiles, shared out evenly; every operand over the channel once.
    """
    bounds = Bounds(gemm, channel)
    tiles = -(-gemm.m // gemm.tile_m) * -(-gemm.n // gemm.tile_n) * gemm.instances
    work = -(-tiles // cores) * bounds.tile_cycles + gemm.latency
    beside = gemm.instances * gemm.beside(gemm.m, gemm.n)
    return max(work, bounds.held(bounds.a_bits + bounds.w_bits + beside + bounds.out_bits))

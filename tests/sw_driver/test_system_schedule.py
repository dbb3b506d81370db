"""A GEMM's schedule on buffers and one channel, and the search for the best."""

from __future__ import annotations

import random
from itertools import pairwise, product

import pytest

from sw_driver.system.schedule import (
    ORDERS,
    Blocking,
    Channel,
    Gemm,
    Sram,
    buffer_bytes,
    compute_cycles,
    extents,
    fits,
    makespan,
    traffic,
)
from sw_driver.system.search import Bounds, _Box, roofline, search
from sw_driver.system.timeline import Block, blocks, timeline

# Random cases ------------------------------------------------------------------------------------


def random_gemm(rng: random.Random, m: int = 14, n: int = 30, k: int = 40) -> Gemm:
    step = rng.choice([2, 4])
    grouped = rng.random() < 0.3
    found = Gemm(
        m=rng.randint(1, m),
        n=rng.randint(1, n),
        k=rng.randint(1, k),
        instances=rng.choice([1, 1, 2, 3, 7]),
        tile_m=rng.choice([1, 2, 3]),
        tile_n=rng.choice([1, 4, 5]),
        unit=rng.choice([step, 3, 2 * step + 1, 2 * step]) if grouped else step,
        step=step,
        max_steps=rng.randint(1, 6),
        start=rng.choice([0, 0, 3]),
        step_cycles=rng.randint(1, 4),
        latency=rng.randint(2, 9),
        grouped=grouped,
        a_bits=rng.choice([8, 8, 4, 0]),
        w_bits=rng.choice([4, 2, 0]),
        a_step_bits=step * 9,
        w_step_bits=step * 5,
        group_bits=rng.choice([0, 16]) if grouped else 0,
        wide_bits=rng.choice([24, 32]),
        out_num=rng.choice([8, 16, 33]),
        out_den=rng.choice([1, 4]),
        row_bits=rng.choice([0, 16]),
        column_bits=rng.choice([0, 16]),
    )
    kept = rng.random()
    if kept < 0.1:
        return found._replace(keep_a=True)
    return found._replace(keep_o=16, out_num=0) if kept < 0.2 else found


def random_cut(rng: random.Random, gemm: Gemm) -> Blocking:
    a, w, o = (rng.choice([1, 2]) for _ in range(3))
    pm, pn, pi = rng.choice([1, 1, 2]), rng.choice([1, 1, 3]), rng.choice([1, 1, 2])
    cut = Blocking(rng.choice(ORDERS), 1, 1, 1, a, w, o, pm, pn, pi)
    _, m, n, k = extents(gemm, cut)
    return cut._replace(bm=rng.randint(1, m), bn=rng.randint(1, n), bk=rng.randint(1, k))


def random_channel(rng: random.Random) -> Channel:
    return Channel(
        rng.choice([1, 4, 8, 64]),
        rng.choice([1, 1, 3, 8]),
        rng.choice([1, 2, 5]),
        rng.choice([0, 1, 7, 40]),
    )


# The recurrence ----------------------------------------------------------------------------------


def test_skipping_is_walking_through_every_stage() -> None:
    for seed in range(1500):
        rng = random.Random(seed)
        gemm, channel = random_gemm(rng), random_channel(rng)
        cut = random_cut(rng, gemm)
        line = timeline(gemm, cut, channel)
        where = (seed, gemm, cut, channel)
        assert makespan(gemm, cut, channel) == line.cycles, where
        held = traffic(gemm, cut, channel).channel
        assert held == sum(item.end - item.start for item in line.transfers), where
        assert compute_cycles(gemm, cut) == sum(item.end - item.begin for item in line.stages), (
            where
        )


def test_when_a_buffer_gets_free_is_part_of_what_repeats() -> None:
    """Two states that differ in nothing but the end of the last use of A's other buffer."""
    gemm = plain_gemm(12, 14, 12)._replace(
        instances=3, tile_n=1, max_steps=2, a_bits=4, w_bits=2, out_num=0, keep_o=16
    )
    cut, channel = Blocking("nkm", 2, 4, 3, 2, 2, 1), Channel(8, 1, 1, 40)
    assert makespan(gemm, cut, channel) == timeline(gemm, cut, channel).cycles


def _ordinals(every: list[Block], part: str) -> list[int]:
    """Which block of an operand a stage uses, counted as they come."""
    keys = [
        {
            "a": (item.instances, item.rows, item.units),
            "w": (item.instances, item.columns, item.units),
            "o": (item.instances, item.rows, item.columns),
        }[part]
        for item in every
    ]
    found = [0]
    for before, after in pairwise(keys):
        found.append(found[-1] + (before != after))
    return found


def stepped(gemm: Gemm, cut: Blocking, channel: Channel) -> int:
    """The cycles by a machine that goes cycle by cycle: buffers, a channel, cores."""
    every = list(blocks(gemm, cut))
    use = {part: _ordinals(every, part) for part in "awo"}
    depth = {"a": cut.a_buffers, "w": cut.w_buffers, "o": cut.o_buffers}
    last_use = {part: {block: i for i, block in enumerate(use[part])} for part in "awo"}
    ended: dict[int, int] = {}  # stages
    loaded: dict[tuple[str, int], int] = {}
    stored: dict[int, int] = {}

    def bits(part: str, i: int) -> int:
        item = every[i]
        count = item.instances[1] - item.instances[0]
        rows, columns = (hi - lo for lo, hi in (item.rows, item.columns))
        units = item.units[0], item.units[1] - item.units[0]
        if part == "a":
            return 0 if gemm.keep_a else count * gemm.a_size(rows, *units)
        if part == "w":
            return count * gemm.w_size(columns, *units)
        sums = count * rows * columns * gemm.wide_bits
        if part == "o":
            return (sums if units[0] else 0) + count * gemm.beside(rows, columns)
        done = item.units[1] == gemm.units
        return count * gemm.written(rows, columns) if done else sums

    queue: list[tuple[str, int, int]] = []  # what, of which block, cycles
    for i in range(len(every)):
        for part in sorted("wa", key=lambda part: -depth[part]):
            if i == 0 or use[part][i] != use[part][i - 1]:
                queue.append((part, use[part][i], channel.cycles(bits(part, i))))
        if i == 0 or use["o"][i] != use["o"][i - 1]:
            load = ("o", use["o"][i], channel.cycles(bits("o", i)))
            store = ("s", use["o"][i] - 1, channel.cycles(bits("s", i - 1))) if i else ("s", -1, 0)
            queue += [load, store] if cut.o_buffers == 2 else [store, load]
    queue.append(("s", use["o"][-1], channel.cycles(bits("s", len(every) - 1))))
    none = {(part, block) for part, block, size in queue if not size}

    def over(part: str, block: int, now: int) -> bool:
        """Whether the cores are done with a block; of results, whether they are out."""
        stage = last_use[part][block]
        behind = gemm.latency if part == "o" else 0
        return stage in ended and ended[stage] + behind <= now

    def place(block: int, now: int) -> bool:
        """Whether the buffer of a block of results is free."""
        before = block - depth["o"]
        return before < 0 or ("s", before) in none or stored.get(before, now + 1) <= now

    def may_start(what: str, block: int, now: int) -> bool:
        if what == "s":
            return over("o", block, now)
        if what == "o":
            alone = depth["o"] == 1 and block > 0
            return place(block, now) and (not alone or over("o", block - 1, now))
        before = block - depth[what]
        return before < 0 or over(what, before, now)

    def there(part: str, block: int, now: int) -> bool:
        if (part, block) in none:
            return True
        return loaded.get((part, block), now + 1) + channel.latency <= now

    now = free = stage = 0
    core_free = 0
    while queue or stage < len(every):
        while queue and free <= now:
            what, block, size = queue[0]
            if size and not may_start(what, block, now):
                break
            queue.pop(0)
            if size:
                free = now + size
                if what == "s":
                    stored[block] = free
                else:
                    loaded[what, block] = free
        if stage < len(every) and core_free <= now:
            have = all(there(part, use[part][stage], now) for part in "awo")
            if have and place(use["o"][stage], now):
                core_free = ended[stage] = now + every[stage].cycles
                stage += 1
                if core_free == now:
                    continue
        now += 1
    return max(free, core_free + gemm.latency)


def test_the_recurrence_is_what_a_machine_does_cycle_by_cycle() -> None:
    for seed in range(400):
        rng = random.Random(10_000 + seed)
        gemm, channel = random_gemm(rng, 7, 12, 14), random_channel(rng)
        cut = random_cut(rng, gemm)
        assert makespan(gemm, cut, channel) == stepped(gemm, cut, channel), (gemm, cut, channel)


def plain_gemm(m: int, n: int, k: int) -> Gemm:
    """INT8 × INT8 on a core of 2 × 4 outputs and 4 elements a step; nothing beside operands."""
    return Gemm(
        m=m, n=n, k=k, instances=1, tile_m=2, tile_n=4, unit=4, step=4, max_steps=100, start=0,
        step_cycles=1, latency=3, grouped=False, a_bits=8, w_bits=8, a_step_bits=32, w_step_bits=32,
        group_bits=0, wide_bits=32, out_num=8, out_den=1, row_bits=0, column_bits=0,
    )  # fmt: skip


def test_a_schedule_by_hand() -> None:
    """Two blocks of columns, a byte a cycle, ten cycles of latency."""
    gemm, channel = plain_gemm(2, 8, 8), Channel(1, 1, 1, 10)
    cut = Blocking("mnk", 1, 1, 2)
    line = timeline(gemm, cut, channel)
    # W of 32 bytes and A of 16 in cycles 0 to 47, there in 58; the second W in 48 to 79.
    assert [(item.kind, item.start, item.end) for item in line.transfers] == [
        ("w", 0, 32), ("a", 32, 48), ("w", 48, 80), ("store", 80, 88), ("store", 95, 103)
    ]  # fmt: skip
    assert [(item.ready, item.begin, item.end, item.done) for item in line.stages] == [
        (58, 58, 60, 63), (90, 90, 92, 95)
    ]  # fmt: skip
    assert makespan(gemm, cut, channel) == 103
    # One buffer for W: its second block waits for the end of the first stage.
    alone = cut._replace(w_buffers=1)
    assert timeline(gemm, alone, channel).transfers[2].start == 60
    assert makespan(gemm, alone, channel) == 60 + 32 + 10 + 2 + 3 + 8
    # Blocked along K from outside, sums go out and come back at 32 bits.
    moved = traffic(gemm, Blocking("knm", 1, 1, 1), channel)
    assert (moved.partial, moved.a, moved.w, moved.out) == (2 * 16 * 32, 128, 512, 128)


def test_a_70b_layer_takes_as_long_as_its_stages_say() -> None:
    """Millions of cycles in some dozen stages: against the walk, once."""
    gemm = plain_gemm(512, 2048, 4096)._replace(tile_n=64, unit=16, step=16)
    cut = Blocking("nmk", 16, 1, 4)
    channel = Channel(64, 5, 2, 50)
    assert makespan(gemm, cut, channel) == timeline(gemm, cut, channel).cycles


# The search --------------------------------------------------------------------------------------


def every_cut(gemm: Gemm, cores: int) -> list[Blocking]:
    """All there are: every size, order, number of buffers, and sharing of up to so many cores."""
    found = []
    for pm, pn, pi in product(range(1, cores + 1), repeat=3):
        if pm * pn * pi > cores:
            continue
        base = Blocking("mnk", 1, 1, 1, pm=pm, pn=pn, pi=pi)
        _, m, n, k = extents(gemm, base)
        for bm, bn, bk in product(range(1, m + 1), range(1, n + 1), range(1, k + 1)):
            for order, a, w, o in product(ORDERS, (1, 2), (1, 2), (1, 2)):
                found.append(Blocking(order, bm, bn, bk, a, w, o, pm, pn, pi))
    return found


def search_case(seed: int) -> tuple[Gemm, Channel, Sram, int]:
    rng = random.Random(seed)
    gemm = random_gemm(rng, 8, 12, 14)._replace(instances=rng.choice([1, 1, 2, 3]))
    sram = Sram(
        rng.choice([20, 60, 200]),
        rng.choice([20, 60, 200]),
        rng.choice([30, 90, 300]),
        rng.choice([0, 0, 100, 400]),
    )
    return gemm, random_channel(rng), sram, rng.choice([1, 1, 2, 3])


def check_search(seeds: range) -> None:
    """The search against all blockings; every bound against every schedule below it."""
    found_any = 0
    for seed in seeds:
        gemm, channel, sram, cores = search_case(seed)
        rng = random.Random(seed)
        bounds = Bounds(gemm, channel)
        best = None
        for cut in every_cut(gemm, cores):
            if not fits(gemm, cut, sram):
                continue
            cycles = makespan(gemm, cut, channel)
            best = cycles if best is None else min(best, cycles)
            size = cut.bm, cut.bn, cut.bk
            assert bounds.box(_Box(cut, size)) <= cycles, (seed, cut)
            if rng.random() < 0.05:
                _, *top = extents(gemm, cut)
                low = cut._replace(
                    bm=rng.randint(1, cut.bm), bn=rng.randint(1, cut.bn), bk=rng.randint(1, cut.bk)
                )
                high = tuple(rng.randint(a, b) for a, b in zip(size, top, strict=True))
                assert bounds.box(_Box(low, high)) <= cycles, (seed, low, high, cut)  # type: ignore[arg-type]
        found = search(gemm, channel, sram, cores, gap=0, effort=None)
        if best is None:
            assert found is None, seed
            continue
        assert found is not None, seed
        found_any += 1
        assert found.cycles == best == found.bound, (seed, found, best)
        assert makespan(gemm, found.cut, channel) == best
        assert fits(gemm, found.cut, sram)
        assert found.cut.cores <= cores
        assert roofline(gemm, channel, cores) <= best, seed
        soon = search(gemm, channel, sram, cores, gap=0.05, effort=40)
        assert soon is not None
        assert soon.bound <= best <= soon.cycles, seed
    assert found_any > len(seeds) // 2


def test_the_search_finds_the_best_of_all_blockings() -> None:
    check_search(range(5, 17))


@pytest.mark.nightly
def test_the_search_finds_the_best_of_all_blockings_of_many_gemms() -> None:
    check_search(range(1000, 1400))


def test_nothing_is_found_where_no_tile_fits() -> None:
    gemm = plain_gemm(8, 16, 16)
    assert search(gemm, Channel(1, 1, 1, 0), Sram(8, 16, 31)) is None
    assert search(gemm, Channel(1, 1, 1, 0), Sram(8, 16, 32)) is not None


def test_more_room_more_cores_and_more_bandwidth_do_no_harm() -> None:
    gemm = plain_gemm(64, 256, 128)
    few = search(gemm, Channel(16, 8, 1, 20), Sram(256, 512, 512), 1, gap=0, effort=None)
    room = search(gemm, Channel(16, 8, 1, 20), Sram(1024, 2048, 2048), 1, gap=0, effort=None)
    fast = search(gemm, Channel(16, 1, 1, 20), Sram(256, 512, 512), 1, gap=0, effort=None)
    many = search(gemm, Channel(16, 1, 1, 20), Sram(1024, 2048, 2048), 4, gap=0, effort=None)
    assert few
    assert room
    assert fast
    assert many
    assert few.cycles > room.cycles
    assert few.cycles > fast.cycles > many.cycles
    assert many.cut.cores == 4


def test_buffers_hold_what_the_blocks_say() -> None:
    gemm = plain_gemm(8, 16, 16)
    cut = Blocking("mnk", 2, 1, 3, 2, 1, 2, pm=2)
    # 8 rows of 12 bytes twice; 4 columns of 12 bytes; 8 × 4 sums of 32 bits twice.
    assert buffer_bytes(gemm, cut) == (192, 48, 256)
    assert fits(gemm, cut, Sram(192, 48, 256))
    assert not fits(gemm, cut, Sram(191, 48, 256))
    assert not fits(gemm, cut, Sram(0, 0, 0, 495))
    assert fits(gemm, cut, Sram(0, 0, 0, 496))

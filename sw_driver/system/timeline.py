"""The same schedule stage by stage: every transfer and every block with its cycles.

Written from the rules of ``docs/system.md`` on explicit lists, without the tables and the skipping
of :mod:`sw_driver.system.schedule`: tests hold the two together, and the check against RTL takes
its times from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from sw_driver.system.schedule import Blocking, Channel, Gemm, extents


@dataclass(frozen=True, kw_only=True)
class Block:
    """One stage's block: half-open ranges of rows, columns, units of K, and of instances."""

    instances: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    units: tuple[int, int]
    cycles: int


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What holds the channel in the cycles ``start`` to ``end - 1``.

    Attributes:
        kind: ``a``, ``w``, ``o`` (what results start from) or ``store``. stage: that it is for.
    """

    kind: str
    stage: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A block in time.

    Attributes:
        ready: first cycle in which its operands are there and its results have a place.
        begin: first cycle in which the cores take its operands; end: the first after the last.
        done: the first cycle after its last result.
    """

    block: Block
    ready: int
    begin: int
    end: int
    done: int


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A schedule in full; ``cycles`` is :func:`sw_driver.system.schedule.makespan`'s."""

    stages: tuple[Stage, ...]
    transfers: tuple[Transfer, ...]
    cycles: int


def blocks(gemm: Gemm, cut: Blocking) -> Iterator[Block]:
    """The blocks in the order of the stages."""
    rounds, m, n, k = extents(gemm, cut)
    steps = {"m": (m, cut.bm), "n": (n, cut.bn), "k": (k, cut.bk)}
    tall, wide = gemm.tile_m * cut.pm, gemm.tile_n * cut.pn
    for number in range(rounds):
        instances = (number * cut.pi, min((number + 1) * cut.pi, gemm.instances))
        for at in product(*(range(0, steps[dim][0], steps[dim][1]) for dim in cut.order)):
            low = dict(zip(cut.order, at, strict=True))
            high = {dim: min(low[dim] + steps[dim][1], steps[dim][0]) for dim in low}
            tiles = (high["m"] - low["m"]) * (high["n"] - low["n"])
            yield Block(
                instances=instances,
                rows=(low["m"] * tall, min(high["m"] * tall, gemm.m)),
                columns=(low["n"] * wide, min(high["n"] * wide, gemm.n)),
                units=(low["k"], high["k"]),
                cycles=tiles * gemm.k_cycles(low["k"], high["k"] - low["k"]),
            )


class _Dma:
    """The channel: transfers in the order in which they are asked for."""

    def __init__(self, channel: Channel):
        self.channel, self.free = channel, 0
        self.log: list[Transfer] = []

    def go(self, kind: str, stage: int, bits: int, earliest: int) -> int:
        """The end of a transfer that may not start before ``earliest``."""
        start = max(self.free, earliest)
        self.free = start + self.channel.cycles(bits)
        self.log.append(Transfer(kind=kind, stage=stage, start=start, end=self.free))
        return self.free


def timeline(gemm: Gemm, cut: Blocking, channel: Channel) -> Timeline:
    """Every stage and transfer of a schedule."""
    every = list(blocks(gemm, cut))
    dma = _Dma(channel)
    stages: list[Stage] = []
    # Per buffered operand the stages that used each of its blocks last, newest block at the end.
    uses: dict[str, list[tuple[object, int]]] = {"a": [], "w": []}
    stores: list[tuple[object, int]] = []  # the block of results, the end of its store
    depth = {"a": cut.a_buffers, "w": cut.w_buffers}
    for number, block in enumerate(every):
        count = block.instances[1] - block.instances[0]
        rows, columns = (span[1] - span[0] for span in (block.rows, block.columns))
        first, units = block.units[0], block.units[1] - block.units[0]
        keys = {
            "a": (block.instances, block.rows, block.units),
            "w": (block.instances, block.columns, block.units),
        }
        bits = {
            "a": 0 if gemm.keep_a else count * gemm.a_size(rows, first, units),
            "w": count * gemm.w_size(columns, first, units),
        }
        place = (block.instances, block.rows, block.columns)
        ready = 0
        for kind in sorted("wa", key=lambda kind: -depth[kind]):
            used = uses[kind]
            if used and used[-1][0] == keys[kind]:
                continue
            if bits[kind]:
                # The buffer is that of the block loaded ``depth`` blocks ago.
                free = stages[used[-depth[kind]][1]].end if len(used) >= depth[kind] else 0
                ready = max(ready, dma.go(kind, number, bits[kind], free) + channel.latency)
            used.append((keys[kind], number))
        moved = not stages or place != _place(every[number - 1])
        if moved:
            sums = count * rows * columns * gemm.wide_bits if first else 0
            load = sums + count * gemm.beside(rows, columns)
            if cut.o_buffers == 2:
                # That of the block before the last, whose own results are still to be written.
                earlier = stores[-1][1] if stores else 0
                if load:
                    ready = max(ready, dma.go("o", number, load, earlier) + channel.latency)
                ready = max(ready, earlier)
                _store(gemm, every, stages, stores, dma)
            else:
                _store(gemm, every, stages, stores, dma)
                free = stores[-1][1] if stores else 0
                if load:
                    emptied = stages[-1].done if stages else 0
                    ready = max(
                        ready, dma.go("o", number, load, max(free, emptied)) + channel.latency
                    )
                ready = max(ready, free)
        for kind in "aw":
            uses[kind][-1] = (uses[kind][-1][0], number)
        begin = max(ready, stages[-1].end if stages else 0)
        end = begin + block.cycles
        stages.append(
            Stage(block=block, ready=ready, begin=begin, end=end, done=end + gemm.latency)
        )
    _store(gemm, every, stages, stores, dma)
    return Timeline(
        stages=tuple(stages),
        transfers=tuple(item for item in dma.log if item.end > item.start),
        cycles=max(stages[-1].done, dma.log[-1].end if stores[-1][0] else 0),
    )


def _place(block: Block) -> tuple[tuple[int, int], ...]:
    """What block of results a stage works on."""
    return (block.instances, block.rows, block.columns)


def _store(
    gemm: Gemm,
    every: list[Block],
    stages: list[Stage],
    stores: list[tuple[object, int]],
    dma: _Dma,
) -> None:
    """Write the results of the last stage so far, if there is one: they leave their buffer."""
    if not stages:
        return
    block = stages[-1].block
    count = block.instances[1] - block.instances[0]
    rows, columns = (span[1] - span[0] for span in (block.rows, block.columns))
    if block.units[1] == gemm.units:
        bits = count * gemm.written(rows, columns)
    else:
        bits = count * rows * columns * gemm.wide_bits
    if bits:
        end = dma.go("store", len(stages) - 1, bits, stages[-1].done)
        stores.append((_place(block), end))
    else:
        stores.append((None, stores[-1][1] if stores else 0))

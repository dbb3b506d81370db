"""Memoised schedules: equal to the plain scheduler's, run by run, in whatever way orders come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.pim_channel import timing
from hw.blocks.pim_channel.orders import Op, Order
from hw.blocks.pim_channel.phases import Pace, Phase, Timeline
from hw.blocks.pim_channel.spec import PimChannelSpec
from hw.blocks.pim_channel.sweep import SWEEP
from hw.dram import Command


def spec_of(**fields: Any) -> PimChannelSpec:
    spec = spec_from_dict({"block": "pim_channel", "name": "dut", **fields})
    assert isinstance(spec, PimChannelSpec)
    return spec


def expanded(runs: np.ndarray) -> np.ndarray:
    """Every command: cycle, command, bank, row of activations, column."""
    count = runs[:, 5]
    index = np.repeat(np.arange(len(runs)), count)
    within = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
    found = np.stack(
        [
            runs[index, 0] + within * runs[index, 6],
            runs[index, 1],
            runs[index, 2],
            runs[index, 3],
            runs[index, 4] + within,
        ],
        axis=1,
    )
    found[~np.isin(found[:, 1], (Command.ACT, Command.ACTA)), 3] = 0
    return found


def compare(spec: PimChannelSpec, stream: list[tuple[list[Order], int, int | None]]) -> Timeline:
    """Phases one after another, each with the base of its rows and when it is offered."""
    pace = Pace(spec)
    line, light = Timeline(pace, keep=True), Timeline(pace)
    given: list[Order] = []
    accepted: list[int] = []
    phases: dict[tuple[Order, ...], Phase] = {}
    last = 0
    for orders, base, offered in stream:
        phase = phases.setdefault(tuple(orders), Phase(pace, orders))
        # First the one that does not list: the other would tell it what it knows.
        light.run(phase, base, offered)
        line.run(phase, base, offered)
        given += [order._replace(row=order.row + base) for order in orders]
        last = max(last, offered or 0)
        accepted += [last] * len(orders)
    plain = timing.schedule(spec, given, accepted=accepted)
    wanted = expanded(np.array(plain.runs, dtype=np.int64).reshape(-1, 7))
    np.testing.assert_array_equal(expanded(line.runs()), wanted)
    assert line.last == plain.cycles - 1
    assert (line.activates, line.precharges) == (plain.activates, plain.precharges)
    assert line.refreshes == plain.refreshes
    # Without a listing whole stretches are jumped over, to the same end.
    assert (light.state, light.last, light.given) == (line.state, line.last, line.given)
    assert (light.activates, light.precharges) == (line.activates, line.precharges)
    return line


def random_order(rng: np.random.Generator, spec: PimChannelSpec) -> Order:
    geometry = spec.geometry
    most = (16, geometry.total_banks + 1, 4, geometry.columns + 1, 14, 9, 3, 2, 4)
    return Order(*(int(rng.integers(0, high)) for high in most))


@pytest.mark.parametrize("index", range(len(SWEEP)))
@pytest.mark.parametrize("gap", [0, 40, 400])
def test_random_phases_are_the_scheduler_s(index: int, gap: int) -> None:
    """Streams of random orders, legal and not, again and again, with and without waiting."""
    spec = spec_of(**SWEEP[index])
    rng = np.random.default_rng([index, gap])
    kinds = [[random_order(rng, spec) for _ in range(int(rng.integers(1, 40)))] for _ in range(4)]
    stream: list[tuple[list[Order], int, int | None]] = []
    offered = 0
    for _ in range(60):
        # What waits comes some time behind the phase before it, or in its midst.
        offered += int(rng.integers(0, gap + 1)) * 10
        stream.append((kinds[int(rng.integers(4))], 0, offered if gap else None))
    line = compare(spec, stream)
    assert line.refreshes > 3


def test_layers_at_other_rows_are_counted_once() -> None:
    spec = spec_of(**{**SWEEP[2], "geometry": {**SWEEP[2]["geometry"], "rows": 4096}})
    layer = [Order(Op.WRITE_BUFFER, length=4)]
    for row in range(6):
        layer += [
            Order(Op.MAC_ALL, row=row, length=4, accumulator=0),
            Order(Op.READ_MAC),
            Order(Op.WRITE, bank=row % 2, row=row, column=1, length=2),
        ]
    # The row that the layer before has left open is the one below this one's first.
    line = compare(spec, [(layer, 6 * number, None) for number in range(100)])
    assert line.refreshes > 20
    # The same at every distance from a refresh.
    compare(spec, [(layer, 6 * number, 613 * number) for number in range(150)])
    # A few hundred results of orders stand for eight thousand orders.
    assert len(line.pace._parts) < 800


def test_where_an_order_crosses_into_the_next_row_counts() -> None:
    spec = spec_of(**SWEEP[0])
    orders = [
        Order(op, row=2, column=column, length=9)
        for op in (Op.MAC_ALL, Op.WRITE)
        for column in (1, 3, 7, 2, 7, 1)
    ]
    compare(spec, [(orders, 0, None)] * 30)


def test_a_row_that_stays_open_is_known_across_phases() -> None:
    spec = spec_of(**SWEEP[0])
    opened = [Order(Op.MAC_ALL, row=2, length=3)]
    inside = [Order(Op.WRITE_BUFFER, length=1), Order(Op.READ_MAC)]
    again = [Order(Op.MAC_ALL, row=1, length=2)]
    line = compare(spec, [(opened, 3, None), (inside, 5, None), (again, 4, None)])
    assert line.activates == 1
